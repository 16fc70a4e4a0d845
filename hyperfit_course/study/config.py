"""What is a study asked for? One record, with the same names on the command line, in a YAML file and in the report.

Nothing heavy is imported here, so that ``hyperfit --help`` answers at once.
"""

# ruff: noqa: RUF009 - the functions that are called in the records make fields

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

OUT = "study"  #: The folder of a study that names none.
FORM = 1  #: Of the configuration. A file of a newer form comes from a newer version of the course.


class StudyError(ValueError):
    """A study, or another command, cannot do what is asked; the message says why and what to do."""


class Names(tuple[str, ...]):
    """Several words, written ``a,b`` on the command line and as a list in YAML."""

    @classmethod
    def read(cls, value: Any) -> Names:
        return cls(str(part) for part in _listed(value))


class Numbers(tuple[int, ...]):
    """Several whole numbers, written ``0,1`` on the command line and as a list in YAML."""

    @classmethod
    def read(cls, value: Any) -> Numbers:
        return cls(_whole(part) for part in _listed(value))


def _whole(value: Any) -> int:
    if isinstance(value, float | bool):
        raise ValueError(f"{value} is no whole number")  # int() would cut it off
    return int(value)


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.strip("[] ").split(",") if part.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def check_seed(seed: int) -> None:
    """Raise a StudyError for a seed that names no run of its own, or that PyTorch does not take."""
    if not 0 <= seed < 1 << 63:
        raise StudyError(f"A seed has to be a whole number from 0 to {(1 << 63) - 1}, not {seed}.")


def about(text: str, default: Any = None) -> Any:
    """A field with its line of help."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class StudyConfig:
    """All that decides what a study measures. What is left open is filled in by the preset."""

    model: str | None = about("hub id, folder or GGUF file; the course's model if left out")
    corpus: str = about("tales, news, wiki, a file, a folder, or hub:owner/dataset", "tales")
    preset: Literal["quick", "standard", "paper"] = about("what the options left open are filled in with", "quick")
    arms: Names | None = about(
        "what is trained: full (all weights), all (LoRA on all blocks), last5, middle5, blocks3-7"
    )
    seeds: Numbers | None = about("training seeds; verdicts need two, and better three or more")
    parts: Names | None = about("what is measured; see the list above")
    train_texts: int | None = about("texts to train on")
    validation_texts: int | None = about("texts of the validation loss")
    prompts: int | None = about("held-out texts: the beginning of each is a prompt")
    length: int | None = about("tokens a text, at least 64")
    epochs: int | None = about("passes over the texts when all weights are trained")
    learning_rate: float | None = about("of the same")
    lora_epochs: int | None = about("passes over the texts when adapters are trained")
    lora_learning_rate: float | None = about("of the same")
    rank: int | None = about("of the adapters; those on all blocks get a share of it, for as many parameters in all")
    target_loss: float | None = about("stop after the first epoch with this mean training loss; 0 runs all epochs")
    batch_size: int | None = about("texts a training step")
    form: int = about("of this configuration; leave it as it is", FORM)

    def resolved(self) -> StudyConfig:
        """The same with every open option filled in by the preset, and checked.

        Raises:
            StudyError: options contradict each other, or one has no meaning.
        """
        if self.form > FORM:
            raise StudyError(
                f"This configuration has form {self.form}, and this version of the course knows {FORM}: update "
                f"the course, or remove the line 'form: {self.form}' and try whether its options are still known."
            )
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        values = {name: value for name, value in given.items() if value is not None}
        config = replace(self, **{**PRESETS[self.preset], **values})
        config._check()
        config._check_use(values)
        return config

    def _check(self) -> None:
        for arm in self.arms or ():
            parsed_arm(arm)
        if unknown := sorted(set(self.parts or ()) - set(PART_NAMES)):
            raise StudyError(f"There is no part {', '.join(unknown)}: choose from {', '.join(PART_NAMES)}.")
        for seed in self.seeds or ():
            check_seed(seed)
        for name in ("arms", "seeds", "parts"):
            values = getattr(self, name)
            default = ",".join(map(str, PRESETS["standard"][name][:3]))
            if not values:
                raise StudyError(f"--{name} is empty: name at least one, such as {default}.")
            if twice := [value for value in values if values.count(value) > 1]:
                raise StudyError(f"--{name} {','.join(map(str, values))} has {twice[0]} twice: name each once.")
        least = {"train_texts": 1, "validation_texts": 1, "prompts": 2, "length": 64, "epochs": 1, "lora_epochs": 1}
        for name, low in (least | {"rank": 1, "batch_size": 1}).items():
            if getattr(self, name) < low:
                raise StudyError(f"--{name} has to be at least {low}, not {getattr(self, name)}.")
        for name in ("learning_rate", "lora_learning_rate"):
            if not getattr(self, name) > 0:
                raise StudyError(f"--{name} has to be positive, not {getattr(self, name)}.")
        if (self.batch_size or 1) > (self.train_texts or 1):
            raise StudyError(
                f"--batch_size {self.batch_size} is more than --train_texts {self.train_texts}: lower the one or raise "
                "the other."
            )

    def _check_use(self, given: dict[str, Any]) -> None:
        """Complain where a number is given for the one way to train, and only the other one is asked for."""
        arms = self.arms or ()
        for name in ("epochs", "learning_rate"):
            wanted, other = f"lora_{name}" in given, name in given
            if "full" not in arms and other and not wanted:
                raise StudyError(f"--{name} is for the arm full, and there is none: give --lora_{name} for adapters.")
            if arms == ("full",) and wanted and not other:
                raise StudyError(f"--lora_{name} is for adapters, and there are none: give --{name} for the arm full.")


PART_NAMES = {
    "training": "losses, steps, and how much of the training text is known by heart",
    "writing": "greedy text: diversity, repetition, recitation, likelihood under the base model",
    "prediction": "sharpness, divergence from the base model, overridden first choices and their base ranks",
    "geometry": "participation ratios before and after the last block, and after the final norm",
    "layers": "the participation ratio at every layer",
    "sampling": "sampled text, beside the base model at the temperature at which it is as sharp",
    "order": "the order of the tokens from one model, the shape of the distribution from the other",
    "bias": "static biases on the base model: read off the trained one, and trained on the same texts",
    "penalty": "greedy text of the base model under a repetition penalty",
    "blocking": "greedy text when citations of the training text are forbidden",
    "spectrum": "the spectrum after the last block taken away, and given to the base model",
    "switching": "the adapters of some of the blocks switched off",
    "patching": "the base model's states put in where the text copies itself, if the trained blocks are not the last",
    "damage": "the change of the adapters turned into random directions, as far from the base model",
    "batch": "greedy text of prompts that are continued together, and one by one",
}
"""What a study can measure, in this order."""

CHANGES = ("penalty", "blocking", "spectrum", "switching", "patching")
"""Parts that change how the model writes, or a part of it; :mod:`~hyperfit_course.study.changes` measures them."""
_FAST = ("training", "writing", "prediction", "geometry", "sampling", *CHANGES, "batch")
_COURSE: dict[str, Any] = {
    "train_texts": 32,
    "validation_texts": 12,
    "prompts": 30,
    "length": 128,
    "epochs": 8,
    "learning_rate": 1.5e-4,
    "lora_epochs": 12,
    "lora_learning_rate": 4e-3,
    "rank": 12,
    "target_loss": 0.0,
    "batch_size": 4,
}
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {**_COURSE, "arms": Names(["full", "last5"]), "seeds": Numbers([0]), "parts": Names(_FAST)},
    "standard": {
        **_COURSE,
        "arms": Names(["full", "all", "last5", "middle5"]),
        "seeds": Numbers([0, 1, 2]),
        "parts": Names(PART_NAMES),
    },
    "paper": {
        **_COURSE,
        "arms": Names(["full", "all", "first5", "middle5", "last5", "spread5"]),
        "seeds": Numbers([0, 1, 2, 3, 4]),
        "parts": Names(PART_NAMES),
    },
}
"""``quick`` is for a first look; its one seed gives numbers and no verdicts. The others differ in arms and seeds."""


def parsed_arm(name: str) -> tuple[int | None, str | int | None]:
    """How many blocks an arm trains, and where: ``(None, None)`` for ``full`` and ``all``, ``(5, "last")``, ``(5, 3)``.

    Raises:
        StudyError: it is no such name.
    """
    if name in ("full", "all"):
        return None, None
    found = re.fullmatch(r"(first|middle|last|spread)(\d+)", name)
    if found and int(found[2]):
        return int(found[2]), found[1]
    found = re.fullmatch(r"blocks(\d+)-(\d+)", name)
    if found and int(found[1]) <= int(found[2]):
        return int(found[2]) - int(found[1]) + 1, int(found[1])
    raise StudyError(
        f"There is no arm {name!r}: write full, all, last5 (the last five blocks; also first, middle or spread, with a "
        "number), or blocks3-7 (their numbers from 0, the smaller one first)."
    )
