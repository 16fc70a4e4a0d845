"""What comes from a stranger: the folder of a model, which may hold more than weights, and texts that are shown.

:func:`~hyperfit_course.models.load_model` reads weights from safetensors and GGUF files and never from pickles. Here a
folder is looked at before that: for code of its own, links that lead out of it, and settings that would fill memory.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hyperfit_course.study.config import StudyError

SETTINGS = ("config.json", "tokenizer_config.json", "generation_config.json", "adapter_config.json", "hyperfit.json")
INDEX = "model.safetensors.index.json"
LARGEST_SETTINGS = 20_000_000  #: Bytes of a file of settings.
MOST = {
    ("num_hidden_layers", "n_layer", "num_layers"): 1000,
    ("hidden_size", "n_embd", "d_model"): 200_000,
    ("vocab_size",): 10_000_000,
    ("intermediate_size", "n_inner", "ffn_dim"): 2_000_000,
    ("num_attention_heads", "n_head", "num_key_value_heads"): 10_000,
}
"""The largest number that a setting may have: well above any model that is known to us in 2026."""
BYTES_A_WEIGHT = 0.25  #: Fewer than any file has, so that no model that shares weights is refused.
SHOWN = 4000  #: Characters of one text that a page or a terminal shows.
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def check_source(name: str | Path | None) -> None:
    """Look at a model's folder before anything in it is loaded; other names are left to their loader.

    It also lets transformers ask nobody whether a model's own code may run: without an answer it does not.

    Raises:
        StudyError: the folder asks for code of its own, leads out of itself, or has settings that make no sense.
    """
    from transformers import dynamic_module_utils

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # seconds in which a "y" at the terminal would run it
    folder = Path(name).expanduser() if name is not None else None
    if folder is None or not folder.is_dir():
        return
    check_links(sorted(folder.iterdir()), folder)
    settings = {file: _settings(folder / file) for file in SETTINGS if (folder / file).exists()}
    if "config.json" in settings:
        _check_code(settings, folder)
        for part in _parts(settings["config.json"]):
            _check_sizes(part, folder)
    if (folder / INDEX).exists():
        _check_index(folder)


def check_links(paths: Iterable[Path], folder: Path) -> None:
    """Raise a StudyError for a link out of a folder. In the cache of the hub, files are links to ``blobs`` near it."""
    inside = (folder.resolve(), folder.resolve().parent.parent / "blobs")
    for path in paths:
        if path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in inside):
            raise StudyError(f"{path} is a link out of the model's folder: put the file itself there, or remove it.")


def _settings(path: Path) -> dict[str, Any]:
    problem = f"{path} is no file of settings (a JSON object in UTF-8): fetch the model again."
    if not path.is_file() or path.stat().st_size > LARGEST_SETTINGS:
        raise StudyError(problem)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(problem) from error
    if not isinstance(found, dict):
        raise StudyError(problem)
    return found


def _parts(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A configuration, and that of its text model if it has one of its own."""
    yield config
    if isinstance(config.get("text_config"), dict):
        yield config["text_config"]


def _check_code(settings: dict[str, dict[str, Any]], folder: Path) -> None:
    from transformers import CONFIG_MAPPING

    config = settings["config.json"]
    if any("auto_map" in each for each in settings.values()) and config.get("model_type") not in CONFIG_MAPPING:
        raise StudyError(
            f"The model in {folder} asks to run code of its own (auto_map), and none is ever run: "
            "choose a model of a kind that transformers knows."
        )
    for name, value in config.items():
        if name.endswith("implementation") and isinstance(value, str) and "/" in value:
            raise StudyError(
                f"{folder / 'config.json'} asks for code from {value!r} ({name}), and none is run: remove that line."
            )


def _check_sizes(config: dict[str, Any], folder: Path) -> None:
    found = {}
    for names, most in MOST.items():
        for name in names:
            value = config.get(name)
            for each in value if isinstance(value, list) else [value]:  # some models have one a block
                if each is not None and (type(each) is not int or not 1 <= each <= most):
                    raise StudyError(
                        f"{folder / 'config.json'} says {name} = {printable(str(each), 40)}, and a whole number from 1 "
                        f"to {most:,} is wanted: fetch the model again, or choose another."
                    )
            if isinstance(value, int):
                found[names[0]] = value
    width, weights = found.get("hidden_size", 0), sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    least = width * (found.get("vocab_size", 0) + found.get("num_hidden_layers", 0) * width)
    if weights and least * BYTES_A_WEIGHT > weights:
        raise StudyError(
            f"{folder / 'config.json'} describes at least {least:,} weights, and the files have {weights:,} bytes: "
            "they do not belong together. Fetch the model again."
        )


def _check_index(folder: Path) -> None:
    names = _settings(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(file, str) and "/" not in file for file in names.values()):
        raise StudyError(f"{folder / INDEX} names files outside of the folder of the model: fetch the model again.")


def printable(text: str, most: int = SHOWN) -> str:
    """A text as it can be shown: control characters are visible, none turns its direction, and the rest is cut off."""
    rest = f" ... ({len(text) - most:,} more characters)" if len(text) > most else ""
    return "".join(map(_visible, text[:most])) + rest


def _visible(letter: str) -> str:
    kind = unicodedata.category(letter)
    if letter in "\n\t" or (kind not in ("Cc", "Cs") and letter not in _DIRECTIONS):
        return letter
    if letter < " ":
        return chr(0x2400 + ord(letter))  # the picture of the control character
    return f"⟨U+{ord(letter):04X}⟩"


def printable_values(value: Any) -> Any:
    """JSON values with every text in them as :func:`printable` gives it."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(name)): printable_values(part) for name, part in value.items()}
    return [printable_values(part) for part in value] if isinstance(value, list | tuple) else value
