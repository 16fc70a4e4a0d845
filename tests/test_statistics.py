from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from numpy.typing import ArrayLike
from scipy import stats

from hyperfit_course.metrics import bootstrap_interval
from hyperfit_course.study.statistics import (
    LEVEL,
    POWER,
    Estimate,
    differences,
    paired,
    smallest_difference,
    t_interval,
    with_power,
)

EXPERIMENTS = 2000
SEEDS = 5
EFFECT = 0.3


def arms(first: dict[int, float], second: dict[int, float]) -> pd.DataFrame:
    """Rows of two arms, from their values by seed."""
    return pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "ttr": value}
            for arm, values in (("last 5", first), ("middle 5", second))
            for seed, value in values.items()
        ]
    )


# Intervals


def test_t_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    experiments = np.random.default_rng(1).normal(EFFECT, 0.1, size=(EXPERIMENTS, SEEDS))
    covered = [found.low <= EFFECT <= found.high for found in map(t_interval, experiments)]
    assert np.mean(covered) == pytest.approx(LEVEL, abs=0.015)


def test_bootstrap_over_five_values_would_cover_it_less_often() -> None:
    experiments = np.random.default_rng(1).normal(EFFECT, 0.1, size=(EXPERIMENTS, SEEDS))
    intervals = [bootstrap_interval(values, resamples=500) for values in experiments]
    covered = np.mean([found.low <= EFFECT <= found.high for found in intervals])
    assert covered < LEVEL - 0.05


@pytest.mark.parametrize("values", [[0.1, 0.3], [0.31, 0.28, 0.35, 0.27, 0.3], [-4.0, 0.0, 9.0]])
@pytest.mark.parametrize("level", [0.9, LEVEL])
def test_t_interval_is_that_of_scipy(values: list[float], level: float) -> None:
    found = t_interval(values, level)
    expected = stats.ttest_1samp(values, 0).confidence_interval(level)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.mean, found.n) == (pytest.approx(np.mean(values)), len(values))
    assert found.smallest == smallest_difference(values, level)


def test_estimate_of_equal_values_has_no_width() -> None:
    assert t_interval([0.5, 0.5, 0.5]) == Estimate(0.5, 0.5, 0.5, 3, 0.0)


def test_estimate_shows_the_sign_of_an_effect() -> None:
    assert str(Estimate(0.25, -0.0625, 0.5625, 5, 0.4)) == "+0.250 [-0.062, +0.562]"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "two values at least, and there is 0: train with another seed"),
        ([0.3], "two values at least, and there is 1: train with another seed"),
        ([0.3, math.nan], "nan or inf"),
        ([0.3, math.inf, 0.1], "nan or inf"),
    ],
)
def test_too_few_values_or_values_that_are_no_numbers_are_refused(values: ArrayLike, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        t_interval(values)


# Power


@pytest.mark.parametrize("seeds", [3, 5, 30])
def test_an_effect_of_the_smallest_difference_is_found_in_four_of_five_experiments(seeds: int) -> None:
    values = np.arange(seeds, dtype=float)
    effect = smallest_difference(values / values.std(ddof=1))
    experiments = np.random.default_rng(2).normal(effect, 1.0, size=(EXPERIMENTS, seeds))
    found = np.mean([t_interval(experiment).low > 0 for experiment in experiments])
    assert 0.75 < found < 0.86


def test_smallest_difference_is_the_half_width_and_the_quantile_of_the_power_in_standard_errors() -> None:
    values = [0.1, 0.4, 0.3, 0.2, 0.5]
    estimate = t_interval(values)
    error = stats.sem(values)
    for power in (POWER, 0.9):
        beyond = smallest_difference(values, power=power) - (estimate.high - estimate.mean)
        assert beyond == pytest.approx(stats.t(df=4).ppf(power) * error)


def test_bootstrap_interval_keeps_its_ends_and_gets_a_number_and_a_power() -> None:
    values = [0.0, 0.25, 1.0, 0.75]
    interval = bootstrap_interval(values)
    found = with_power(interval, values)
    assert (found.mean, found.low, found.high) == tuple(interval)
    assert (found.n, found.smallest) == (4, smallest_difference(values))


# Pairs


def test_a_large_effect_of_the_seed_that_two_arms_share_is_not_in_the_interval_of_their_difference() -> None:
    random = np.random.default_rng(3)
    of_seed = random.normal(0, 1, SEEDS)
    first = dict(enumerate(of_seed + EFFECT + random.normal(0, 0.01, SEEDS)))
    second = dict(enumerate(of_seed + random.normal(0, 0.01, SEEDS)))
    found = t_interval(differences(arms(first, second), "last 5", "middle 5", "ttr"))
    assert EFFECT - 0.05 < found.low < EFFECT < found.high < EFFECT + 0.05
    unpaired = stats.ttest_ind(list(first.values()), list(second.values())).confidence_interval(LEVEL)
    assert unpaired.low < 0 < unpaired.high


def test_pairs_are_found_by_seed_in_whatever_order_the_rows_stand() -> None:
    first, second = {0: 1.0, 1: 2.0, 2: 4.0}, {2: 0.5, 0: 0.25, 1: 0.125}
    found = differences(arms(first, second), "last 5", "middle 5", "ttr")
    assert found.to_dict() == {0: 0.75, 1: 1.875, 2: 3.5}
    assert differences(arms(first, second), "middle 5", "last 5", "ttr").to_dict() == {0: -0.75, 1: -1.875, 2: -3.5}


def test_pairs_of_prompts_within_rows_of_another_kind() -> None:
    rows = pd.DataFrame({"way": ["a", "b", "b", "a"], "prompt": [0, 1, 0, 1], "entropy": [3.0, 1.0, 2.0, 5.0]})
    assert differences(rows, "a", "b", "entropy", by="way", unit="prompt").to_dict() == {0: 1.0, 1: 4.0}


def test_seeds_that_only_one_arm_has_are_left_out() -> None:
    several, few = {0: 1.0, 1: 2.0, 2: 3.0}, {2: 1.0, 0: 0.5, 7: 9.0}
    assert differences(arms(several, few), "last 5", "middle 5", "ttr").to_dict() == {0: 0.5, 2: 2.0}


def test_arms_without_a_shared_seed_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="The arms 'last 5' and 'middle 5' share no seed"):
        differences(arms({0: 1.0, 1: 2.0}, {2: 1.0}), "last 5", "middle 5", "ttr")


def test_series_with_other_labels_are_no_pairs() -> None:
    with pytest.raises(ValueError, match=r"No pairs: one side has \[0, 1\], the other \[0, 2\]\."):
        paired(pd.Series([1.0, 2.0], index=[0, 1]), pd.Series([1.0, 2.0], index=[0, 2]))


def test_arm_with_a_seed_twice_is_refused() -> None:
    rows = pd.concat([arms({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}), arms({}, {1: 3.0})])
    with pytest.raises(ValueError, match=r"The arm 'middle 5' has a seed twice: give one row a seed of each arm\."):
        differences(rows, "last 5", "middle 5", "ttr")


def test_arm_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="The arm 'first 5' is not in the rows"):
        differences(arms({0: 1.0}, {0: 1.0}), "first 5", "last 5", "ttr")


def test_series_with_a_label_twice_are_no_pairs() -> None:
    once, twice = pd.Series([1.0, 2.0], index=[0, 1]), pd.Series([1.0, 2.0, 3.0], index=[0, 1, 1])
    for of, over in ((once, twice), (twice, once), (twice, twice)):
        with pytest.raises(ValueError, match=r"No pairs: one side has .*\[0, 1, 1\]"):
            paired(of, over)
