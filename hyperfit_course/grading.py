"""Who solved which exercise? Runs submitted notebooks, each in a process of its own, and writes a table.

A submission's own check cells are not run. Its other code is, with limits of time, memory and file size, in an empty
temporary folder; then the original checks are run on the functions that it has defined. This stops accidents and
simple tricks, and not an attacker: :data:`LIMITS` says what it does not protect against.
"""

from __future__ import annotations

import contextlib
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

import nbformat
import pandas as pd

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from hyperfit_course.checks import EXERCISES
from hyperfit_course.checks.record import PROGRESS_VARIABLE

LIMITS = (
    "A submission runs as you: it can read your files and use the network, and code that is written for it can forge "
    "its verdicts. Grade strangers' notebooks in a container without a network."
)
CELL_SECONDS = 60
NOTEBOOK_SECONDS = 300
MEMORY_GIGABYTES = 8
FILE_MEGABYTES = 200
DESCENDANTS = 64
"""Processes that a submission may have started before it is stopped."""


class GradingError(ValueError):
    """Nothing can be graded; the message says why and what to do."""


@dataclass(frozen=True)
class Grade:
    """One student and one exercise."""

    student: str
    exercise: str
    passed: bool
    points: int
    possible: int
    message: str
    file: str


def grade_folder(submissions: Path) -> Iterator[list[Grade]]:
    """Grade every notebook below a folder, one list of grades each, in the order of their names.

    A student is the first folder of a notebook's path below ``submissions``; of a notebook that lies there directly,
    its name.

    Raises:
        GradingError: there is no such folder, or no notebook in it.
    """
    if resource is None:
        raise GradingError("Windows cannot limit what a submission uses: grade on Linux, for example in WSL.")
    if not submissions.is_dir():
        raise GradingError(f"There is no folder {submissions}: name the folder that holds the submitted notebooks.")
    paths = sorted(path for path in submissions.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    if not paths:
        raise GradingError(f"There is no notebook (.ipynb) in {submissions}: is it the right folder?")
    return (grade_notebook(path, submissions) for path in paths)


def grade_notebook(path: Path, submissions: Path) -> list[Grade]:
    """Grade one notebook: a row for each exercise of its chapter, or one that says why there is none."""
    relative = path.relative_to(submissions)
    student = relative.parts[0].removesuffix(".ipynb")

    def row(exercise: str, passed: bool, possible: int, message: str) -> Grade:
        return Grade(student, exercise, passed, possible if passed else 0, possible, message, relative.as_posix())

    try:
        cells = code_cells(path)
        points = exercises_in(cells)
    except GradingError as error:
        return [row("", False, 0, str(error))]
    verdicts, problems = run_submission([cell for cell in cells if not is_check(cell)], list(points))
    missing = "; ".join(problems) or "it is deleted, or the notebook is of another version of the exercises"
    grades = []
    for name, possible in points.items():
        verdict = verdicts.get(name)
        message = verdict["message"] if verdict else f"The function {name} is not there: {missing}."
        grades.append(row(name, bool(verdict and verdict["passed"]), possible, message))
    return grades


def code_cells(path: Path) -> list[str]:
    """The sources of a notebook's code cells.

    Raises:
        GradingError: the file is no notebook.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
        cells = [str(cell.source) for cell in notebook.cells if cell.cell_type == "code"]
        return [re.sub(r"^[ \t]*[%!].*$", "", cell, flags=re.M) for cell in cells]  # commands to Jupyter, not Python
    except Exception as error:  # the parser raises many kinds
        raise GradingError(f"The file is no notebook: {type(error).__name__}.") from error


def exercises_in(cells: list[str]) -> dict[str, int]:
    """The exercises of the chapter that most of a notebook's functions belong to, with their points.

    Raises:
        GradingError: no function of any exercise is there.
    """
    names = set(re.findall(r"^(?:def )?(\w+)(?:\(| *=[^=])", "\n".join(cells), flags=re.M))
    known = {chapter: len(names & set(exercises)) for chapter, exercises in EXERCISES.items()}
    chapter = max(known, key=lambda name: known[name])
    if not known[chapter]:
        raise GradingError("The notebook defines no function of any exercise: it is another notebook, or empty.")
    return EXERCISES[chapter]


def is_check(cell: str) -> bool:
    """Whether a cell only calls checks: the originals are run instead."""
    lines = [line for line in cell.split("\n") if line.strip() and not line.startswith("#")]
    return all(re.match(r"(verdict = )?checks\.\w+\(|verdict$", line) for line in lines)


def run_submission(cells: list[str], names: list[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Run a notebook's code in a process of its own: the last verdict on each exercise, and what went wrong."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        source, output = Path(folder, "cells.json"), Path(folder, "verdicts.jsonl")
        source.write_text(json.dumps(cells), encoding="utf-8")
        home = Path(folder, "home")
        home.mkdir()
        with output.open("wb") as pipe:
            report = str(pipe.fileno())
            process = subprocess.Popen(
                [sys.executable, "-m", "hyperfit_course.sandbox", source, ",".join(names), str(CELL_SECONDS), report],
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
