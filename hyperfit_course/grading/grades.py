"""Who solved which exercise? Runs submitted notebooks, each in a process of its own, and writes a table.

A submission's own check cells are not run. Its other code is, with limits of time, memory and file size, in an empty
temporary folder; then the original checks are run on the functions that it has defined. This stops accidents and
simple tricks, and not an attacker: :data:`LIMITS` says what it does not protect against.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from hyperfit_course.artifacts import atomic_path
from hyperfit_course.checks import exercises
from hyperfit_course.checks.record import PROGRESS_VARIABLE
from hyperfit_course.grading.submissions import (
    Cell,
    GradingError,
    handed_in,
    page_named,
    page_of,
    read_cells,
    shown,
    student_of,
)

LIMITS = (
    "A submission runs as you: it can read your files and use the network, and code that is written for it can forge "
    "its verdicts. Grade strangers' notebooks in a container without a network."
)
CELL_SECONDS = 60
NOTEBOOK_SECONDS = 300
MEMORY_GIGABYTES = 8
FILE_MEGABYTES = 200
DESCENDANTS = 64  #: Processes that a submission may have started before it is stopped.
NOT_READ = (
    "The file is not read, and costs no points: only notebooks (.ipynb) are. If it holds an answer, ask for that."
)
NO_FILE = "There is no file in the folder."


@dataclass(frozen=True)
class Grade:
    """One student and one exercise, or a file that was not graded."""

    student: str
    exercise: str
    passed: bool
    points: int
    possible: int
    message: str
    file: str
    graded: bool


def grade_folder(submissions: Path, leave_out: Path | None = None) -> Iterator[list[Grade]]:
    """Grade every notebook below a folder, and name what is none: one list of grades each, the notebooks first.

    A student is the first folder of a file's path below ``submissions``; of a file that lies there directly, its name.

    Args:
        submissions: the folder.
        leave_out: a file in it that nobody handed in, such as the table of an earlier run.

    Raises:
        GradingError: there is no such folder, or no notebook in it.
    """
    if resource is None:
        raise GradingError("Windows cannot limit what a submission uses: grade on Linux, for example in WSL.")
    if not submissions.is_dir():
        raise GradingError(f"There is no folder {submissions}: name the folder that holds the submitted notebooks.")
    notebooks, others = handed_in(submissions, leave_out)
    if not notebooks:
        raise GradingError(
            f"There is no notebook (.ipynb) in {submissions}: is it the right folder, and are archives unpacked?"
        )
    return itertools.chain(
        (grade_notebook(path, submissions) for path in notebooks),
        ([_not_graded(path.relative_to(submissions), NO_FILE if path.is_dir() else NOT_READ)] for path in others),
    )


def grade_notebook(path: Path, submissions: Path) -> list[Grade]:
    """Grade one notebook: a row for each exercise of its page, or one that says why there is none."""
    relative = path.relative_to(submissions)
    try:
        cells = read_cells(path)
    except GradingError as error:
        return _unreadable(relative, str(error))
    try:
        page = page_of(cells)
    except GradingError as error:
        return [_not_graded(relative, str(error))]
    points = exercises()[page]
    code = [cell.source for cell in cells if cell.kind == "code" and not is_check(cell.source)]
    verdicts, problems = run_submission(code, page, list(points))
    grades = []
    for name, possible in points.items():
        verdict = verdicts.get(name, {"passed": False, "message": why_missing(name, cells, problems)})
        reached = possible if verdict["passed"] else 0
        row = (name, bool(verdict["passed"]), reached, possible, verdict["message"])
        grades.append(Grade(student_of(relative), *row, shown(relative), graded=True))
    return grades


def _unreadable(relative: Path, why: str) -> list[Grade]:
    """Rows of a notebook that cannot be read: its possible points count, as far as its name tells them."""
    page = page_named(relative)
    if page is None:
        return [_not_graded(relative, f"{why} Its name names no page, so its possible points are not counted.")]
    return [_not_graded(relative, why, name, possible) for name, possible in exercises()[page].items()]


def _not_graded(relative: Path, message: str, exercise: str = "", possible: int = 0) -> Grade:
    return Grade(student_of(relative), exercise, False, 0, possible, message, shown(relative), graded=False)


def why_missing(name: str, cells: list[Cell], problems: list[str]) -> str:
    """Why a function has no verdict."""
    kinds = [cell.kind for cell in cells if re.search(rf"\bdef {name}\(", cell.source)]
    if kinds and "code" not in kinds:
        kind = kinds[0].replace("markdown", "Markdown")
        return f"The function {name} is in a {kind} cell, so it was not run: turn the cell back into a code cell."
    missing = "; ".join(problems) or "it is deleted, or the notebook is of another version of the exercises"
    return f"The function {name} is not there: {missing}."


def is_check(cell: str) -> bool:
    """Whether a cell only calls checks: the originals are run instead."""
    lines = [line for line in cell.split("\n") if line.strip() and not line.startswith("#")]
    return all(re.match(r"(verdict = )?checks\.\w+\(|verdict$", line) for line in lines)


def run_submission(cells: list[str], page: str, names: list[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Run a notebook's code in a process of its own: the last verdict on each exercise, and what went wrong."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        source, output = Path(folder, "cells.json"), Path(folder, "verdicts.jsonl")
        source.write_text(json.dumps(cells), encoding="utf-8")
        home = Path(folder, "home")
        home.mkdir()
        with output.open("wb") as pipe:
            report = str(pipe.fileno())
            arguments = [str(source), page, ",".join(names), str(CELL_SECONDS), report]
            process = subprocess.Popen(
                [sys.executable, "-m", "hyperfit_course.grading.sandbox", *arguments],
                cwd=home,
                env=os.environ | {PROGRESS_VARIABLE: str(home / "progress.json"), "PYTHONSAFEPATH": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[pipe.fileno()],
                start_new_session=True,
                preexec_fn=_limit,
            )
            stopped = _watch(process)
        rows = list(_rows(output))
    problems = [row["problem"] for row in rows if "problem" in row]
    if not any("finished" in row for row in rows):
        problems.append(stopped or f"the notebook ended its own process (status {process.returncode})")
    return {row["exercise"]: row for row in rows if "exercise" in row}, problems


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_GIGABYTES << 30,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_MEGABYTES << 20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _watch(process: subprocess.Popen) -> str:
    """Wait for a submission, and stop it with all that it has started; why, if it was stopped."""
    start, why = time.monotonic(), ""
    while process.poll() is None and not why:
        time.sleep(0.1)
        if time.monotonic() - start > NOTEBOOK_SECONDS:
            why = f"the notebook ran for more than {NOTEBOOK_SECONDS} seconds"
        elif len(_session(process.pid)) > DESCENDANTS:
            why = f"the notebook started more than {DESCENDANTS} processes"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # all at once, or they would multiply faster than they are found
    while others := _session(process.pid):
        for number in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.poll()
        time.sleep(0.01)
    process.wait()
    return why


def _session(leader: int) -> list[int]:
    """Processes of a session, without those that have ended and wait to be noticed."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = status.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(session) == leader and state != "Z":
            found.append(int(status.parent.name))
    return found


def _rows(output: Path) -> Iterator[dict[str, Any]]:
    for line in output.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def table(grades: list[Grade]) -> pd.DataFrame:
    """All grades, one row a student and exercise."""
    return pd.DataFrame([asdict(grade) for grade in grades], columns=list(Grade.__annotations__))


def summary(grades: pd.DataFrame) -> pd.DataFrame:
    """Points of each student."""
    return grades.groupby("student")[["points", "possible"]].sum()


def grade(submissions: Path, out: Path) -> int:
    """Grade a folder, print the points, and write the table ``out``: what ``hyperfit grade`` does.

    Returns:
        0 if every file could be graded, 1 if one could not.

    Raises:
        GradingError: as :func:`grade_folder`; or there is no folder to write the table to.
        CacheError: the table cannot be written.
    """
    if not out.parent.is_dir():
        raise GradingError(f"There is no folder {out.parent} to write {out.name} to: make it first.")
    grades, problems = [], []
    for rows in grade_folder(submissions, leave_out=out):
        grades += rows
        points, possible = (sum(getattr(row, name) for row in rows) for name in ("points", "possible"))
        if rows[0].graded:
            print(f"{rows[0].file}: {points} of {possible} points", flush=True)
        else:
            problems.append(f"  {rows[0].file}: {rows[0].message}")
    found = table(grades)
    with atomic_path(out) as temporary:
        found.to_csv(temporary, index=False)
    print(f"\n{summary(found).to_string()}\n\n{len(found)} rows are in {out}")
    if problems:
        print("\nNot graded:", *problems, sep="\n")
    return 1 if problems else 0
