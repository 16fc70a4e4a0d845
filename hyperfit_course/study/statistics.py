"""Is it more than luck? Differences of pairs, and how much they would vary with other seeds or other prompts.

A statement about a *recipe* (a way to train) is about all models that it gives. Its unit is the training seed: one
value a seed, and a t interval over the seeds. A statement about *one trained model* may have an interval over prompts.
Where two arms share seeds or prompts, their values are pairs, and only the differences of pairs count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from hyperfit_course.metrics import Interval

LEVEL = 0.95  #: Of the intervals.
POWER = 0.8  #: How often the smallest difference would be found.


class Estimate(NamedTuple):
    """A mean difference and what is known of it, in the unit of the values."""

    mean: float
    low: float
    high: float
    n: int  #: How many values it is the mean of.
    smallest: float
    """The smallest true mean that four of five such experiments would have told from 0."""

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def differences(rows: pd.DataFrame, of: str, over: str, column: str, by: str = "arm", unit: str = "seed") -> pd.Series:
    """One arm's values minus another's, for every seed that they share; other seeds are left out.

    Args:
        rows: of both arms, one a seed.
        of, over: names of the arms, in the column ``by``.
        column: what is compared.
        unit: the column that names a pair.

    Raises:
        ValueError: an arm is not there or has a seed twice, or they share none.
    """
    values = {}
    for arm in (of, over):
        found = rows[rows[by] == arm].set_index(unit)[column]
        if found.empty or not found.index.is_unique:
            problem = "is not in the rows" if found.empty else f"has a {unit} twice"
            raise ValueError(f"The arm {arm!r} {problem}: give one row a {unit} of each arm.")
        values[arm] = found
    shared = values[of].index.intersection(values[over].index)
    if shared.empty:
        raise ValueError(f"The arms {of!r} and {over!r} share no {unit}, so that there are no pairs.")
    return paired(values[of].loc[shared], values[over].loc[shared])


def paired(of: pd.Series, over: pd.Series) -> pd.Series:
    """Differences of two series of values with the same labels, such as seeds or prompts, in the order of the first.

    Raises:
        ValueError: their labels differ, or one stands there twice, so that they are not pairs.
    """
    if not (of.index.is_unique and over.index.is_unique and set(of.index) == set(over.index)):
        raise ValueError(f"No pairs: one side has {sorted(of.index)}, the other {sorted(over.index)}.")
    return of - over.loc[of.index]


def t_interval(values: ArrayLike, level: float = LEVEL) -> Estimate:
    """The mean of independent values, such as one a seed, with Student's t interval.

    Right for values that are about normal, however few (at least two).

    Raises:
        ValueError: there are fewer than two values, or one is not finite.
    """
    array = np.asarray(values, dtype=float)
    if array.size < 2:
        raise ValueError(f"A t interval needs two values at least, and there is {array.size}: train with another seed.")
    if not np.isfinite(array).all():
        raise ValueError("A value is nan or inf, so there is no interval: find the row that it comes from.")
    error = float(array.std(ddof=1)) / math.sqrt(array.size)
    reach = float(stats.t.ppf((1 + level) / 2, array.size - 1)) * error
    mean = float(array.mean())
    return Estimate(mean, mean - reach, mean + reach, array.size, smallest_difference(array, level))


def smallest_difference(values: ArrayLike, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest true mean that a test with such values would tell from 0, in ``power`` of all experiments.

    It is the half width of the t interval plus the quantile for the power, both in standard errors: a usual
    approximation, a little too small with fewer than five values.
    """
    array = np.asarray(values, dtype=float)
    quantiles = stats.t.ppf([(1 + level) / 2, power], array.size - 1)
    return float(quantiles.sum() * array.std(ddof=1) / math.sqrt(array.size))


def with_power(interval: Interval, values: Sequence[float] | ArrayLike) -> Estimate:
    """A bootstrap interval of some values, such as one a prompt, as an estimate."""
    return Estimate(*interval, np.asarray(values).size, smallest_difference(values))
