"""What each subcommand can be told: one record each, with its lines of help. Nothing heavy is imported."""

# ruff: noqa: RUF009 - the functions that are called in the records make fields

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hyperfit_course.study.config import about


def _needed(text: str) -> Any:
    return field(metadata={"help": text})


POSITIONAL = {
    "generate": ("tuned",),
    "compare": ("a", "b"),
    "export": ("model",),
    "cache": ("action",),
    "grade": ("submissions",),
}
"""What a command is told without the name of an option."""

MODEL = "hub id, folder, GGUF file, or what 'hyperfit train' wrote; the course's model if left out"


@dataclass(frozen=True)
class Training:
    """Options of ``hyperfit train``."""

    out: Path = _needed("the folder that the trained model or adapter goes to; it must not be there yet")
    model: str | None = about("hub id, folder or GGUF file; the course's model if left out")
    corpus: str = about("tales, news, wiki, a file, a folder, or hub:owner/dataset", "tales")
    arm: str = about("full (all weights), all (LoRA on all blocks), last5, middle5, blocks3-7", "full")
    epochs: int | None = about("passes over the texts; 8 for full, else 12")
    learning_rate: float | None = about("1.5e-4 for full, else 4e-3")
    rank: int = about("of the adapters", 12)
    target_loss: float = about("stop after the first epoch with this mean training loss", 0.0)
    train_texts: int = about("texts to train on", 32)
    length: int = about("tokens a text", 128)
    batch_size: int = about("texts a step", 4)
    seed: int = about("decides the texts, their order, and the start of adapters", 0)


@dataclass(frozen=True)
class Generating:
    """Options of ``hyperfit generate``."""

    tuned: str = _needed("what 'hyperfit train' wrote, or another folder or hub id")
    base: str | None = about("the model to stand beside it; what it was trained from if left out")
    prompt: str = about("how the text begins", "Once upon a time")
    tokens: int = about("new tokens", 96)
    temperature: float = about("0 writes the most probable token; larger values sample", 0.0)
    seed: int = about("of the sampling", 0)


@dataclass(frozen=True)
class Comparing:
    """Options of ``hyperfit compare``."""

    a: str = _needed("a model (hub id, folder, GGUF file), or the folder of a study")
    b: str = _needed("the other one")
    corpus: str = about("whose held-out texts two models read and continue", "tales")
    prompts: int = about("how many of them", 30)


@dataclass(frozen=True)
class Exporting:
    """Options of ``hyperfit export``."""

    model: str = _needed("what 'hyperfit train' wrote, or another model")
    out: Path = _needed("the folder (peft, safetensors) or file (gguf) to write; it must not be there yet")
    to: Literal["peft", "safetensors", "gguf"] = about("peft: the adapter; the others have it merged", "safetensors")
    base: str | None = about(
        "the base of an adapter, or the GGUF file that it came from, if its name does not lead there; gguf works for "
        "models that came from a GGUF file, as the course's did"
    )
    precision: Literal["f32", "f16", "q8_0"] = about("of the matrices in a GGUF file", "f32")


@dataclass(frozen=True)
class Examining:
    """Options of ``hyperfit doctor``."""

    model: str | None = about(MODEL)


@dataclass(frozen=True)
class Caching:
    """Options of ``hyperfit cache``."""

    action: Literal["list", "verify", "prune"] = _needed(
        "list what is kept; verify every file against its hash; prune: remove what is damaged, or all of a kind"
    )
    kind: str | None = about(
        "with prune, remove everything of this kind, such as continuations, and no other; the kind unfinished is what "
        "interrupted runs have left, which would go on from it"
    )


@dataclass(frozen=True)
class Grading:
    """Options of ``hyperfit grade``."""

    submissions: Path = _needed("folder of notebooks: student/NN_name.ipynb or student.ipynb")
    out: Path = about("the table", Path("grades.csv"))
