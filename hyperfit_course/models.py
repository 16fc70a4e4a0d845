"""Which model, and where? Loading a causal language model and its tokenizer by any of the usual names."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from hyperfit_course.anatomy import CausalLM, unwrapped
from hyperfit_course.artifacts import artifact, sha256_file
from hyperfit_course.assets import fetch

EMBEDDED = "SmolLM2-135M-Instruct"
"""The model of the course, of 30 blocks, width 576 and 49,152 tokens, from the file that the asset ``model`` names."""

HALF = {torch.bfloat16: "bf16", torch.float16: "fp16"}  #: Types of two bytes a number, and Accelerate's words for them.
NO_CODE: dict[str, Any] = {"trust_remote_code": False}
VOCABULARIES = ("tokenizer.json", "*.model", "vocab*", "*.tiktoken", "tekken.json")
"""Files that hold a tokenizer's vocabulary. Without one, transformers makes an empty tokenizer of some kinds."""

# What a saved configuration says about itself and not about the model; the precision has a place of its own.
_LABEL = re.compile(
    r"_.*|architectures|auto_map.*|base_model_name.*|inference_mode|revision|(torch_)?dtype|(peft|transformers)_version"
)


class ModelError(ValueError):
    """A model cannot be loaded; the message says why and what to do."""


def best_device() -> torch.device:
    """The GPU where there is one (CUDA, then Apple's MPS), else the CPU. Of several processes, each has its own GPU."""
    if torch.cuda.is_available():
        return torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def load_model(
    name: str | Path | None = None, device: str | torch.device | None = None, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in evaluation mode, with its tokenizer.

    No code that comes with a model is ever run (``trust_remote_code`` is off), and weights are read from
    safetensors or GGUF files only, never from pickles.

    Args:
        name: nothing for the embedded model (fetched and de-quantised on the first call); else a local folder,
            a GGUF file, or the id of a model on the Hugging Face hub.
        device: where to put it; :func:`best_device` by default.
        dtype: of its weights. ``torch.bfloat16`` or ``torch.float16`` take half the memory, with 3 or 4 digits.

    Raises:
        ModelError: the name leads to no model that can be loaded, or the dtype is another.
        AssetError, CacheError: the embedded model cannot be fetched or kept.
    """
    if dtype not in HALF and dtype != torch.float32:
        raise ModelError(f"Weights cannot be in {dtype} here: choose torch.float32, torch.bfloat16 or torch.float16.")
    source, path = _place_of(name)
    with _loading(source, path, "model"):
        options = {"dtype": dtype, "use_safetensors": True, "ignore_mismatched_sizes": True} | NO_CODE
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **options)
    model, found = loaded
    if faulty := [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]:
        raise ModelError(f"{source} has no weights that fit {faulty[0]}: save the whole model again, with its head.")
    tokenizer = _tokenizer_at(source, path)
    model.to(device or best_device())
    return model.eval(), tokenizer


def load_tokenizer(name: str | Path | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that :func:`load_model` can load, without the model.

    Raises:
        ModelError, AssetError, CacheError: as there.
    """
    return _tokenizer_at(*_place_of(name))


def _tokenizer_at(source: str, path: Path) -> PreTrainedTokenizerBase:
    with _loading(source, path, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source, **NO_CODE)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _place_of(name: str | Path | None) -> tuple[str, Path]:
    """What transformers has to be told to load a model, and the same as a path, which may not be there."""
    path = fetch("model") if name is None else Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"There is no file {path}: check the path of the GGUF model.")
        path = _dequantised(path)
    elif path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"The folder {path} holds no model (no config.json): name the folder of a saved model.")
    elif any(path.glob("*.safetensors")) and not any(file for pattern in VOCABULARIES for file in path.glob(pattern)):
        raise ModelError(f"The folder {path} has no tokenizer: save that of the model there too.")
    return (str(path) if path.is_dir() else str(name)), path


@contextlib.contextmanager
def _loading(source: str, path: Path, part: str) -> Iterator[None]:
    """Turn what transformers raises while it loads into one sentence that says what to do."""
    try:
        with _no_progress_bars():
            yield
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise ModelError(_why_not(source, path, part, error)) from error


def _why_not(source: str, path: Path, part: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if path.is_dir() and any(path.glob("*.bin")) and not any(path.glob("*.safetensors")):
        return (
            f"The folder {path} has weights as .bin only, and loading those may run code: save the model there again "
            "with save_pretrained."
        )
    if isinstance(error, ImportError):
        other = "" if part == "tokenizer" else ", or choose a model that is not quantised"
        return f"{source} needs another package: install it{other} ({reason})."
    if path.is_dir() and part == "tokenizer":
        return f"The folder {path} has no tokenizer that can be loaded: save that of the model there too ({reason})."
    if part == "tokenizer":
        return f"The model {source!r} has no tokenizer that can be loaded: choose one that has ({reason})."
    if path.is_dir():
        return f"The folder {path} holds no model that transformers can load from safetensors: save it anew ({reason})."
    return (
        f"The model {source!r} is neither a folder here nor to be had from the Hugging Face hub: check the spelling "
        f"and the network, or leave the name out to get the embedded {EMBEDDED} ({reason})."
    )


def _dequantised(gguf: Path) -> Path:
    """Folder with the float32 safetensors of a GGUF file, made once (half a minute for 135M parameters)."""

    def make(folder: Path) -> None:
        print(f"De-quantising {gguf.name} to float32, once (about half a minute) ...", flush=True)
        try:
            with _no_progress_bars():
                folder_name, file = str(gguf.parent), gguf.name
                options = {"gguf_file": file, **NO_CODE}
                quantised = AutoModelForCausalLM.from_pretrained(folder_name, dtype=torch.float32, **options)
                tokenizer = AutoTokenizer.from_pretrained(folder_name, **options)
        except Exception as error:  # transformers and gguf raise many kinds for a broken file
            raise ModelError(
                f"The file {gguf} is no GGUF model: fetch it again, or choose another ({error})."
            ) from error
        # transformers refuses to save what came from a GGUF file: move the weights to a model without that mark.
        config = copy.deepcopy(quantised.config)
        del config.quantization_config
        model = AutoModelForCausalLM.from_config(config)
        model.load_state_dict(quantised.state_dict())
        model.generation_config = quantised.generation_config
        with _no_progress_bars():
            model.save_pretrained(folder)
        if _asks_for_begin_token(gguf):
            tokenizer.add_bos_token = True  # type: ignore[misc]  # mypy does not see its setter
        tokenizer.save_pretrained(folder)

    return artifact("models", {"gguf": sha256_file(gguf), "dtype": "float32", "begin": "as the file says"}, make)


def _asks_for_begin_token(gguf: Path) -> bool:
    """What a GGUF file says, by the rules of llama.cpp. Some versions of transformers do not ask."""
    from gguf import GGUFReader  # only needed here

    fields = GGUFReader(gguf).fields
    names = ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.model", "tokenizer.ggml.pre")
    told, kind, split = (fields[name].contents() if name in fields else None for name in names)
    # Files of SentencePiece, of Llama 3 and of Mistral's "tekken" may say nothing and mean yes.
    return bool(told) if told is not None else kind == "llama" or split in ("llama-bpe", "tekken")


def begin_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that every text of a tokenizer's model has to begin with, or None if there is none.

    It is the begin-of-text token, if the tokenizer puts it before a text by itself. Gemma, Llama and Mistral are
    trained with it and read badly without; GPT-2 and SmolLM2 have such a token and do not use it.
    """
    first = tokenizer("A text.")["input_ids"][0]
    return int(first) if first == tokenizer.bos_token_id else None


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Silence the loading bars of transformers, and only while loading."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names and values of all weights: equal for equal models, wherever they were loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def model_key(model: CausalLM) -> dict[str, Any]:
    """Everything that decides what a model computes and writes, as JSON values: equal keys, equal models.

    Returns:
        ``weights`` (the :func:`fingerprint`), ``revision`` (the commit on the hub, or None), ``dtype``, ``config``
        and ``generation`` (the settings of both, or None), ``adapters`` (those of PEFT, and for each map how strong
        they are and which are on; empty without).
    """
    inner = unwrapped(model)
    generation, adapters = inner.generation_config, getattr(model, "peft_config", {})
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    return {
        "weights": fingerprint(model),
        "revision": getattr(inner.config, "_commit_hash", None),
        "dtype": str(inner.dtype).removeprefix("torch."),
        "config": _settings(inner.config),
        "generation": generation and _settings(generation),
        "adapters": [*map(_settings, adapters.values()), *map(_at_work, layers)],
    }


def _at_work(layer: BaseTunerLayer) -> str:
    return str([layer.active_adapters, layer.disable_adapters, layer.merged_adapters, getattr(layer, "scaling", None)])


def _settings(config: Any) -> dict[str, Any]:
    """A configuration as JSON values, without its labels."""
    text = json.dumps(config.to_dict(), default=lambda value: sorted(value) if isinstance(value, set) else str(value))
    return json.loads(text, object_hook=lambda part: {k: v for k, v in part.items() if not _LABEL.fullmatch(k)})


def context_length(model: CausalLM) -> int:
    """Most tokens that the model can read at once, as its configuration says (GPT-2 calls it ``n_positions``)."""
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", 0) or 1 << 30)
