"""Run the code of one submitted notebook, and its checks. Started by :mod:`~hyperfit_course.grading` as a process.

    python -m hyperfit_course.grading.sandbox CELLS PAGE NAMES SECONDS REPORT

CELLS is a JSON file with the sources of the code cells, PAGE the module of checks that belongs to the notebook, such as
``chapter_01``, NAMES the functions to check, separated by commas, SECONDS the time of a cell, and REPORT an open file
descriptor. After each cell the functions that it has defined are checked, and a JSON line with the verdict is written
to REPORT: what was found before a submission ends its process is not lost.
Nothing here makes hostile code harmless; see the page for teachers.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import linecache
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROCESSES = ("os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen")
"""Events of Python that start another process."""


class OutOfTime(BaseException):
    """A cell runs for too long. No ``except Exception`` of a submission catches it."""


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Interrupt the block after some seconds."""

    def stop(*_: Any) -> None:
        raise OutOfTime

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def refuse_processes(event: str, _: tuple) -> None:
    """Let no other process start."""
    if event in PROCESSES:
        raise PermissionError("a graded notebook starts no other process")


def fresh_checks(page: str) -> Any:
    """The checks of a page as they are on the disk, whatever a submission did to those in memory."""
    for name in [name for name in sys.modules if name.startswith("hyperfit_course.checks")]:
        del sys.modules[name]
    return importlib.import_module(f"hyperfit_course.checks.{page}")


def run(cells: list[str], page: str, names: list[str], seconds: int, report: Any) -> None:
    """Run the cells in one namespace, and report a verdict each time that a wanted function is defined anew."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    seen: dict[str, Any] = {}
    for number, source in enumerate(cells, 1):
        problem = ""
        try:
            with limited(seconds):
                name = f"<code cell {number}>"
                linecache.cache[name] = (len(source), None, source.splitlines(True), name)  # for messages
                exec(compile(source, name, "exec"), namespace)
        except OutOfTime:
            problem = f"code cell {number} ran for more than {seconds} seconds"
        except BaseException as error:
            problem = f"code cell {number} raised {traceback.format_exception_only(error)[-1].strip()}"
        if problem:
            report({"problem": problem})
        for name in names:
            if name in namespace and namespace[name] is not seen.get(name, seen):
                seen[name] = namespace[name]
                report(verdict(page, name, namespace[name], seconds))


def verdict(page: str, name: str, answer: Any, seconds: int) -> dict[str, Any]:
    """What the check of a page's exercise says."""
    try:
        with limited(seconds):
            found = getattr(fresh_checks(page), name)(answer)
        return {"exercise": name, "passed": bool(found.passed), "message": str(found.message)}
    except OutOfTime:
        return {"exercise": name, "passed": False, "message": f"The check ran for more than {seconds} seconds."}
    except BaseException as error:
        message = traceback.format_exception_only(error)[-1].strip()
        return {"exercise": name, "passed": False, "message": f"The check could not be run: {message}"}


def main() -> None:
    """Read the arguments, close what a submission must not use, and run."""
    cells = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    page, names, seconds = sys.argv[2], sys.argv[3].split(","), int(sys.argv[4])
    fresh_checks(page)  # the imports are not part of anybody's time
    with os.fdopen(int(sys.argv[5]), "w", encoding="utf-8") as pipe:

        def report(row: dict[str, Any]) -> None:
            pipe.write(json.dumps(row) + "\n")
            pipe.flush()

        sys.addaudithook(refuse_processes)
        run(cells, page, names, seconds, report)
        report({"finished": True})


if __name__ == "__main__":
    main()
