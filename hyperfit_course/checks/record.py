"""Which exercises are solved? A small file beside the reader's other data, kept over restarts."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path

import pandas as pd
import platformdirs

from hyperfit_course.artifacts import CacheError, atomic_path

PROGRESS_VARIABLE = "HYPERFIT_PROGRESS"


def progress_file() -> Path:
    """The file; the environment variable ``HYPERFIT_PROGRESS`` names another one."""
    named = os.environ.get(PROGRESS_VARIABLE)
    if named:
        return Path(named).expanduser()
    return Path(platformdirs.user_data_dir("hyperfit-course", appauthor=False)) / "progress.json"


def keep(exercise: str, passed: bool) -> None:
    """Count an attempt. Where the file cannot be written the check goes on, and says so once a call."""
    path = progress_file()
    known = read(path)
    row = known.get(exercise, {"attempts": 0, "solved": None})
    row["attempts"] += 1
    if passed and not row["solved"]:
        row["solved"] = datetime.date.today().isoformat()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(known | {exercise: row}, indent=1) + "\n", encoding="utf-8")
    except (OSError, CacheError):
        print(f"Your progress is not kept: {path} cannot be written. Name another file with {PROGRESS_VARIABLE}.")


def read(path: Path) -> dict[str, dict]:
    """What the file holds; nothing where there is none, or where it is damaged."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def progress_table(exercises: dict[str, list[str]]) -> pd.DataFrame:
    """One row an exercise, in the order of the course: chapter, attempts, and the day on which it was solved."""
    known = read(progress_file())
    rows = [
        {
            "chapter": chapter,
            "exercise": name,
            "attempts": known.get(name, {}).get("attempts", 0),
            "solved": known.get(name, {}).get("solved") or "",
        }
        for chapter, names in exercises.items()
        for name in names
    ]
    return pd.DataFrame(rows, columns=["chapter", "exercise", "attempts", "solved"]).set_index(["chapter", "exercise"])
