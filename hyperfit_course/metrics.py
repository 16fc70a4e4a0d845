"""How repetitive is a text? Counts of distinct tokens and n-grams, and how sure one can be of their means."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from torch import Tensor

WINDOW = 96  #: Last tokens over which the type-token ratio is taken, as in the code of Carlsson et al. (2025).


class Interval(NamedTuple):
    """A mean with its confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def type_token_ratio(tokens: Sequence[int] | Sequence[str] | Tensor, window: int = WINDOW) -> float:
    """Distinct tokens divided by tokens, over the last ``window`` of them.

    In (0, 1]: 1 means that no token occurs twice; ``nan`` if there are none. The ratio falls with the length of the
    text, so only texts of one length can be compared. Source: the code of Carlsson et al. (2025), on token ids.
    """
    last = _as_list(tokens)[-window:]
    return len(set(last)) / len(last) if last else math.nan


def ngram_repetition(tokens: Sequence[int] | Sequence[str] | Tensor, n: int) -> float:
    """Share of a text's n-grams that occurred before in it: 1 - distinct n-grams / n-grams, in [0, 1).

    ``nan`` for a text shorter than ``n`` tokens, which has no n-gram.

    Raises:
        ValueError: ``n`` is below 1.
    """
    grams = _ngrams(_as_list(tokens), n)
    return 1 - len(set(grams)) / len(grams) if grams else math.nan


def _as_list(tokens: Sequence[int] | Sequence[str] | Tensor) -> list:
    return tokens.tolist() if isinstance(tokens, Tensor) else list(tokens)


def _ngrams(tokens: list, n: int) -> list[tuple]:
    if n < 1:
        raise ValueError(f"An n-gram has at least one token, so n={n} makes no sense: choose n=1 or more.")
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))


def repetition_frame(continuations: Iterable[Sequence[int] | Tensor]) -> pd.DataFrame:
    """One row a continuation, with the measures ``ttr``, ``bigram_repetition`` and ``trigram_repetition``."""
    rows = [(type_token_ratio(ids), ngram_repetition(ids, 2), ngram_repetition(ids, 3)) for ids in continuations]
    return pd.DataFrame(rows, columns=["ttr", "bigram_repetition", "trigram_repetition"])


def bootstrap_interval(
    values: ArrayLike | Tensor,
    statistic: Callable[..., np.ndarray] = np.mean,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """A statistic with its bootstrap interval: how much would it vary with other prompts of the same kind?

    The values, one a prompt, shape (n,), are drawn again with replacement, ``resamples`` times; the interval holds the
    middle ``level`` of the statistics (percentile bootstrap, Efron and Tibshirani, 1993). A ``statistic`` is a numpy
    reduction that takes ``axis``.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    array = np.asarray(values.cpu() if isinstance(values, Tensor) else values, dtype=float)
    if array.size == 0:
        raise ValueError("A bootstrap interval of no values has no meaning: give at least one.")
    if not np.isfinite(array).all():
        raise ValueError("A value is nan or inf, so there is no interval: drop texts that are empty.")
    drawn = np.random.default_rng(seed).choice(array, size=(resamples, array.size))
    low, high = np.quantile(statistic(drawn, axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(array)), float(low), float(high))
