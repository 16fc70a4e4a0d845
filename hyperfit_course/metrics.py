"""How repetitive is a text? Counts of distinct tokens and n-grams, and how sure one can be of their means."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from torch import Tensor

WINDOW = 96
"""Last tokens of a continuation over which the type-token ratio is taken, as in the code of Carlsson et al. (2025)."""


class Interval(NamedTuple):
    """A mean with its confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def type_token_ratio(tokens: Sequence[int] | Sequence[str] | Tensor, window: int = WINDOW) -> float:
    """Distinct tokens divided by tokens, over the last ``window`` of them.

    1 means that no token occurs twice. The ratio falls with the length of the text, so only texts of one length can
    be compared. Source of the definition: the code of Carlsson et al. (2025), which counts token ids.

    Args:
        tokens: token ids (or words), in order.
        window: how many of the last tokens count.

    Returns:
        A number in (0, 1]; ``nan`` for no tokens at all.
    """
    last = _as_list(tokens)[-window:]
    return len(set(last)) / len(last) if last else math.nan


def word_type_token_ratio(text: str) -> float:
    """Distinct words divided by words, without case; words are what white space separates. ``nan`` for no words."""
    return type_token_ratio(text.lower().split(), window=max(1, len(text)))


def ngram_repetition(tokens: Sequence[int] | Sequence[str] | Tensor, n: int) -> float:
    """Share of a text's n-grams that occurred before in it: 1 - distinct n-grams / n-grams.

    Returns:
        A number in [0, 1); ``nan`` for a text shorter than ``n`` tokens, which has no n-gram.

    Raises:
        ValueError: ``n`` is below 1.
    """
    grams = _ngrams(_as_list(tokens), n)
    return 1 - len(set(grams)) / len(grams) if grams else math.nan


def distinct_n(texts: Iterable[Sequence[int] | Sequence[str] | Tensor], n: int) -> float:
    """Distinct n-grams divided by n-grams over a whole set of texts (distinct-n of Li et al., 2016).

    Unlike :func:`ngram_repetition` it also falls when *different* texts share n-grams.

    Returns:
        A number in (0, 1]; ``nan`` when no text has ``n`` tokens.

    Raises:
        ValueError: ``n`` is below 1.
    """
    grams = [gram for text in texts for gram in _ngrams(_as_list(text), n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def _as_list(tokens: Sequence[int] | Sequence[str] | Tensor) -> list:
    return tokens.tolist() if isinstance(tokens, Tensor) else list(tokens)


def _ngrams(tokens: list, n: int) -> list[tuple]:
    if n < 1:
        raise ValueError(f"An n-gram has at least one token, so n={n} makes no sense: choose n=1 or more.")
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))


def repetition_frame(continuations: Iterable[Sequence[int] | Tensor]) -> pd.DataFrame:
    """The measures of this module for each continuation.

    Returns:
        One row a continuation, columns ``ttr``, ``bigram_repetition`` and ``trigram_repetition``.
    """
    return pd.DataFrame(
        {
            "ttr": type_token_ratio(tokens),
            "bigram_repetition": ngram_repetition(tokens, 2),
            "trigram_repetition": ngram_repetition(tokens, 3),
        }
        for tokens in continuations
    )


def bootstrap_interval(
    values: ArrayLike | Tensor,
    statistic: Callable[..., np.ndarray] = np.mean,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """A statistic with its bootstrap interval: how much would it vary with other prompts of the same kind?

    The values are drawn again with replacement, ``resamples`` times; the interval holds the middle ``level`` of the
    statistics (percentile bootstrap, Efron and Tibshirani, 1993).

    Args:
        values: one number a prompt, shape (n,).
        statistic: a numpy reduction that takes ``axis``.
        level: confidence level.
        resamples: number of redrawn sets.
        seed: of the redrawing.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    array = np.asarray(values.cpu() if isinstance(values, Tensor) else values, dtype=float)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError("A bootstrap interval needs at least one value, and only finite ones: drop empty texts first.")
    drawn = np.random.default_rng(seed).choice(array, size=(resamples, array.size))
    low, high = np.quantile(statistic(drawn, axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(array)), float(low), float(high))
