from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from conftest import tiny_model
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hyperfit_course import models
from hyperfit_course.models import ModelError, best_device, context_length, fingerprint, load_model


@pytest.fixture
def folder(tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Path:
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable HF_HUB_OFFLINE is read when huggingface_hub is imported, so its result is set."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def write_gguf(path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """A Llama model and its tokenizer as llama.cpp writes them, in float32."""
    writer, config = gguf.GGUFWriter(path, "llama"), model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    tokens = list(tokenizer.convert_ids_to_tokens(list(range(config.vocab_size))))
    tokens[tokens.index("ÿ")] = "xy"  # the format wants a merge; the byte 255 does not occur in UTF-8
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3])
    writer.add_token_merges(["x y"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(256)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":  # tied to the embedding
            array = tensor.numpy()
            for part, count in heads.items():  # llama.cpp keeps the two halves of a rotary pair side by side
                if part in name:
                    array = array.reshape(count, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
            writer.add_tensor(str(names.get_name(name, (".weight",))), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_saved_folder_is_loaded_as_it_was(folder: Path, model: PreTrainedModel) -> None:
    loaded, tokenizer = load_model(folder, "cpu")
    assert fingerprint(loaded) == fingerprint(model)
    assert tokenizer.decode(tokenizer("A tale")["input_ids"]) == "A tale"


def test_model_is_in_float32_and_evaluation_mode(folder: Path, model: PreTrainedModel) -> None:
    model.bfloat16().train().save_pretrained(folder)
    loaded, _ = load_model(folder, "cpu")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert not loaded.training


def test_name_may_be_a_string_and_begin_at_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert fingerprint(load_model("~/saved", "cpu")[0]) == fingerprint(load_model(str(folder), "cpu")[0])


def test_padding_token_is_set_where_the_tokenizer_has_none(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    without = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<end>")
    assert without.pad_token is None
    without.save_pretrained(folder)
    assert load_model(folder, "cpu")[1].pad_token == "<end>"


def test_padding_token_of_the_tokenizer_is_kept(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    other = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="<end>", pad_token="!"
    )
    other.save_pretrained(folder)
    assert load_model(folder, "cpu")[1].pad_token == "!"


def test_device_is_the_one_asked_for_or_the_best(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "best_device", lambda: torch.device("meta"))
    assert load_model(folder)[0].device.type == "meta"
    assert load_model(folder, "cpu")[0].device.type == "cpu"


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_best_device_prefers_cuda_then_mps(
    cuda: bool, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert best_device() == torch.device(expected)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", r"The folder .*empty holds no model \(no config.json\)"),
        ("missing.gguf", r"There is no file .*missing\.gguf: check the path"),
        ("nobody/no-such-model", "'nobody/no-such-model' is neither a folder here nor .* check the spelling and the"),
        ("no such model!", "'no such model!' is neither a folder here nor"),
    ],
)
def test_name_that_leads_nowhere_is_answered_in_one_sentence(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=message) as caught:
        load_model(name, "cpu")
    assert "\n" not in str(caught.value)


def test_weights_in_a_pickle_are_refused(folder: Path, model: PreTrainedModel) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="holds no model that transformers can load from safetensors"):
        load_model(folder, "cpu")


def test_code_that_comes_with_a_model_is_not_run(folder: Path, tmp_path: Path) -> None:
    config = (folder / "config.json").read_text().replace('"model_type": "llama"', '"model_type": "made_up"')
    auto = '"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},'
    (folder / "config.json").write_text(config.replace("{", "{" + auto, 1))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')")
    with pytest.raises(ModelError, match="holds no model that transformers can load"):
        load_model(folder, "cpu")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 100),
        lambda folder: (folder / "config.json").write_text('{"model_type": "lla'),
    ],
    ids=["weights", "config"],
)
def test_damaged_folder_is_reported(folder: Path, damage: object) -> None:
    damage(folder)  # type: ignore[operator]
    with pytest.raises(ModelError, match=f"The folder {folder} holds no model"):
        load_model(folder, "cpu")


@pytest.fixture
def quantised(tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Path:
    write_gguf(tmp_path / "tiny.gguf", model, tokenizer)
    return tmp_path / "tiny.gguf"


def test_gguf_file_is_loaded_with_its_tokenizer(quantised: Path, model: PreTrainedModel) -> None:
    loaded, tokenizer = load_model(quantised, "cpu")
    tokens = torch.tensor([[65, 66, 200, 3, 65]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits)
    assert tokenizer.decode(tokenizer("A tale", add_special_tokens=False)["input_ids"]) == "A tale"
    assert loaded.generation_config.eos_token_id == 256


def test_gguf_file_is_converted_once(quantised: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = load_model(quantised, "cpu")
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: pytest.fail("it was converted again"))
    moved = quantised.rename(quantised.with_name("renamed.gguf"))
    assert fingerprint(load_model(moved, "cpu")[0]) == fingerprint(first)


def test_embedded_model_is_loaded_without_a_name(quantised: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "fetch", {"model": quantised}.__getitem__)
    assert fingerprint(load_model(device="cpu")[0]) == fingerprint(load_model(quantised, "cpu")[0])


def test_file_that_is_no_gguf_model_is_reported_and_not_kept(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"this is no model" * 10)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"The file .*broken\.gguf is no GGUF model"):
            load_model(path, "cpu")
    assert not [path for path in (cache / "models").iterdir() if path.is_dir() and path.suffix != ".work"]


def test_fingerprint_is_equal_for_equal_models_only(model: PreTrainedModel) -> None:
    before = fingerprint(model)
    assert before == fingerprint(tiny_model()) != fingerprint(tiny_model(seed=1))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] += 1e-6
    assert fingerprint(model) != before


def test_fingerprint_tells_apart_equal_weights_in_other_places(model: PreTrainedModel) -> None:
    before, (first, second) = fingerprint(model), model.model.layers
    model.model.layers = torch.nn.ModuleList([second, first])
    assert fingerprint(model) != before


def test_fingerprint_takes_counters(model: PreTrainedModel) -> None:
    model.register_buffer("steps", torch.tensor(3))  # without a dimension, as in batch normalisation
    assert fingerprint(model) != fingerprint(tiny_model())


def test_context_length_is_read_under_either_name(model: PreTrainedModel) -> None:
    assert context_length(model) == 128
    config = GPT2Config(vocab_size=10, n_positions=64, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    assert context_length(GPT2LMHeadModel(config)) == 64


def test_model_without_a_limit_has_a_context_longer_than_any_text() -> None:
    config = BloomConfig(
        vocab_size=10, hidden_size=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    assert context_length(BloomForCausalLM(config)) > 10**9


@pytest.mark.parametrize("bars", [True, False])
def test_progress_bars_are_left_as_they_were(folder: Path, bars: bool) -> None:
    logging, before = transformers.utils.logging, transformers.utils.logging.is_progress_bar_enabled()
    try:
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
        load_model(folder, "cpu")
        assert logging.is_progress_bar_enabled() == bars
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()
