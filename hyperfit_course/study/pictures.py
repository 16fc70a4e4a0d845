"""The pictures of a report, each as one address that holds all of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from hyperfit_course.plots import layer_figure, plt, repetition_figure
from hyperfit_course.study.recording import Row


def pictures(rows: Sequence[Row]) -> list[dict[str, str]]:
    """The figures that the rows allow: title, alternative text, and an SVG picture as a data address."""
    found = []
    written = [row for row in rows if row["part"] == "writing"]
    if written:
        frames: dict[str, list[float]] = {}
        for row in written:
            frames.setdefault(row["arm"], []).extend(row["ttr_of_prompts"])
        means = ", ".join(f"{arm} {sum(values) / len(values):.2f}" for arm, values in frames.items())
        figure = repetition_figure(
            {arm: pd.DataFrame({"ttr": v}) for arm, v in frames.items()}, "ttr", "type-token ratio"
        )
        found.append(_picture("Greedy text", f"Type-token ratios of greedy continuations; means: {means}.", figure))
    runs = {f"{row['arm']}, seed {row['seed']}": row["running_losses"] for row in rows if row["part"] == "training"}
    if runs:
        last = ", ".join(f"{name} {losses[-1]:.2f}" for name, losses in runs.items())
        found.append(
            _picture("Training", f"Mean training loss of each epoch; at the end: {last}.", _training_figure(runs))
        )
    curves = _curves(rows)
    if curves:
        alt = "Participation ratio after every block and after the final norm, one curve an arm."
        found.append(_picture("Layers", alt, layer_figure({"participation ratio": curves})))
    return found


def _curves(rows: Sequence[Row]) -> dict[str, pd.DataFrame]:
    found: dict[str, pd.DataFrame] = {}
    for row in rows:
        if row["part"] == "layers" and row["measure"] == "participation ratio" and row["arm"] not in found:
            frame = pd.DataFrame({name: row[name] for name in ("value", "low", "high")})
            found[row["arm"]] = frame.assign(depth=range(len(frame)))
    return found


def _picture(title: str, alt: str, figure: Figure) -> dict[str, str]:
    stream = io.BytesIO()
    with plt.rc_context({"svg.hashsalt": title}):  # the same picture each time
        figure.savefig(stream, format="svg", metadata={"Date": None}, facecolor="white")
    plt.close(figure)
    return {
        "title": title,
        "alt": alt,
        "address": "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode(),
    }


def _training_figure(runs: Mapping[str, Sequence[float]]) -> Figure:
    """Mean training loss of every epoch, a line a run."""
    figure, axes = plt.subplots()
    for name, losses in runs.items():
        axes.plot(range(1, len(losses) + 1), losses, marker="o", label=name)
    axes.set(xlabel="epoch", ylabel="training loss (nats a token)", ylim=(0, None))
    axes.legend(fontsize="small")
    return figure
