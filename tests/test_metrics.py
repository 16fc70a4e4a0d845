from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperfit_course.metrics import (
    Interval,
    bootstrap_interval,
    ngram_repetition,
    repetition_frame,
    type_token_ratio,
)

TOKENS = st.lists(st.integers(0, 5), max_size=40)


@pytest.mark.parametrize(
    ("tokens", "expected"), [([7, 7, 7, 7], 0.25), ([1, 2, 1, 3], 0.75), ([1, 2, 3], 1.0), (["a", "b", "a"], 2 / 3)]
)
def test_type_token_ratio_by_hand(tokens: list, expected: float) -> None:
    assert type_token_ratio(tokens) == pytest.approx(expected)


def test_type_token_ratio_counts_the_values_of_a_tensor() -> None:
    assert type_token_ratio(torch.tensor([5, 5, 6, 6])) == 0.5  # tensors hash by identity: uncounted, this is 1


def test_type_token_ratio_looks_at_the_last_tokens_only() -> None:
    assert type_token_ratio([1, 2, 3, 9, 9], window=2) == 0.5
    assert type_token_ratio([9, 9, 1, 2], window=2) == 1.0
    assert type_token_ratio([1] * 50 + list(range(100, 196))) == 1.0


@pytest.mark.parametrize(
    ("tokens", "n", "expected"),
    [
        ([1, 2, 1, 2, 1], 1, 3 / 5),
        ([1, 2, 1, 2, 1], 2, 2 / 4),  # 12 21 12 21
        ([1, 2, 1, 2, 1], 3, 1 / 3),  # 121 212 121
        ([1, 2, 1, 2, 1], 5, 0.0),
        ([1, 1, 1, 1], 2, 2 / 3),
        ([1, 2, 2, 1], 2, 0.0),  # the order within an n-gram counts
    ],
)
def test_ngram_repetition_by_hand(tokens: list[int], n: int, expected: float) -> None:
    assert ngram_repetition(tokens, n) == pytest.approx(expected)
    assert ngram_repetition(torch.tensor(tokens), n) == pytest.approx(expected)


def test_no_ngram_is_nan() -> None:
    assert math.isnan(type_token_ratio([]))
    assert math.isnan(ngram_repetition([1, 2], 3))
    assert math.isnan(ngram_repetition([], 1))


@pytest.mark.parametrize("n", [0, -1])
def test_ngrams_without_a_token_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"n={n} makes no sense: choose n=1"):
        ngram_repetition([1, 2], n)


@given(TOKENS.filter(bool))
def test_type_token_ratio_is_one_exactly_if_all_tokens_differ(tokens: list[int]) -> None:
    ratio = type_token_ratio(tokens)
    assert 0 < ratio <= 1
    assert (ratio == 1) == (sorted(set(tokens)) == sorted(tokens))


@given(TOKENS, st.integers(1, 5))
def test_ngram_repetition_is_a_share_and_falls_with_n(tokens: list[int], n: int) -> None:
    if len(tokens) < n:
        assert math.isnan(ngram_repetition(tokens, n))
        return
    repetition = ngram_repetition(tokens, n)
    assert 0 <= repetition < 1
    if len(tokens) > n:  # an n-gram that is new stays new when it is made longer
        assert ngram_repetition(tokens, n + 1) <= repetition


def test_repetition_frame_has_a_row_a_continuation() -> None:
    frame = repetition_frame([torch.tensor([1, 2, 1, 2, 1]), torch.tensor([1, 2, 3, 4, 5])])
    assert frame.columns.tolist() == ["ttr", "bigram_repetition", "trigram_repetition"]
    np.testing.assert_allclose(frame.to_numpy(), [[0.4, 0.5, 1 / 3], [1.0, 0.0, 0.0]])


def test_bootstrap_interval_holds_the_mean_and_lies_within_the_values() -> None:
    interval = bootstrap_interval([0.1, 0.2, 0.3, 0.8])
    assert interval.mean == pytest.approx(0.35)
    assert 0.1 <= interval.low < interval.mean < interval.high <= 0.8


def test_bootstrap_interval_of_normal_data_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(1).normal(size=400)
    interval = bootstrap_interval(values)
    standard_error = values.std() / math.sqrt(400)
    assert interval.low == pytest.approx(values.mean() - 1.96 * standard_error, abs=0.1 * standard_error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * standard_error, abs=0.1 * standard_error)


def test_bootstrap_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    intervals = [bootstrap_interval(generator.normal(size=50), level=0.8, resamples=400) for _ in range(300)]
    assert 0.7 < np.mean([interval.low < 0 < interval.high for interval in intervals]) < 0.87


def test_bootstrap_interval_is_narrower_with_more_values_or_a_lower_level() -> None:
    values = np.random.default_rng(3).normal(size=30)

    def width(interval: Interval) -> float:
        return interval.high - interval.low

    assert width(bootstrap_interval(np.tile(values, 4))) == pytest.approx(
        width(bootstrap_interval(values)) / 2, rel=0.1
    )
    assert width(bootstrap_interval(values, level=0.5)) < width(bootstrap_interval(values, level=0.95))


def test_bootstrap_interval_is_reproduced_by_its_seed() -> None:
    values = np.random.default_rng(4).normal(size=30)
    assert (
        bootstrap_interval(values, seed=5) == bootstrap_interval(values, seed=5) != bootstrap_interval(values, seed=6)
    )


def test_bootstrap_interval_of_equal_values_has_no_width() -> None:
    assert bootstrap_interval([0.5] * 7) == Interval(0.5, 0.5, 0.5)


def test_bootstrap_interval_takes_other_statistics() -> None:
    assert bootstrap_interval([1, 2, 3, 4, 100], statistic=np.median).mean == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "of no values has no meaning: give at least one"),
        ([0.1, math.nan], "nan or inf, .*: drop texts that are empty"),
        ([math.inf, 1.0], "nan or inf"),
    ],
)
def test_bootstrap_interval_of_no_or_broken_values_is_refused(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values)


def test_interval_is_written_with_three_digits() -> None:
    assert str(Interval(0.12345, -0.1, 2)) == "0.123 [-0.100, 2.000]"
