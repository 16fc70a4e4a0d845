"""The figures of arms show the numbers that they are given."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from hyperfit_course.plots import MODEL_COLOURS
from hyperfit_course.study.arm_figures import places_figure, seeds_figure, setting_figure


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    yield
    plt.close("all")


ROWS = pd.DataFrame(
    [
        {"arm": arm, "seed": seed, "ttr": ttr, "rate": rate, "place": arm.split()[0]}
        for arm, seed, ttr, rate in (
            ("middle 5", 0, 0.5, 1.0),
            ("middle 5", 3, 0.7, 1.0),
            ("middle 5", 0, 0.4, 2.0),
            ("last 5", 0, 0.2, 1.0),
        )
    ]
)


def test_each_seed_has_its_marker_and_each_arm_its_row_and_mean() -> None:
    axes = seeds_figure(ROWS[ROWS["rate"] == 1], "title", base=0.22)
    of_zero, of_three, mean, base = axes.lines
    assert (of_zero.get_xdata().tolist(), of_zero.get_ydata().tolist()) == ([0.5, 0.2], [0, 1])
    assert (of_three.get_xdata().tolist(), of_three.get_ydata().tolist()) == ([0.7], [0])
    assert of_zero.get_marker() != of_three.get_marker()
    assert mean.get_xdata().tolist() == pytest.approx([0.6, 0.2])
    assert list(base.get_xdata()) == [0.22, 0.22]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["middle 5", "last 5"]
    assert axes.get_ylim() == (1.5, -0.5), "the first arm is above"


def test_setting_figure_has_a_line_through_the_means_of_each_arm() -> None:
    axes = setting_figure(ROWS, "rate", {"base": 0.22}, xlabel="rate")
    dots, middle, _, last, base = axes.lines
    assert dots.get_ydata().tolist() == [0.5, 0.7, 0.4]
    assert middle.get_xydata().tolist() == [[1, pytest.approx(0.6)], [2, 0.4]]
    assert last.get_xydata().tolist() == [[1, 0.2]]
    assert (middle.get_color(), last.get_color()) == (MODEL_COLOURS["middle 5"], MODEL_COLOURS["last 5"])
    assert list(base.get_ydata()) == [0.22, 0.22]


def test_lines_through_groups_are_those_of_least_squares() -> None:
    group = pd.DataFrame({"x": [1.0, 2.0, 4.0], "y": [1.0, 3.0, 2.0], "place": "last"})
    axes = places_figure(group, "x", "y", {"group": group}, title="title")
    slope, intercept = 0.214285714, 1.5
    dots, line = axes.lines
    assert dots.get_xydata().tolist() == group[["x", "y"]].to_numpy().tolist()
    assert line.get_xdata().tolist() == [1, 4]
    assert line.get_ydata().tolist() == pytest.approx([intercept + slope, intercept + 4 * slope])
