"""What several test files need: random logits, texts by split, clouds of points, and models that are not too simple."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import tiny_model
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from hyperfit_course import stream
from hyperfit_course.corpora import load_corpus
from hyperfit_course.stream import Moments
from hyperfit_course.study import arms, causes, measures, rivals, variants

FINE = torch.tensor([[1.0, 2.0, 0.0]])
NO_NUMBERS = {
    "nan": torch.tensor([[1.0, math.nan, 0.0]]),
    "inf": torch.tensor([[1.0, math.inf, 0.0]]),
    "all forbidden": torch.full((1, 3), -math.inf),
}
"""Logits of which no distribution can be made."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def logit_rows(least: int = 2) -> st.SearchStrategy[Tensor]:
    """A few positions of a small vocabulary: random, peaked, nearly flat, and with ties."""

    def rows(seed: int, positions: int, vocabulary: int, scale: float, tied: bool) -> Tensor:
        logits = random(positions, vocabulary, seed=seed) * scale
        return logits.round() if tied else logits

    return st.builds(
        rows,
        st.integers(0, 10_000),
        st.integers(1, 4),
        st.integers(least, 30),
        st.sampled_from([0.01, 1.0, 5.0, 40.0]),
        st.booleans(),
    )


def sharper(model: PreTrainedModel, factor: float) -> PreTrainedModel:
    """Larger weights than at initialisation, so that what is generated depends on the whole context."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(factor)
    return model


def random_splits() -> dict[str, Tensor]:
    """Texts for :func:`~conftest.tiny_model` to train on, for validation and for prompts."""
    generator = torch.Generator().manual_seed(1)
    return {
        "train": torch.randint(0, 256, (8, 32), generator=generator),
        "validation": torch.randint(0, 256, (5, 32), generator=generator),
        "prompts": torch.randint(0, 256, (2, 32), generator=generator),
    }


def moments_of(points: Tensor, groups: int = 1) -> Moments:
    """Moments of a cloud of points in groups of equal size, shape (groups * n, d)."""
    collector = stream._LayerMoments(groups)
    for group, part in enumerate(points.chunk(groups)):
        collector.add(group, part, torch.arange(len(part)))
    return collector.finished()


def loads_tiny_model(blocks: int, tokenizer: PreTrainedTokenizerBase) -> Callable[..., tuple[PreTrainedModel, Any]]:
    """What stands in for ``load_model``: a tiny model of that many blocks, with the same weights at every call."""
    config = tiny_model().config
    config.num_hidden_layers = blocks

    def load(name: str | None = None) -> tuple[PreTrainedModel, Any]:
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval(), tokenizer

    return load


def shrink_the_course(monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerBase, blocks: int) -> None:
    """The course's model is a tiny one, nothing is fetched, and three short texts of everything are enough."""
    load = loads_tiny_model(blocks, tokenizer)
    for module in (arms, causes, rivals, variants):
        monkeypatch.setattr(module, "load_model", load, raising=False)
        monkeypatch.setattr(module, "load_tokenizer", lambda name=None: tokenizer, raising=False)
        monkeypatch.setattr(module, "load_corpus", local_corpus, raising=False)
    for kept in (
        arms.base_model,
        arms.held_out,
        arms.tokenizer_of,
        causes.passages,
        causes.base_texts,
        causes.strongest_heads,
    ):
        kept.cache_clear()
    held_out, passages = arms.held_out, causes.passages
    for module in (causes, measures, rivals):
        monkeypatch.setattr(module, "held_out", lambda *of: held_out(*of)[:3])
    start, sentences, strings = passages()
    few = causes.Passages(start, [ids[:12] for ids in sentences[:3]], strings[:3, :8])
    monkeypatch.setattr(causes, "passages", lambda: few)
    monkeypatch.setattr("hyperfit_course.evaluation.NEW_TOKENS", 8)


def local_corpus(name: str) -> dict[str, list[str]]:
    """What stands in for ``load_corpus``: the tales, and the tales in capitals for corpora that would be fetched."""
    tales = load_corpus("tales")
    return tales if name == "tales" else {split: [text.upper() for text in texts] for split, texts in tales.items()}
