"""Which exercises are there, and which are solved? A small file beside the reader's other data, kept over restarts."""

from __future__ import annotations

import datetime
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import platformdirs

from hyperfit_course.artifacts import CacheError, atomic_path

PROGRESS_VARIABLE = "HYPERFIT_PROGRESS"
EXERCISES: dict[str, dict[str, int]] = {}  #: The exercises of each page whose checks are imported, with their points.


def register(page: str, exercise: str, points: int) -> None:
    """Note that a page has an exercise. Another page may have one of the same name."""
    EXERCISES.setdefault(page, {})[exercise] = points


def progress_file() -> Path:
    """The file; the environment variable ``HYPERFIT_PROGRESS`` names another one."""
    named = os.environ.get(PROGRESS_VARIABLE)
    if named:
        return Path(named).expanduser()
    return Path(platformdirs.user_data_dir("hyperfit-course", appauthor=False)) / "progress.json"


def keep(page: str, exercise: str, passed: bool) -> None:
    """Count an attempt. Where the file cannot be written the check goes on, and says so once a call."""
    path = progress_file()
    known = read(path)
    row = known.get(f"{page}.{exercise}", {"attempts": 0, "solved": None})
    row["attempts"] += 1
    if passed and not row["solved"]:
        row["solved"] = datetime.date.today().isoformat()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(known | {f"{page}.{exercise}": row}, indent=1) + "\n", encoding="utf-8")
    except (OSError, CacheError):
        print(f"Your progress is not kept: {path} cannot be written. Name another file with {PROGRESS_VARIABLE}.")


def read(path: Path) -> dict[str, dict]:
    """The sound rows of the file; none where there is no file, or where it is damaged."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: row for key, row in known.items() if _is_row(row)} if isinstance(known, dict) else {}


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and type(row.get("attempts")) is int
        and isinstance(row.get("solved", 0), (str, type(None)))
    )


def progress_table(exercises: dict[str, list[str]]) -> pd.DataFrame:
    """One row an exercise, in the order of the course: page, attempts, and the day on which it was solved.

    An older file has rows by the exercise's name alone: such a row counts where only one page has that exercise.
    """
    known = read(progress_file())
    pages_with = Counter(name for names in exercises.values() for name in names)
    rows = []
    for page, names in exercises.items():
        for name in names:
            keys = [f"{page}.{name}", *([name] if pages_with[name] == 1 else [])]
            found = [known[key] for key in keys if key in known]
            solved = min((row["solved"] for row in found if row["solved"]), default="")
            rows.append((page, name, sum(row["attempts"] for row in found), solved))
    return pd.DataFrame(rows, columns=["page", "exercise", "attempts", "solved"]).set_index(["page", "exercise"])
