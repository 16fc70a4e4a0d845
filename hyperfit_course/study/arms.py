"""Which models does a study compare? An arm is one way to train the model, with one seed."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hyperfit_course.anatomy import CausalLM, blocks_of
from hyperfit_course.corpora import load_corpus, make_texts
from hyperfit_course.late_stage import LateStageError, choose_blocks, late_stage_lora
from hyperfit_course.models import EMBEDDED, load_model, load_tokenizer
from hyperfit_course.optimizers import moment_bits
from hyperfit_course.study.config import StudyError
from hyperfit_course.training import HyperfitConfig, hyperfit


@dataclass(frozen=True)
class Subject:
    """What is studied: a model, and how many texts of which length it gets. ``Subject()`` is that of the course."""

    model: str | None = None  #: As :func:`~hyperfit_course.models.load_model` takes it.
    n_train: int = 32
    n_validation: int = 12
    n_prompts: int = 30
    length: int = 128

    def configuration(self) -> dict[str, Any]:
        """The model's name, and the numbers that are not the course's."""
        usual, own = asdict(Subject()), asdict(self)
        return {"model": self.model or EMBEDDED} | {
            name: own[name] for name in usual if name != "model" and own[name] != usual[name]
        }

    def texts(self, corpus: str, seed: int) -> dict[str, Tensor]:
        """Texts of a corpus, as :func:`~hyperfit_course.corpora.make_texts` gives them."""
        return self.cut(load_corpus(corpus), seed)

    def cut(self, corpus: dict[str, list[str]], seed: int) -> dict[str, Tensor]:
        """The same of a corpus that is loaded already."""
        sizes = {name: value for name, value in asdict(self).items() if name != "model"}
        return make_texts(corpus, tokenizer_of(self), seed=seed, **sizes)


COURSE = Subject()


@dataclass(frozen=True)
class Arm:
    """One model: which of its weights are trained, on which texts, and how.

    ``Arm()`` is the base model. ``Arm(config)`` trains all weights, and ``Arm(config, count=5, place="last")`` those of
    the last five blocks only. With a rank, LoRA adapters on these blocks are trained instead.
    """

    config: HyperfitConfig | None = None  #: How it is trained, its seed among it; ``None`` for the base model.
    trained_on: str = "tales"  #: Name of the corpus.
    rank: int | None = None  #: Of the adapters; ``None`` trains the weights themselves.
    count: int | None = None  #: How many blocks are trained; ``None`` for all, with embeddings and norms if no rank.
    place: str | int | None = None
    """Where these blocks are: ``first``, ``middle``, ``last`` or ``spread``, or the number of the first of them."""
    subject: Subject = COURSE

    def __post_init__(self) -> None:
        if (self.count is None) != (self.place is None):
            raise ValueError("Name the count of the blocks and their place, or neither.")
        if self.count is not None and self.count < 1:
            raise ValueError(f"An arm trains at least one block, not {self.count}.")

    @property
    def label(self) -> str:
        """Its name in tables: ``base``, ``hyperfitted``, ``all blocks``, ``last 5``, ``blocks 10-14`` ..."""
        if self.config is None:
            return "base"
        if self.count is None:
            return "hyperfitted" if self.rank is None else "all blocks"
        blocks = f"{self.place} {self.count}"
        if isinstance(self.place, int):
            blocks = f"blocks {self.place}-{self.place + self.count - 1}"
        return blocks if self.rank else f"{blocks}, all weights"

    @property
    def seed(self) -> int:
        """It decides the texts, their order, and the start of adapters."""
        return self.config.seed if self.config else 0

    def configuration(self) -> dict[str, Any]:
        """What decides its weights, as JSON values."""
        own = {name: value for name, value in asdict(self).items() if name != "subject"}
        return {**self.subject.configuration(), **own}

    def trained(self) -> tuple[CausalLM, pd.DataFrame]:
        """The arm's model, trained or from the cache, and its history; an empty one for the base model."""
        model = self.untrained()
        return model, self._train(model, self.config) if self.config else pd.DataFrame()

    def untrained(self) -> CausalLM:
        """A new copy of the model, with the adapters or the frozen weights that its training starts from."""
        model: CausalLM
        model = load_model(self.subject.model)[0]
        if self.config is None:
            return model
        blocks = self.blocks(model)
        if self.rank is not None:
            return late_stage_lora(model, blocks, self.rank, seed=self.seed)
        if self.count is not None:
            model.requires_grad_(False)
            for number in blocks:
                blocks_of(model)[number].requires_grad_(True)
        return model

    def splits(self) -> dict[str, Tensor]:
        """The texts that it is trained on, and those of its evaluation."""
        return self.subject.texts(self.trained_on, self.seed)

    def _train(self, model: CausalLM, config: HyperfitConfig) -> pd.DataFrame:
        """Train the model, and return its history."""
        return hyperfit(model, self.splits(), config)

    def blocks(self, model: PreTrainedModel) -> list[int]:
        """Numbers of the trained blocks.

        Raises:
            LateStageError: the model has no such blocks.
        """
        depth = len(blocks_of(model))
        count = depth if self.count is None else self.count
        if not isinstance(self.place, int):
            return choose_blocks(model, count, self.place or "first")
        if not 0 <= self.place <= depth - count:
            raise LateStageError(
                f"The model has the blocks 0 to {depth - 1}: {count} of them cannot start at {self.place}."
            )
        return list(range(self.place, self.place + count))


def check_arms(arms: Iterable[Arm], model: PreTrainedModel) -> None:
    """Look for the blocks and the moments that arms need, before hours are spent on the first one.

    Raises:
        StudyError: the model does not have the blocks that an arm trains.
        OptimizerError: moments of 8 bits are asked for and cannot be had.
    """
    moment_bits(model.device)
    for arm in arms:
        try:
            arm.blocks(model)
        except LateStageError as error:
            raise StudyError(f"The arm {arm.label} does not fit this model. {error} Name other --arms.") from error


@functools.cache
def base_model(subject: Subject = COURSE) -> PreTrainedModel:
    """The model before any training."""
    return load_model(subject.model)[0]


@functools.cache
def tokenizer_of(subject: Subject = COURSE) -> PreTrainedTokenizerBase:
    """The tokenizer of the studied model."""
    return load_tokenizer(subject.model)


def corpus_digest(name: str) -> str:
    """SHA-256 of all texts of a corpus, those to train on among them, in hexadecimal."""
    return hashlib.sha256(json.dumps(load_corpus(name)).encode()).hexdigest()


@functools.cache
def held_out(corpus: str, subject: Subject = COURSE) -> Tensor:
    """The texts that no arm was trained on, of the course 30, shape (30, 128). They are those of seed 0 for every arm:
    arms differ in their training only."""
    if corpus != "wiki":
        return subject.texts(corpus, seed=0)["prompts"]
    # The prompts of this small corpus are too few, and nothing is trained on its other texts.
    return replace(subject, n_train=subject.n_prompts, n_prompts=1).texts(corpus, seed=0)["train"]
