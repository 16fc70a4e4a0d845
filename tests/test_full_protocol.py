"""The script for the paper's size, on a tiny model and a few texts."""

from __future__ import annotations

import json
from pathlib import Path

import full_protocol
import pytest
from conftest import tiny_model
from full_protocol import Protocol, main, protocol_splits
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase


@pytest.fixture
def small(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line for runs of a second; the script's model is a tiny one of six blocks."""
    config = tiny_model().config
    config.num_hidden_layers = 6
    monkeypatch.setattr(full_protocol, "load_model", lambda: (LlamaForCausalLM(config).eval(), tokenizer))
    monkeypatch.setattr("hyperfit_course.evaluation.NEW_TOKENS", 8)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(4):
        (corpus / f"{number}.txt").write_text(" ".join(f"{number}-{word}" for word in range(200)), encoding="utf-8")
    sizes = {
        "corpus": corpus,
        "texts": 8,
        "held-out": 8,
        "length": 48,
        "epochs": 2,
        "seeds": 1,
        "out": tmp_path / "out",
    }
    return [part for name, value in sizes.items() for part in (f"--{name}", str(value))]


@pytest.mark.filterwarnings("ignore:.*participation ratio")
def test_every_way_is_trained_and_recorded_once(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(small)
    rows = json.loads((tmp_path / "out" / "full_protocol.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["way"], row["prompts"]) for row in rows] == [
        (way, prompts) for way in ("base", "full", "last 5") for prompts in (str(tmp_path / "corpus"), "tales")
    ]
    base, full, late = rows[0], rows[2], rows[4]
    assert "history" not in base
    assert late["parameters"] < full["parameters"]
    for row in (full, late):
        assert row["evaluated_epochs"] == [0, 2]
        assert len(row["history"]["running_loss"]) == 2
        assert row["history"]["train_loss"][1] < row["history"]["train_loss"][0]
    monkeypatch.setattr(full_protocol, "hyperfit", lambda *_: pytest.fail("it was recorded already"))
    main(small)


def test_what_is_held_out_is_not_trained_on(
    small: list[str], tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    splits = protocol_splits(Protocol(str(tmp_path / "corpus"), texts=8, held_out=8, length=48), tokenizer)
    train, held_out = ({tuple(row) for row in splits[split].tolist()} for split in ("train", "validation"))
    assert len(train) == len(held_out) == 8
    assert not train & held_out


def test_runs_of_another_size_do_not_replace_the_recorded_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--texts", "16"])
    assert "name another folder with --out" in capsys.readouterr().err
