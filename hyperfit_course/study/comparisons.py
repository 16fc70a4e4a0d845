"""Which arm gives more? Recorded arms beside one another: what is there so far, means, and differences seed by seed.

``make results`` takes several sittings. So a page may read a file that is not there yet, or holds a part of its models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from hyperfit_course.study.recording import Row
from hyperfit_course.study.records import recorded
from hyperfit_course.study.statistics import differences, t_interval

CHOSEN_BY = ("configuration", "arm", "way", "seed", "prompts", "trained_on", "epochs")
"""Columns that pages choose rows by."""
RANK = 12
"""Of adapters that an arm's name does not tell."""
OWN_WORDS = 0.1
"""A text of which a smaller share than this is recited counts as the model's own."""


def recorded_arms(*files: str, prompts: str = "tales") -> pd.DataFrame:
    """The rows of some files as far as they are recorded, one a model, without those after other prompts.

    An arm whose adapters have another rank than :data:`RANK` has it in its name, such as ``last 5, rank 3``. A file
    that is not there yet has no rows.

    Args:
        files: their names, without ``.json``.
        prompts: the corpus that the prompts come from.

    Raises:
        ValueError: none of the files has such a row.
    """
    rows = [row for name in files for row in map(_named, _so_far(name)) if row["prompts"] == prompts]
    if not rows:
        raise ValueError(f"No model is recorded in {', '.join(files)}: run 'make results' in a checkout of the course.")
    return pd.DataFrame(rows)


def recorded_so_far(name: str) -> pd.DataFrame:
    """The rows of ``results/<name>.json`` as far as they are recorded.

    A file that is not there yet is a table without rows, with the columns of :data:`CHOSEN_BY`.
    """
    rows = _so_far(name)
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*CHOSEN_BY])


def _so_far(name: str) -> list[Row]:
    try:
        return recorded(name)
    except FileNotFoundError:
        return []


def _named(row: Row) -> Row:
    arm = row["arm"] if row["rank"] in (RANK, None) else f"{row['arm']}, rank {row['rank']}"
    return {**row, "arm": arm}


def whole_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of those seeds that every arm among them has: so means of arms are means of the same seeds."""
    arms = rows.groupby("seed")["arm"].nunique()
    return rows[rows["seed"].isin(arms.index[arms == rows["arm"].nunique()])]


def own_words(rows: pd.DataFrame) -> pd.Series:
    """For every model the mean type-token ratio of its own texts, of which less than :data:`OWN_WORDS` is recited.

    NaN for a model that has none.
    """
    found = []
    for ratios, recited in zip(rows["ttr_of_prompts"], rows["recited_of_prompts"], strict=True):
        own = np.asarray(ratios)[np.asarray(recited) < OWN_WORDS]
        found.append(float(own.mean()) if own.size else math.nan)
    return pd.Series(found, index=rows.index)


def means(rows: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """The number of seeds and the means over them, one row an arm, in the order of the rows.

    Args:
        columns: names of columns, and what a reader calls them; those that the rows do not have are left out.
    """
    groups = rows.groupby("arm", sort=False)
    known = {name: title for name, title in columns.items() if name in rows}
    table = groups[list(known)].mean().astype(float).round(3).rename(columns=known)
    table.insert(0, "seeds", groups["seed"].nunique())
    return table


def gaps(rows: pd.DataFrame, of: str, over: str, column: str = "ttr") -> pd.Series:
    """One arm minus another for every seed that both have, by its seed; nothing where they share none."""
    seeds = [set(rows.loc[rows["arm"] == arm, "seed"]) for arm in (of, over)]
    if not seeds[0] & seeds[1]:
        return pd.Series(dtype=float)
    return differences(rows, of, over, column).sort_index()


def compared(rows: pd.DataFrame, pairs: Iterable[tuple[str, str]], column: str = "ttr") -> pd.DataFrame:
    """Differences of arms, one row a pair that shares a seed: by seed, their mean with its t interval over the seeds,
    and the smallest true difference that so many seeds would have told from 0 in four of five experiments."""
    found = {f"{of} minus {over}": gaps(rows, of, over, column) for of, over in pairs}
    return pd.DataFrame.from_dict({name: shown(gap) for name, gap in found.items() if len(gap)}, orient="index")


def contrast(rows: pd.DataFrame, of: str, over: str, columns: Mapping[str, str]) -> pd.DataFrame:
    """Two arms in several columns, one row a column: their means over the seeds that both have, and the differences."""
    table = {}
    for column, name in columns.items():
        gap = gaps(rows, of, over, column)
        shared = rows[rows["seed"].isin(gap.index)].groupby("arm")[column].mean()
        table[name] = {arm: f"{shared[arm]:.3f}" for arm in (over, of)} | shown(gap)
    return pd.DataFrame(table).T.rename(columns={"by seed": f"{of} minus {over}"})


def shown(gap: pd.Series) -> dict[str, str]:
    """Differences by seed, for a table. One alone has no interval."""
    found = t_interval(gap) if len(gap) > 1 else None
    return {
        "by seed": ", ".join(f"{value:+.2f}" for value in gap),
        "mean [95 % interval over seeds]": str(found) if found else "one seed",
        "would be found": f"{found.smallest:.2f}" if found else "",
    }


def best_setting(rows: pd.DataFrame, arm: str, by: str, column: str = "ttr") -> pd.DataFrame:
    """The rows of an arm with that value of ``by`` whose mean over the seeds is largest."""
    of_arm = rows[rows["arm"] == arm]
    return of_arm[of_arm[by] == of_arm.groupby(by)[column].mean().idxmax()]


def by_depth(rows: pd.DataFrame, named: Mapping[str, int]) -> pd.DataFrame:
    """The rows of neighbouring trained blocks, in the order of depth, with the number of the first as ``first block``.

    Args:
        named: first blocks of arms whose names do not tell them, such as ``{"middle 5": 13}``.
    """
    told = rows["arm"].str.extract(r"^blocks (\d+)-\d+$")[0].astype(float)
    first = told.fillna(rows["arm"].map(named))
    return rows.assign(**{"first block": first}).dropna(subset="first block").sort_values(["first block", "seed"])
