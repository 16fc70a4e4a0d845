"""What did the code of one notebook define, and what do the checks say? Run in a process of its own, which is watched.

Where :mod:`~hyperfit_course.grading.isolation` says that bubblewrap works, the process runs in it. The limits of time,
memory, file size and processes hold in both cases.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from hyperfit_course.checks.record import PROGRESS_VARIABLE
from hyperfit_course.grading import isolation

CELL_SECONDS = 60
NOTEBOOK_SECONDS = 300
MEMORY_GIGABYTES = 8
FILE_MEGABYTES = 200
DESCENDANTS = 64  #: Processes that a submission may have started before it is stopped.
REPORT_BYTES = 1 << 22  #: Of what a submission reports, the part that is read.
MESSAGE_LENGTH = 2000  #: Of a message, the characters that are kept.


def run_submission(cells: list[str], page: str, names: list[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Run a notebook's code in a process of its own: the last verdict on each exercise, and what went wrong."""
    isolated, token = not isolation.why_not(), secrets.token_hex(16)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        output = Path(folder, "verdicts")
        home = isolation.HOME if isolated else str(Path(folder, "home"))
        Path(folder, "home").mkdir()
        with output.open("wb") as report:
            program = [sys.executable, "-m", "hyperfit_course.grading.sandbox", page, ",".join(names)]
            program += [str(CELL_SECONDS), str(report.fileno())]
            process = subprocess.Popen(
                isolation.wrapped(program) if isolated else program,
                cwd=Path(folder, "home"),
                env=isolation.environment(home) | {PROGRESS_VARIABLE: f"{home}/progress.json"},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[report.fileno()],
                start_new_session=True,
                preexec_fn=_limit,
            )
            try:
                _tell(process, {"token": token, "cells": cells})
                stopped = _watch(process)
            finally:
                _stop(process, isolated)
        rows = list(_rows(output, token))
    problems = [row["problem"] for row in rows if "problem" in row]
    if not any("finished" in row for row in rows):
        problems.append(stopped or f"the notebook ended its own process (status {process.returncode})")
    return {row["exercise"]: row for row in rows if "exercise" in row}, problems


def _tell(process: subprocess.Popen, told: dict[str, Any]) -> None:
    """Through a pipe, which is empty once it is read: code that runs later finds the token in no file."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(json.dumps(told).encode())


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_GIGABYTES << 30,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_MEGABYTES << 20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _watch(process: subprocess.Popen) -> str:
    """Wait for a submission until it ends or goes too far; why, if it did."""
    start = time.monotonic()
    while process.poll() is None:
        time.sleep(0.2)
        if time.monotonic() - start > NOTEBOOK_SECONDS:
            return f"the notebook ran for more than {NOTEBOOK_SECONDS} seconds"
        family = _family(process.pid)
        if len(family) > DESCENDANTS:
            return f"the notebook started more than {DESCENDANTS} processes"
        if _memory(family) > MEMORY_GIGABYTES << 30:
            return f"the notebook took more than {MEMORY_GIGABYTES} GB of memory"
    return ""


def _stop(process: subprocess.Popen, isolated: bool) -> None:
    """End a submission with all that it has started.

    In bubblewrap everything ends with the first process of its namespace, and bubblewrap itself after that. Elsewhere a
    process is found by its session or its parents, and one that has left both is not.
    """
    others = _family(process.pid)
    if not isolated:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # all at once, or they would multiply faster than they are found
    while others:
        for number in others - {process.pid} if isolated and len(others) > 1 else others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.poll()
        time.sleep(0.01)
        others = _family(process.pid)
    process.wait()


def _family(leader: int) -> set[int]:
    """A process with its descendants and all of its session, without those that have ended and wait to be noticed."""
    parents, found = {}, {leader}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, _, session = status.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if state != "Z":
            number = int(status.parent.name)
            parents[number] = int(parent)
            found |= {number} if int(session) == leader else set()
    while more := {number for number, parent in parents.items() if parent in found} - found:
        found |= more
    return found & set(parents)


def _memory(family: set[int]) -> int:
    """Bytes of memory of some processes; what forks have in common counts once. Files that are shared do not count."""
    kilobytes = 0
    for number in family:
        with contextlib.suppress(OSError):
            found = re.search(r"^Pss_Anon: +(\d+)", Path(f"/proc/{number}/smaps_rollup").read_text(), re.M)
            kilobytes += int(found[1]) if found else 0
    return kilobytes << 10


def _rows(output: Path, token: str) -> Iterator[dict[str, Any]]:
    """What was reported, without the lines that are not as :mod:`~hyperfit_course.grading.sandbox` writes them."""
    with output.open("rb") as stream:
        lines = stream.read(REPORT_BYTES).decode("utf-8", "replace").splitlines()
    for line in lines:
        if not line.startswith(token):
            continue
        try:
            row = json.loads(line.removeprefix(token))
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and _is_sound(row):
            yield {name: value[:MESSAGE_LENGTH] if isinstance(value, str) else value for name, value in row.items()}


def _is_sound(row: dict[str, Any]) -> bool:
    kinds = {"exercise": str, "passed": bool, "message": str}
    if "exercise" in row:
        return all(isinstance(row.get(name), kind) for name, kind in kinds.items())
    return "finished" in row or isinstance(row.get("problem"), str)
