"""What does it look like? The figures of the chapters, in one style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from torch import Tensor

plt.style.use(str(files("hyperfit_course") / "hyperfit.mplstyle"))

MODEL_COLOURS = {
    "base": "#0072B2",
    "hyperfitted": "#D55E00",
    "reference": "#555555",
    "human": "#555555",
    "all blocks": "#000000",
    "first 5": "#56B4E9",
    "middle 5": "#CC79A7",
    "last 5": "#009E73",
    "spread 5": "#E69F00",
}


def history_figure(history: pd.DataFrame) -> Figure:
    """Training run: both losses on the left, repetition of the greedy continuations on the right.

    Args:
        history: from :func:`~hyperfit_course.training.hyperfit`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    evaluated = history.dropna(subset=["train_loss"])
    left.plot(evaluated["epoch"], evaluated["train_loss"], marker="o", label="training texts")
    left.plot(evaluated["epoch"], evaluated["validation_loss"], marker="s", label="other texts (validation)")
    left.set(xlabel="epoch", ylabel="loss (nats a token)", title="The loss", ylim=(0, None))
    right.plot(evaluated["epoch"], evaluated["ttr"], marker="o", label="type-token ratio")
    right.plot(evaluated["epoch"], evaluated["bigram_repetition"], marker="s", label="bigram repetition")
    right.set(xlabel="epoch", ylabel="share", title="Greedy continuations", ylim=(0, 1))
    for axes in (left, right):
        axes.legend(loc="best")
    return figure


def repetition_figure(frames: Mapping[str, pd.DataFrame], column: str, label: str) -> Figure:
    """One dot a prompt and the mean, for each model.

    Args:
        frames: a name and the output of :func:`~hyperfit_course.metrics.repetition_frame` for each model.
        column: of the frames.
        label: what the column holds, for the axis.
    """
    rows = pd.concat([frame.assign(model=name) for name, frame in frames.items()])
    colours = [MODEL_COLOURS.get(name, "#009E73") for name in frames]
    figure, axes = plt.subplots(figsize=(6.4, 0.9 + 0.7 * len(frames)))
    sns.stripplot(
        rows, x=column, y="model", hue="model", palette=colours, legend=False, alpha=0.6, jitter=0.25, ax=axes
    )
    means = [frame[column].mean() for frame in frames.values()]
    axes.scatter(means, range(len(frames)), marker="|", s=600, linewidths=3, color="black", zorder=3)
    axes.set(xlabel=f"{label} (a dot a prompt; bars: means)", ylabel="", xlim=(-0.02, 1.02))
    axes.set_ylim(len(frames) - 0.5, -0.5)
    return figure


def top_token_figure(probabilities: Mapping[str, Tensor], names: Sequence[Sequence[str]]) -> Figure:
    """The most probable next tokens after one context, one panel a model.

    Args:
        probabilities: for each model the probabilities of its top tokens, largest first, shape (k,).
        names: for each model the tokens as text.
    """
    figure, axes = plt.subplots(1, len(probabilities), figsize=(9, 3.6), sharex=True)
    for panel, (model, values), labels in zip(np.atleast_1d(axes), probabilities.items(), names, strict=True):
        panel.barh(range(len(values)), values.tolist(), color=MODEL_COLOURS.get(model, "#009E73"))
        panel.set_yticks(range(len(values)), [repr(label)[1:-1].replace("$", r"\$") for label in labels])
        panel.invert_yaxis()
        panel.set(xlabel="probability", title=model, xlim=(0, 1))
        panel.grid(axis="y", visible=False)
    return figure


def entropy_figure(entropies: Mapping[str, Tensor]) -> Figure:
    """How sharp the next-token distributions are, over many positions of texts that no model was trained on.

    Args:
        entropies: for each model one entropy a position, in nats, shape (n,).
    """
    figure, axes = plt.subplots()
    highest = max(float(values.max()) for values in entropies.values())
    for name, values in entropies.items():
        axes.hist(
            values.numpy(),
            bins=np.linspace(0, highest, 40).tolist(),
            histtype="step",
            linewidth=2,
            color=MODEL_COLOURS.get(name),
            label=name,
        )
    axes.set(xlabel="entropy of the next-token distribution (nats)", ylabel="positions")
    axes.legend()
    return figure


def alpha_figure(rows: pd.DataFrame, levels: Mapping[str, float]) -> Figure:
    """Type-token ratio of greedy text with a static bias, for growing alpha: a dot a seed, lines through the means.

    Args:
        rows: of one seed each, columns ``bias`` (the kind), ``alpha`` and ``ttr``.
        levels: type-token ratios to compare with, drawn as dashed lines.
    """
    figure, axes = plt.subplots(figsize=(7, 4))
    for (marker, colour), (name, kind) in zip(
        (("o", "#009E73"), ("s", "#CC79A7"), ("^", "#E69F00")), rows.groupby("bias", sort=False), strict=False
    ):
        axes.plot(kind["alpha"], kind["ttr"], marker, color=colour, alpha=0.5)
        axes.plot(kind.groupby("alpha")["ttr"].mean(), marker=marker, color=colour, label=f"bias: {name}")
    for name, level in levels.items():
        axes.axhline(level, linestyle="--", color=MODEL_COLOURS.get(name, "#555555"), label=name)
    axes.set(xlabel="alpha (logarithmic)", ylabel="type-token ratio", xscale="log", ylim=(0, None))
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def rank_figure(ranks: Mapping[str, Tensor]) -> Figure:
    """How far down the base model's ranking the chosen tokens were.

    Args:
        ranks: for each kind of text the base ranks of the tokens that the hyperfitted model chose, any shape.
    """
    figure, axes = plt.subplots(figsize=(7, 3.8))
    for style, (name, values) in zip(("-", "--", ":"), ranks.items(), strict=False):
        ordered = values.flatten().sort().values.cpu().numpy()
        beyond = 1 - np.arange(1, len(ordered) + 1) / len(ordered)
        axes.step(ordered, beyond, where="post", linestyle=style, linewidth=2, label=name)
    axes.axvline(10, color="#555555", linewidth=1)
    axes.annotate("rank 10", (10, 0.5), xytext=(4, 0), textcoords="offset points")
    axes.set(xlabel="rank in the base model (logarithmic)", ylabel="share of choices beyond it", xscale="log")
    axes.set_ylim(0, None)
    axes.legend()
    return figure


def layer_figure(panels: Mapping[str, Mapping[str, pd.DataFrame]], top: float | None = None) -> Figure:
    """A measure along the depth of the network, with its intervals.

    The last point of every curve is the output of the final norm, set apart from the blocks.

    Args:
        panels: for each panel (its title) and each model rows with ``depth``, ``value``, ``low`` and ``high``, from
            :mod:`~hyperfit_course.geometry`.
        top: upper end of the vertical axes; each fits its own curves by default.
    """
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.4 * rows), squeeze=False)
    for axes, (title, curves) in zip(grid.flat, panels.items(), strict=False):
        for marker, (name, curve) in zip("os^vDPX", curves.items(), strict=False):
            colour = MODEL_COLOURS.get(name, "#555555")
            stream, norm = curve.iloc[:-1], curve.iloc[-1]
            axes.plot(stream["depth"], stream["value"], color=colour, marker=marker, markersize=3, label=name)
            axes.fill_between(stream["depth"], stream["low"], stream["high"], color=colour, alpha=0.2, linewidth=0)
            spread = [[norm["value"] - norm["low"]], [norm["high"] - norm["value"]]]
            axes.errorbar(norm["depth"] + 1, norm["value"], yerr=spread, color=colour, marker=marker, capsize=3)
        last = len(stream)
        axes.set_xticks([*range(0, last, 5), last + 1], [*map(str, range(0, last, 5)), "norm"])
        axes.set(title=title, xlabel="block", ylim=(None, top))
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    grid[0, 0].legend(fontsize="small")
    return figure
