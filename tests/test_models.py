from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from conftest import FAMILIES, tiny_model
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from hyperfit_course import models
from hyperfit_course.models import (
    ModelError,
    begin_token,
    best_device,
    context_length,
    fingerprint,
    load_model,
    model_key,
)


@pytest.fixture
def folder(tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Path:
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable HF_HUB_OFFLINE is read when huggingface_hub is imported, so its result is set."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    add_begin: bool | None = None,
    split: str | None = None,
) -> None:
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
    if add_begin is not None:
        writer.add_add_bos_token(add_begin)
    if split:
        writer.add_tokenizer_pre(split)
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_in_the_precision_asked_for(folder: Path, dtype: torch.dtype) -> None:
    loaded, _ = load_model(folder, "cpu", dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert model_key(loaded)["dtype"] == str(dtype).removeprefix("torch.")


def test_other_precision_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be in torch.int8 here: choose torch.float32, torch.bfloat16 or"):
        load_model(folder, "cpu", torch.int8)


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
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert best_device() == torch.device(expected)


def test_each_of_several_processes_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert best_device() == torch.device("cuda:3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert best_device().type != "cuda"


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
    with pytest.raises(ModelError, match=r"has weights as \.bin only, and loading those may run code: save the model"):
        load_model(folder, "cpu")


def test_folder_without_a_tokenizer_is_named_as_that(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("[", encoding="utf-8")
    with pytest.raises(ModelError, match="has no tokenizer that can be loaded: save that of the model there too"):
        load_model(folder, "cpu")
    (folder / "tokenizer.json").unlink()  # of which transformers would make an empty one, without a word
    with pytest.raises(ModelError, match="has no tokenizer: save that of the model there too"):
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


def test_model_without_all_of_its_weights_is_refused(
    tmp_path: Path, folder: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    FAMILIES["llama"]().base_model.save_pretrained(tmp_path / "headless")
    tokenizer.save_pretrained(tmp_path / "headless")
    with pytest.raises(ModelError, match=r"no weights that fit lm_head\.weight: save the whole model again"):
        load_model(tmp_path / "headless")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 32}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"no weights that fit model\.layers\.\d\.mlp"):
        load_model(folder)


def test_package_that_a_model_needs_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object, **more: object) -> None:
        raise ImportError("It needs bitsandbytes: pip install bitsandbytes\nand more")

    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", fails)
    with pytest.raises(ModelError, match=r"another package: install it, .* \(It needs bitsandbytes.*bitsandbytes\)\."):
        load_model(folder)


def test_gguf_file_is_loaded_with_its_tokenizer(quantised: Path, model: PreTrainedModel) -> None:
    loaded, tokenizer = load_model(quantised, "cpu")
    tokens = torch.tensor([[65, 66, 200, 3, 65]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits)
    assert tokenizer.decode(tokenizer("A tale", add_special_tokens=False)["input_ids"]) == "A tale"
    assert loaded.generation_config.eos_token_id == 256


@pytest.mark.parametrize("forgets", [False, True], ids=["this version", "a version that does not ask the file"])
@pytest.mark.parametrize(
    ("add_begin", "split", "begins"),
    [
        (True, None, True),
        (True, "smollm", True),
        (False, "llama-bpe", False),
        (None, "smollm", False),
        (None, None, False),
        (None, "llama-bpe", True),
        (None, "tekken", True),
    ],
)
def test_gguf_file_says_whether_texts_begin_with_a_token(
    tmp_path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
    add_begin: bool | None,
    split: str | None,
    begins: bool,
    forgets: bool,
) -> None:
    load = AutoTokenizer.from_pretrained

    def forgetful(source: str, **options: str) -> PreTrainedTokenizerBase:
        loaded = load(source, **options)
        if "gguf_file" in options:
            loaded.add_bos_token = False
        return loaded

    if forgets:
        monkeypatch.setattr(models.AutoTokenizer, "from_pretrained", forgetful)
    write_gguf(tmp_path / "tiny.gguf", model, tokenizer, add_begin, split)
    for _ in range(2):  # converted, and from the cache
        _, loaded = load_model(tmp_path / "tiny.gguf", "cpu")
        assert begin_token(loaded) == (256 if begins else None)
        assert loaded("A tale")["input_ids"] == [256] * begins + tokenizer("A tale")["input_ids"]


def test_gguf_file_of_sentencepiece_begins_texts_with_a_token_unless_it_says_no(tmp_path: Path) -> None:
    for add_begin in (None, True, False):
        writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
        writer.add_tokenizer_model("llama")
        if add_begin is not None:
            writer.add_add_bos_token(add_begin)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        assert models._asks_for_begin_token(tmp_path / "a.gguf") == (add_begin is not False)


@pytest.mark.parametrize(
    ("template", "begin", "expected"),
    [
        ("<begin> $A", "<begin>", True),
        ("<begin> $A <end>", "<begin>", True),
        ("$A", "<begin>", False),  # GPT-2 and SmolLM2
        ("$A <end>", "<end>", False),
        ("$A", None, False),  # Qwen
        ("<begin> $A", "<end>", False),
    ],
)
def test_begin_token_is_what_the_saved_tokenizer_puts_before_a_text(
    folder: Path, tokenizer: PreTrainedTokenizerBase, template: str, begin: str | None, expected: bool
) -> None:
    raw = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    raw.add_special_tokens(["<end>", "<begin>"])
    tokens = [(token, raw.token_to_id(token)) for token in ("<end>", "<begin>")]
    raw.post_processor = TemplateProcessing(single=template, special_tokens=tokens)
    PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=begin, eos_token="<end>").save_pretrained(folder)
    loaded = load_model(folder, "cpu")[1]
    assert begin_token(loaded) == (loaded.convert_tokens_to_ids("<begin>") if expected else None)


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


@pytest.mark.parametrize("family", FAMILIES)
def test_key_is_the_same_for_a_saved_and_loaded_model(tmp_path: Path, family: str) -> None:
    model = FAMILIES[family]()
    key = model_key(model)
    assert json.loads(json.dumps(key)) == key == model_key(FAMILIES[family]())
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved").rename(tmp_path / "moved")
    assert model_key(load_model_alone(tmp_path / "moved")) == key
    assert key["dtype"] == "float32"
    assert key["weights"] == fingerprint(model)
    assert key["revision"] is None


def load_model_alone(folder: Path) -> PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


CHANGES: dict[str, Callable[[PreTrainedModel], object]] = {
    "weights": lambda model: model.model.norm.weight.data.mul_(1.001),
    "revision": lambda model: setattr(model.config, "_commit_hash", "0123abc"),
    "dtype weights": lambda model: model.bfloat16(),
    "config": lambda model: model.config.rope_parameters.update(rope_theta=20_000.0),
    "config ": lambda model: setattr(model.config, "rms_norm_eps", 1e-5),
    "generation": lambda model: setattr(model.generation_config, "eos_token_id", [256, 3]),
    "generation ": lambda model: setattr(model, "generation_config", None),
}


@pytest.mark.parametrize("parts", CHANGES)
def test_key_shows_what_differs_and_nothing_else(model: PreTrainedModel, parts: str) -> None:
    before = model_key(model)
    CHANGES[parts](model)
    after = model_key(model)
    assert {part for part in before if before[part] != after[part]} == set(parts.split())


def test_key_leaves_out_where_a_model_comes_from(model: PreTrainedModel) -> None:
    before = model_key(model)
    model.config._name_or_path = "owner/model"
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.transformers_version = "5.0.0"
    model.generation_config.transformers_version = "5.0.0"
    assert model_key(model) == before


def test_key_of_adapters_holds_their_weights_and_settings(model: PreTrainedModel) -> None:
    def key(**settings: int) -> dict[str, object]:
        torch.manual_seed(0)
        lora = LoraConfig(target_modules=["q_proj", "v_proj", "k_proj"], **settings)
        return model_key(get_peft_model(tiny_model(), lora))

    with_adapters = key(r=2, lora_alpha=4)
    assert json.loads(json.dumps(with_adapters)) == with_adapters == key(r=2, lora_alpha=4)
    other = key(r=2, lora_alpha=8)  # the same weights, used twice as strongly
    assert {part for part in other if other[part] != with_adapters[part]} == {"adapters"}
    assert with_adapters["weights"] != fingerprint(model)
    assert with_adapters["config"] == model_key(model)["config"]


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
