"""Recorded arms beside one another, on constructed rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from hyperfit_course.study import comparisons
from hyperfit_course.study.comparisons import (
    best_setting,
    by_depth,
    compared,
    contrast,
    gaps,
    means,
    own_words,
    recorded_arms,
    recorded_so_far,
    whole_seeds,
)
from hyperfit_course.study.recording import Row
from hyperfit_course.study.statistics import t_interval


def row(arm: str, seed: int, ttr: float, prompts: str = "tales", rank: int | None = 12, **more: Any) -> Row:
    configuration = {"arm": arm, "rank": rank, "seed": seed}
    return {
        "arm": arm,
        "rank": rank,
        "seed": seed,
        "prompts": prompts,
        "ttr": ttr,
        "configuration": configuration,
        **more,
    }


def arms(**values: dict[int, float]) -> pd.DataFrame:
    """Rows of arms, from their values by seed."""
    return pd.DataFrame([row(arm, seed, ttr) for arm, of_seed in values.items() for seed, ttr in of_seed.items()])


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes files of recorded rows; all others are not there."""

    def make(**rows: list[Row]) -> None:
        def recorded(name: str) -> list[Row]:
            if name not in rows:
                raise FileNotFoundError(name)
            return rows[name]

        monkeypatch.setattr(comparisons, "recorded", recorded)

    return make


# What is there so far


def test_a_page_may_read_a_file_before_anything_is_in_it(files: Callable[..., None]) -> None:
    files(windows=[row("blocks 5-9", 0, 0.4)])
    assert recorded_so_far("windows")["ttr"].tolist() == [0.4]
    nothing = recorded_so_far("rates")
    assert nothing.empty
    assert nothing[(nothing["arm"] == "last 5") & (nothing["prompts"] == "tales")].set_index("seed").empty


def test_rows_are_those_of_one_corpus_of_prompts_in_the_order_of_the_files(files: Callable[..., None]) -> None:
    files(
        windows=[row("blocks 5-9", 0, 0.4), row("blocks 5-9", 0, 0.3, "news")],
        equal_loss=[row("last 5", 0, 0.2), row("last 5", 0, 0.1, "news")],
    )
    assert recorded_arms("equal_loss", "windows", "rates")["ttr"].tolist() == [0.2, 0.4]
    assert recorded_arms("equal_loss", "windows", prompts="news")["ttr"].tolist() == [0.1, 0.3]


def test_rank_is_named_where_it_is_not_the_usual_one(files: Callable[..., None]) -> None:
    files(
        last_blocks=[
            row("last 5", 0, 0.1, rank=3),
            row("last 5", 0, 0.1),
            row("all blocks", 0, 0.1, rank=2),
            row("last 5, all weights", 0, 0.1, rank=None),
        ]
    )
    expected = ["last 5, rank 3", "last 5", "all blocks, rank 2", "last 5, all weights"]
    assert recorded_arms("last_blocks")["arm"].tolist() == expected


def test_nothing_recorded_is_one_sentence(files: Callable[..., None]) -> None:
    files(windows=[row("blocks 5-9", 0, 0.3, "news")])
    with pytest.raises(ValueError, match=r"No model is recorded in windows, rates: run 'make results'"):
        recorded_arms("windows", "rates")


def test_seeds_that_an_arm_lacks_are_left_out() -> None:
    rows = arms(last={0: 0.1, 1: 0.2, 2: 0.3}, middle={0: 0.5, 2: 0.6})
    assert whole_seeds(rows)["ttr"].tolist() == [0.1, 0.3, 0.5, 0.6]


# Means and differences


def test_own_words_are_of_texts_with_little_recitation() -> None:
    rows = pd.DataFrame(
        {
            "ttr_of_prompts": [[0.2, 0.4, 0.9], [0.5, 0.7, 0.9]],
            "recited_of_prompts": [[0.0, 0.09, 0.1], [0.1, 0.2, 0.3]],
        },
        index=[7, 3],
    )
    found = own_words(rows)
    assert found[7] == pytest.approx(0.3)
    assert math.isnan(found[3])


def test_means_count_seeds_and_keep_the_order_of_the_arms() -> None:
    rows = arms(middle={0: 0.5, 1: 0.7}, last={0: 0.1})
    table = means(rows, {"ttr": "TTR", "factor": "not in these rows"})
    assert table.to_dict("index") == {"middle": {"seeds": 2, "TTR": 0.6}, "last": {"seeds": 1, "TTR": 0.1}}
    assert table.index.tolist() == ["middle", "last"]


def test_gaps_are_of_shared_seeds_in_order() -> None:
    rows = arms(middle={2: 0.5, 0: 0.7, 1: 0.6}, last={0: 0.1, 2: 0.2, 4: 0.9})
    found = gaps(rows, "middle", "last")
    assert found.index.tolist() == [0, 2]
    assert found.tolist() == pytest.approx([0.6, 0.3])
    assert gaps(rows, "middle", "no such arm").empty


def test_compared_shows_each_seed_and_the_interval_of_the_pairs() -> None:
    rows = arms(middle={0: 0.5, 1: 0.7, 2: 0.6}, last={0: 0.1, 1: 0.2, 2: 0.3}, first={1: 0.2}, spread={9: 0.1})
    table = compared(rows, [("middle", "last"), ("first", "last"), ("spread", "last")])
    assert table.index.tolist() == ["middle minus last", "first minus last"], "a pair without a shared seed"
    expected = t_interval([0.4, 0.5, 0.3])
    assert table.loc["middle minus last"].tolist() == ["+0.40, +0.50, +0.30", str(expected), f"{expected.smallest:.2f}"]
    assert table.loc["first minus last"].tolist() == ["+0.00", "one seed", ""]
    assert compared(rows, [("spread", "last")]).empty


def test_contrast_has_means_of_the_shared_seeds_only() -> None:
    rows = arms(middle={0: 0.5, 1: 0.7, 2: 0.9}, last={0: 0.1, 1: 0.2})
    table = contrast(rows, "middle", "last", {"ttr": "TTR"})
    assert table.loc["TTR", ["last", "middle"]].tolist() == ["0.150", "0.600"]
    assert table.loc["TTR", "middle minus last"] == "+0.40, +0.50"


def test_best_setting_is_that_of_the_best_mean_and_not_of_the_best_model() -> None:
    rates = {0.001: (0.2, 0.9), 0.002: (0.6, 0.6)}
    rows = pd.DataFrame(
        [row("last 5", seed, ttr, rate=rate) for rate, values in rates.items() for seed, ttr in enumerate(values)]
        + [row("middle 5", 0, 1.0, rate=0.001)]
    )
    found = best_setting(rows, "last 5", "rate")
    assert found["rate"].tolist() == [0.002, 0.002]
    assert found["seed"].tolist() == [0, 1]


def test_depth_is_read_off_the_names_of_windows() -> None:
    rows = pd.DataFrame([row(arm, 0, 0.1) for arm in ("last 5", "blocks 10-14", "spread 5", "blocks 5-9")])
    found = by_depth(rows, {"last 5": 25})
    assert found["arm"].tolist() == ["blocks 5-9", "blocks 10-14", "last 5"]
    assert found["first block"].tolist() == [5, 10, 25]
