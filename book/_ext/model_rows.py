"""The page *Other models*: a table and a forest plot of the studies in ``results/models``, however many there are.

A build reads the files, so that a class adds a model with one file, and runs nothing.
"""

from __future__ import annotations

import html
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from docutils import nodes
from hf_sphinx import table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scorecard import VERDICTS
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from hyperfit_course.study.collected import COMPARED, Study, collected, effects, overview

ONE_SEED = "#555555"
NOTHING = "No study has been added yet."


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx when the extension is loaded."""
    app.add_directive("model-rows", ModelRows)
    app.add_directive("model-plot", ModelPlot)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class OfModels(SphinxDirective):
    """A directive that is made anew when a study changes; when one is added, its page is read again."""

    def studies(self) -> dict[str, Study]:
        """All studies in ``results/models``."""
        folder = Path(self.env.srcdir) / "results" / "models"
        self.env.note_reread()
        return collected(folder)


class ModelRows(OfModels):
    """What was studied, and how it went."""

    def run(self) -> list[nodes.Node]:
        """A row a study."""
        found = overview(self.studies())
        if found.empty:
            return [nodes.paragraph(text=NOTHING)]
        return [table(list(found.columns), [[str(cell) for cell in row] for row in found.to_numpy()])]


class ModelPlot(OfModels):
    """The effects of all studies."""

    def run(self) -> list[nodes.Node]:
        """A picture inside the page."""
        found = effects(self.studies())
        if found.empty:
            return [nodes.paragraph(text=NOTHING)]
        return [nodes.raw("", f'<div class="claims-plot">{picture(found)}</div>', format="html")]


def picture(found: pd.DataFrame) -> str:
    """A forest plot as SVG: a panel a statement, a line a study."""
    ordered = [name for name in COMPARED if name in set(found["id"])]
    groups = {name: found[found["id"] == name] for name in ordered}
    heights = [len(rows) + 1 for rows in groups.values()]
    with matplotlib.rc_context({"svg.hashsalt": "models", "svg.fonttype": "path", "font.size": 9}):
        figure = Figure(figsize=(8, 0.7 + 0.7 * len(heights) + 0.22 * sum(heights)), layout="constrained")
        panels = figure.subplots(len(heights), 1, gridspec_kw={"height_ratios": heights}, squeeze=False)[:, 0]
        for axes, name in zip(panels, ordered, strict=True):
            forest(axes, groups[name].iloc[::-1], COMPARED[name])
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    svg = stream.getvalue()
    told = html.escape(described(found), quote=True)
    return svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{told}"', 1)


def forest(axes: Axes, rows: pd.DataFrame, label: str) -> None:
    """One panel: a dot and its interval over seeds for each study; a hollow dot where there is one seed."""
    values: Iterable[Any] = rows.itertuples()
    for place, row in enumerate(values):
        colour = VERDICTS.get(str(row.verdict), ONE_SEED)
        axes.plot([row.low, row.high], [place, place], "-", color=colour)
        filled = "none" if pd.isna(row.low) else colour
        axes.plot(row.mean, place, "o", color=colour, markerfacecolor=filled, markersize=5)
    axes.set_yticks(range(len(rows)), list(rows["study"]))
    axes.set(xlabel=label, ylim=(-0.7, len(rows) - 0.3))
    axes.axvline(0, color="#555555", linewidth=0.8)
    axes.axvline(rows["threshold"].iloc[0], color="#555555", linewidth=0.8, linestyle=":")


def described(found: pd.DataFrame) -> str:
    """The plot in words."""
    rows: Iterable[Any] = found.itertuples()
    parts = [
        f"{COMPARED[row.id]}, {row.study}: {row.mean:+.2f}"
        + ("" if pd.isna(row.low) else f" [{row.low:+.2f}, {row.high:+.2f}]")
        + f", {row.verdict}"
        for row in rows
    ]
    return "Effects by statement and study. " + "; ".join(parts) + "."
