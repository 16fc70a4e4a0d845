"""The figures of the chapters show the numbers that they are given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from hyperfit_course.plots import arms_figure, layer_figure, spectrum_figure


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


def test_spectrum_figure_adds_the_shares_up() -> None:
    left, right = spectrum_figure({"base": torch.tensor([0.5, 0.3, 0.2])}).axes
    assert left.lines[0].get_ydata() == pytest.approx([0.5, 0.3, 0.2])
    assert right.lines[0].get_ydata() == pytest.approx([0.5, 0.8, 1.0])


def test_arms_figure_has_a_dot_for_each_seed_in_the_row_of_its_arm() -> None:
    rows = [
        {"arm": arm, "seed": seed, "ttr": value, "ttr_low": value - 0.1, "ttr_high": value + 0.2}
        for arm, seed, value in [("last 5", 0, 0.5), ("last 5", 1, 0.6), ("first 5", 0, 0.3)]
    ]
    axes = arms_figure(pd.DataFrame(rows), {"ttr": "type-token ratio"}).axes[0]
    dots = [
        (container.lines[0].get_xdata()[0], round(container.lines[0].get_ydata()[0])) for container in axes.containers
    ]
    assert dots == [(0.5, 0), (0.6, 0), (0.3, 1)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["last 5", "first 5"]
    assert np.allclose(axes.containers[0].lines[2][0].get_segments()[0][:, 0], [0.4, 0.7])
