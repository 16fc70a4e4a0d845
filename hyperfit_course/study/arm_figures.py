"""How do arms look beside one another? A dot for every trained model, so that the spread of the seeds is seen."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes

from hyperfit_course.plots import MODEL_COLOURS, plt

MARKERS = "os^Dv"  #: One a training seed, from seed 0 on.
SHAPES = "Po^sDX"  #: One a place of the trained blocks.


def seeds_figure(rows: pd.DataFrame, title: str, base: float | None = None) -> Axes:
    """Type-token ratios, a row an arm: a dot a trained model, a bar for the mean.

    Args:
        rows: one a model, with the columns ``arm``, ``seed`` and ``ttr``; arms come in the order of the rows.
        base: the ratio of the base model, a dotted line.
    """
    arms = list(dict.fromkeys(rows["arm"]))
    _, axes = plt.subplots(figsize=(8, 1 + 0.4 * len(arms)))
    for seed, of_seed in rows.groupby("seed"):
        place = of_seed["arm"].map(arms.index)
        axes.plot(of_seed["ttr"], place, MARKERS[int(str(seed))], alpha=0.7, label=str(seed))
    mean = rows.groupby("arm")["ttr"].mean()[arms]
    axes.plot(mean, range(len(arms)), "k|", markersize=22, label="mean")
    if base is not None:
        axes.axvline(base, linestyle=":", color="#555555", label="base model")
    axes.set(xlabel="type-token ratio (a dot a seed, bars: means)", xlim=(0, 0.7), title=title)
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    _legend(axes, "seed")
    return axes


def setting_figure(rows: pd.DataFrame, setting: str, levels: Mapping[str, float], **labels: str) -> Axes:
    """Type-token ratios against a setting: a dot a trained model, and for each arm a line through the means.

    Args:
        rows: one a model, with the columns ``arm``, ``ttr`` and the setting.
        setting: a column of numbers.
        levels: ratios to compare with, dotted lines.
        labels: of the axes, as ``Axes.set`` takes them.
    """
    _, axes = plt.subplots(figsize=(7, 3.8))
    for marker, (arm, of_arm) in zip(MARKERS, rows.groupby("arm", sort=False), strict=False):
        colour = MODEL_COLOURS.get(str(arm), "#0072B2")
        axes.plot(of_arm[setting], of_arm["ttr"], marker, color=colour, alpha=0.5)
        axes.plot(of_arm.groupby(setting)["ttr"].mean(), marker=marker, color=colour, label=str(arm))
    for name, level in levels.items():
        axes.axhline(level, linestyle=":", color=MODEL_COLOURS.get(name, "#555555"), label=name)
    axes.set(ylabel="type-token ratio (dots: seeds)", ylim=(0, 0.7), **labels)
    _legend(axes)
    return axes


def places_figure(rows: pd.DataFrame, x: str, y: str, lines: Mapping[str, pd.DataFrame], **labels: str) -> Axes:
    """Two numbers of trained models against each other, in the colour and shape of the place that was trained.

    Args:
        rows: one a model, with the columns ``place``, ``x`` and ``y``.
        lines: groups of models whose least-squares line is drawn, by their names.
        labels: of the axes, as ``Axes.set`` takes them.
    """
    _, axes = plt.subplots(figsize=(8, 4))
    for marker, (place, of_place) in zip(SHAPES, rows.groupby("place"), strict=False):
        colour = MODEL_COLOURS.get(f"{place} 5", MODEL_COLOURS.get(f"{place} blocks", "#0072B2"))
        axes.plot(of_place[x], of_place[y], marker, color=colour, label=str(place))
    for style, (name, group) in zip(("-", "--"), lines.items(), strict=False):
        slope = group[x].cov(group[y]) / group[x].var()
        ends = pd.Series([group[x].min(), group[x].max()])
        axes.plot(ends, group[y].mean() + slope * (ends - group[x].mean()), style, color="#555555", label=name)
    axes.set(**labels)
    _legend(axes, "trained blocks")
    return axes


def _legend(axes: Axes, title: str | None = None) -> None:
    """Beside the axes, where it hides no dot."""
    axes.legend(title=title, loc="center left", bbox_to_anchor=(1, 0.5))
