"""How do time and memory grow? What benchmarks/growth.py recorded, beside what the plan's formulas give."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from hyperfit_course.plots import plt

ROWS = {"machine": 1, "texts": 4, "length": 4, "size": 4, "processes": 2, "workers": 2}
"""How many rows each series has when all of it is recorded."""
GROWS = {"texts": ("n_texts", "the texts"), "length": ("length", "the tokens of a text")}
GROWS |= {"size": ("parameters", "the parameters")}
"""The column that grows in a series, and what it counts."""
MEASURED = {"cpu_seconds": ("plan_seconds", "CPU seconds of an epoch"), "megabytes": ("plan_megabytes", "megabytes")}
"""A measured column of one process, the plan's column beside it, and what both hold."""


def all_there(rows: pd.DataFrame) -> bool:
    """Whether every series is recorded to its end."""
    return not rows.empty and rows["series"].value_counts().to_dict() == ROWS


def growth_figure(rows: pd.DataFrame) -> Figure:
    """Time and memory of one process against texts, their length and the size of the model, on logarithmic axes.

    Args:
        rows: of ``results/growth.json``. A dot is measured, and the lines join what the plan's formulas give.
    """
    figure, grid = plt.subplots(2, len(GROWS), figsize=(10.5, 5.6), sharex="col", sharey="row")
    for column, (series, (grows, counted)) in zip(grid.T, GROWS.items(), strict=True):
        points = rows[rows["series"] == series].sort_values(grows)
        for axes, (measured, (plan, _)) in zip(column, MEASURED.items(), strict=True):
            axes.plot(points[grows], points[measured], "o", color="#D55E00", label="measured")
            axes.plot(points[grows], points[plan], "-", color="#0072B2", label="the plan's formula")
            axes.set_xscale("log", base=2)
            axes.set_yscale("log", base=2)
            if measured == "megabytes":  # which span less than two powers of 2
                axes.yaxis.set_major_locator(LogLocator(base=2, subs=(1, 1.5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_xticks(points[grows], [_short(value) for value in points[grows]])
        column[-1].set_xlabel(f"{counted} (logarithmic)")
    for axes, (_, held) in zip(grid[:, 0], MEASURED.values(), strict=True):
        axes.set_ylabel(held)
    grid[0, 0].legend(fontsize="small")
    return figure


def _short(number: float) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number:.0f}"


def shared_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Work that processes share: an epoch among those of a training, and a study among its jobs.

    Returns:
        A row for each number of processes: ``seconds`` by the clock, as a ``share of one`` process, and the same
        share by the plan; ``CPU seconds`` of all together, and ``megabytes`` of one.
    """
    tables = []
    for series in ("processes", "workers"):
        points = rows[rows["series"] == series].sort_values(series)
        shares = [points[name] / points[name].iloc[0] for name in ("seconds", "plan_seconds")]
        named = {"work": "an epoch" if series == "processes" else "a study", "processes": points[series].astype(int)}
        columns = {"seconds": points["seconds"], "share of one": shares[0], "by the plan": shares[1]}
        others = {"CPU seconds": points["cpu_seconds"], "megabytes of each": points["megabytes"]}
        tables.append(pd.DataFrame({**named, **columns, **others}))
    return pd.concat(tables).set_index(["work", "processes"]).round(2)


def exponent(points: pd.DataFrame, grows: str, column: str) -> float:
    """The power of one column with which another grows: a slope of least squares between their logarithms."""
    return float(np.polyfit(np.log(points[grows]), np.log(points[column]), 1)[0])


def statements(rows: pd.DataFrame) -> list[str]:
    """Four sentences that the rows decide, each with the plan's number."""
    found, memory = [], ("megabytes", "plan_megabytes")
    for series, (grows, counted) in GROWS.items():
        points = rows[rows["series"] == series].sort_values(grows)
        first, last = points.iloc[0], points.iloc[-1]
        powers = [exponent(points, grows, column) for column in ("cpu_seconds", "plan_seconds")]
        time = "The time of an epoch grows with {} to the power {:.2f} (plan: {:.2f})".format(counted, *powers)
        if series == "size":
            each = [1e6 * (last[name] - first[name]) / (last[grows] - first[grows]) for name in memory]
            found.append("{}, and one parameter more takes {:.0f} bytes (plan: {:.0f}).".format(time, *each))
        else:
            times = [last[name] / first[name] for name in memory]
            ends = f"from {first[grows]:.0f} to {last[grows]:.0f}, memory becomes"
            found.append("{}; {} {:.2f} times as large (plan: {:.2f}).".format(time, ends, *times))
    of_two = shared_table(rows)[["share of one", "by the plan"]].xs(2, level="processes")
    two = "Two processes take {:.2f} of the time of one for an epoch (plan: {:.2f}), {:.2f} for a study (plan: {:.2f})."
    return [*found, two.format(*of_two.to_numpy().flatten().tolist())]
