"""The figures of the chapters show the numbers that they are given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from hyperfit_course.plots import alpha_figure, layer_figure


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def curve(values: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "depth": range(len(values)),
            "value": values,
            "low": [value - 1 for value in values],
            "high": [value + 2 for value in values],
        }
    )


def test_layer_figure_draws_the_blocks_as_a_line_and_the_norm_apart() -> None:
    figure = layer_figure({"left": {"base": curve([1, 2, 3, 9])}, "right": {"base": curve([4, 5, 6, 7])}})
    left, right = figure.axes
    assert [left.get_title(), right.get_title()] == ["left", "right"]
    line, norm = left.lines[0], left.containers[0]
    assert line.get_ydata().tolist() == [1, 2, 3]
    assert norm.lines[0].get_xdata().tolist() == [4]
    assert norm.lines[0].get_ydata().tolist() == [9]
    assert norm.lines[2][0].get_segments()[0].tolist() == [[4, 8], [4, 11]]


def test_layer_figure_hides_the_panel_that_is_not_needed() -> None:
    figure = layer_figure({name: {"base": curve([1, 2, 3])} for name in "abc"})
    assert [axes.get_visible() for axes in figure.axes] == [True, True, True, False]


def test_alpha_figure_has_a_dot_a_seed_and_a_line_through_the_means() -> None:
    rows = [
        ("learned", 0.5, 0.2),
        ("learned", 1.0, 0.3),
        ("learned", 0.5, 0.4),
        ("learned", 1.0, 0.5),
        ("all", 1.0, 0.1),
    ]
    axes = alpha_figure(pd.DataFrame(rows, columns=["bias", "alpha", "ttr"]), {"base": 0.25}).axes[0]
    dots, means, _, _, level = axes.lines
    assert dots.get_xydata().tolist() == [[0.5, 0.2], [1.0, 0.3], [0.5, 0.4], [1.0, 0.5]]
    assert means.get_xydata() == pytest.approx(np.array([[0.5, 0.3], [1.0, 0.4]]))
    assert level.get_ydata() == [0.25, 0.25]
    assert axes.get_legend_handles_labels()[1] == ["bias: learned", "bias: all", "base"]
