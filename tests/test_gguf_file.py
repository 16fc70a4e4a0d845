"""A trained model as a GGUF file: the weights in the place of those of another file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from samples import sharper
from test_models import write_gguf as write_template
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hyperfit_course.cli import main
from hyperfit_course.commands.gguf_file import template_for, write_gguf
from hyperfit_course.models import begin_token, load_model
from hyperfit_course.study.config import StudyError


@pytest.fixture
def template(tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Path:
    """The GGUF file of an untrained model."""
    write_template(tmp_path / "base.gguf", model, tokenizer, add_begin=True)
    return tmp_path / "base.gguf"


@pytest.mark.parametrize(("precision", "error"), [("f32", 0.0), ("f16", 1e-3), ("q8_0", 2e-2)])
def test_written_weights_come_back_with_the_tokenizer_of_the_base(
    precision: str, error: float, template: Path, tmp_path: Path
) -> None:
    trained = sharper(tiny_model(seed=5), 2)
    write_gguf(trained, template, tmp_path / "tuned.gguf", precision)
    loaded, tokenizer = load_model(tmp_path / "tuned.gguf", "cpu")
    for name, expected in trained.state_dict().items():
        found = loaded.state_dict()[name]
        assert (found - expected).abs().max() <= error * expected.abs().max(), name
    assert begin_token(tokenizer) == 256, "the file's rule about the beginning is lost"


def test_file_of_another_model_is_refused_and_nothing_is_left(template: Path, tmp_path: Path) -> None:
    config = tiny_model().config
    config.num_hidden_layers = 3
    deeper = type(tiny_model())(config)
    with pytest.raises(StudyError, match=r"of another model .*: name the file of the right base"):
        write_gguf(deeper, template, tmp_path / "tuned.gguf", "f32")
    assert sorted(path.name for path in tmp_path.glob("*.gguf*")) == ["base.gguf"]


def test_base_that_is_no_gguf_file_is_refused_with_another_way(template: Path, tmp_path: Path) -> None:
    assert template_for(str(template)) == template
    assert template_for("owner/model", str(template)) == template
    with pytest.raises(StudyError, match=r"convert_hf_to_gguf\.py"):
        template_for("owner/model")


def test_adapter_on_a_gguf_base_becomes_one_file(template: Path, tmp_path: Path) -> None:
    adapter, out = str(tmp_path / "adapter"), str(tmp_path / "tuned.gguf")
    few = ["--train_texts", "4", "--epochs", "3", "--learning_rate", "1e-2"]
    assert main(["train", "--model", str(template), "--arm", "last1", "--out", adapter, *few]) == 0
    assert main(["export", adapter, "--base", str(template), "--to", "gguf", "--out", out]) == 0
    ids = torch.arange(10)[None]
    with torch.no_grad():
        tuned, base = (load_model(path, "cpu")[0](input_ids=ids).logits for path in (out, template))
    assert not torch.allclose(tuned, base)
