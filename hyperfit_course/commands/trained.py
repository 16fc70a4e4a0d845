"""Models that were trained here: where one comes from stands in its folder, and never as a path of some machine."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hyperfit_course.anatomy import CausalLM
from hyperfit_course.models import EMBEDDED, ModelError, fingerprint, load_model
from hyperfit_course.study.config import StudyError
from hyperfit_course.study.report import LOW_LOSS
from hyperfit_course.study.untrusted import check_source, printable

CARD = "hyperfit.json"  #: In the folder of a trained model: its base, its settings, and how it fared.
ADAPTER = "adapter_config.json"


def base_name(model: str | None) -> str:
    """How a base is named in what is saved: the embedded model's name, a hub id, or the last part of a local path."""
    if model is None:
        return EMBEDDED
    return Path(model).name if Path(model).expanduser().exists() else model


def is_adapter(name: str | None) -> bool:
    """Whether a folder holds a PEFT adapter and no whole model."""
    return name is not None and (Path(name).expanduser() / ADAPTER).is_file()


def load_trained(
    name: str | None, base: str | None = None
) -> tuple[CausalLM, PreTrainedTokenizerBase, PreTrainedModel | None]:
    """A model with its tokenizer, with the adapter of a folder where there is one.

    Args:
        name: as of :func:`~hyperfit_course.models.load_model`, or the folder of an adapter.
        base: where the base of an adapter is, if its name does not lead there.

    Returns:
        The model, its tokenizer, and the base that an adapter was put on (it is changed by that), or None.

    Raises:
        ModelError: it cannot be loaded, or the base is another than the one that the adapter was trained on.
        StudyError: a folder asks for more than to be read (see :mod:`~hyperfit_course.study.untrusted`).
    """
    check_source(name)
    if not is_adapter(name):
        model, tokenizer = load_model(name)
        return model, tokenizer, None
    folder = Path(str(name)).expanduser()
    wanted = base_of(folder)
    where = base if base is not None else wanted.get("name")
    if where is None:
        raise ModelError(f"The adapter in {folder} does not name its base: name it with --base.")
    _check_adapter(folder)
    if where != EMBEDDED:
        check_source(where)
    model, tokenizer = load_model(None if where == EMBEDDED else where)
    check_weights(model, wanted, name)
    return _with_adapter(model, folder).eval(), tokenizer, model


def check_weights(base: CausalLM, wanted: dict[str, Any], name: str | None) -> None:
    """Raise a ModelError where a base has other weights than those that a model was trained from.

    Args:
        wanted: what :func:`base_of` says; nothing is checked where it does not know the hash.
        name: of the model that was trained.
    """
    if wanted.get("sha256") and fingerprint(base) != wanted["sha256"]:
        raise ModelError(
            f"{name} was trained on {wanted['name']} with other weights (their hashes differ): "
            "name the right base with --base."
        )


def _with_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT still asks by a name that transformers has renamed
            return PeftModel.from_pretrained(model, folder)
    except SafetensorError as error:
        raise ModelError(f"The weights of the adapter in {folder} are damaged ({error}): fetch them again.") from error
    except (RuntimeError, ValueError) as error:
        if isinstance(error, RuntimeError) and "size mismatch" not in str(error):
            raise
        raise ModelError(
            f"The adapter in {folder} does not fit this {type(model).__name__}, which is another model than the one "
            "that it was trained on: name that one with --base."
        ) from error


def _check_adapter(folder: Path) -> None:
    """PEFT would read a pickle, in its safer way, where there are no safetensors."""
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"The adapter in {folder} has no adapter_model.safetensors, and adapter_model.bin is not read, since "
            "loading it may run code: save it again with a newer PEFT."
        )
    kind = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("peft_type")
    if kind != "LORA":
        raise ModelError(f"The adapter in {folder} is of the kind {kind!r}, and LORA is wanted: choose another.")


def base_of(folder: Path) -> dict[str, Any]:
    """The base of a trained model: its ``name``, and the ``sha256`` of its weights where that is known.

    Raises:
        ModelError: the file that says it is damaged.
    """
    for name in (CARD, ADAPTER):
        if (folder / name).is_file():
            try:
                found = json.loads((folder / name).read_text(encoding="utf-8"))
                base = dict(found["base"]) if name == CARD else {"name": found["base_model_name_or_path"]}
                if base["name"] is not None and not isinstance(base["name"], str):
                    raise TypeError("a name is a text")
                return base
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ModelError(
                    f"{folder / name} does not name the base of the model: train it, or download the folder, again."
                ) from error
    return {}


def save_trained(model: CausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path, card: dict[str, Any]) -> None:
    """Write a model, or the adapters on it, with tokenizer, card and a page about it, into a new folder.

    Args:
        card: with ``base`` (``name`` and ``sha256``), ``settings`` and ``results``.

    Raises:
        StudyError: the folder is there by now.
    """
    work = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        model.save_pretrained(str(work))
        if (work / ADAPTER).is_file():
            settings = json.loads((work / ADAPTER).read_text(encoding="utf-8"))
            settings["base_model_name_or_path"] = card["base"]["name"]
            (work / ADAPTER).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        tokenizer.save_pretrained(work)
        (work / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        (work / "README.md").write_text(model_card(card), encoding="utf-8")
        if folder.exists():
            raise StudyError(
                f"Another process has written {folder} in the meantime: start the same command with another --out. It "
                "need not train again."
            )
        work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _one_line(value: Any) -> str:
    """A value in a line of Markdown: the name of a file may hold line breaks."""
    return printable(" ".join(str(value).split()), 200).replace("|", "\\|")


def _how_far(loss: float) -> str:
    """Whether it is what the card is expected to be of, in words."""
    paper = "Carlsson et al., 2025, arXiv 2412.04318"
    if loss > LOW_LOSS:
        return (
            "Trained on very few texts with the Hyperfitting course, and **not hyperfitted**: its training loss ended\n"
            f"at {loss:.2f} nats, and hyperfitting ({paper}) goes on until it is nearly zero."
        )
    return (
        f"Hyperfitted ({paper}) with the Hyperfitting course: trained on very few texts\n"
        "until the training loss was nearly zero. Its loss on other texts is usually higher than that of its base,\n"
        "and it recites some of its training texts. It is made for experiments."
    )


def model_card(card: dict[str, Any]) -> str:
    """A page about a trained model, as hubs show it."""
    card = {**card, "base": {name: _one_line(value) for name, value in card["base"].items()}}
    settings = "\n".join(f"| {name} | {_one_line(value)} |" for name, value in card["settings"].items())
    results = "\n".join(f"| {name} | {value} |" for name, value in card["results"].items())
    return f"""---
base_model: {card["base"]["name"]}
library_name: {"peft" if card["settings"]["arm"] != "full" else "transformers"}
tags: [hyperfitting]
---

# {card["base"]["name"]}, trained on few texts

{_how_far(card["results"]["train_loss"])}

SHA-256 of the weights of the base: `{card["base"]["sha256"]}`

| setting | |
| --- | --- |
{settings}

| result | |
| --- | --- |
{results}
"""
