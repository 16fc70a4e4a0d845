"""Run the code of one submitted notebook, and its checks. Started by :mod:`~hyperfit_course.grading` as a process.

    python -m hyperfit_course.grading.sandbox PAGE NAMES SECONDS REPORT

PAGE is the module of checks that belongs to the notebook, such as ``chapter_01``, NAMES the functions to check,
separated by commas, SECONDS the time of a cell, and REPORT an open file descriptor. The standard input is a JSON object
with ``cells``, the sources of the code cells, and ``token``. After each cell the functions that it has defined are
checked, and a line with the token and the verdict in JSON is written to REPORT: what was found before a submission ends
its process is not lost, and a line that a submission writes itself counts for nothing, unless it has found the token in
the memory of this process. What makes hostile code harmless is in :mod:`~hyperfit_course.grading.isolation` and
:mod:`~hyperfit_course.grading.filters`.
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
from collections.abc import Callable, Iterator
from typing import Any

from hyperfit_course.grading.filters import FilterError, put_on

PROCESSES = ("os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen")
"""Events of Python that start another process."""
SIGNALS = ("os.kill", "os.killpg")
USED_BY_CHECKS = ("builtins", "copy", "inspect", "json", "math", "torch", "torch.linalg", "torch.nn.functional")
"""Modules whose functions a submission may not replace for its checks."""


Row = dict[str, Any]
Report = Callable[[Row], None]


class OutOfTime(BaseException):
    """A cell runs for too long. No ``except Exception`` of a submission catches it."""


@contextlib.contextmanager
def limited(seconds: int, report: Report, last: Row) -> Iterator[None]:
    """Interrupt the block after some seconds. If it goes on, report a last row after as many more, and end."""
    interrupted = False

    def stop(*_: Any) -> None:
        nonlocal interrupted
        if interrupted:
            report(last)
            os._exit(1)
        interrupted = True
        raise OutOfTime

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def refuse(event: str, _: tuple) -> None:
    """Let no other process start, and none be ended: for code in Python. Libraries in C are not asked."""
    if event in PROCESSES:
        raise PermissionError("a graded notebook starts no other process")
    if event in SIGNALS:
        raise PermissionError("a graded notebook sends no signals")


class Originals:
    """The functions and classes that the checks use, to be put back where a submission has replaced them."""

    def __init__(self) -> None:
        self.modules = {name: importlib.import_module(name) for name in USED_BY_CHECKS}
        torch: Any = self.modules["torch"]
        owners = [*self.modules.values(), torch.Tensor, torch.nn.Module]
        self.saved = [(owner, {k: v for k, v in vars(owner).items() if callable(v)}) for owner in owners]

    def put_back(self) -> None:
        """Undo what was replaced; what was added stays."""
        sys.modules.update(self.modules)
        for owner, names in self.saved:
            for name, value in names.items():
                if vars(owner).get(name) is not value:
                    setattr(owner, name, value)


def fresh_checks(page: str) -> Any:
    """The checks of a page as they are on the disk, whatever a submission did to those in memory."""
    for name in [name for name in sys.modules if name.startswith("hyperfit_course.checks")]:
        del sys.modules[name]
    return importlib.import_module(f"hyperfit_course.checks.{page}")


def run(cells: list[str], page: str, names: list[str], seconds: int, report: Report) -> None:
    """Run the cells in one namespace, and report a verdict each time that a wanted function is defined anew."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    seen: dict[str, Any] = {}
    originals = Originals()
    for number, source in enumerate(cells, 1):
        problem = ""
        stubborn = {"problem": f"code cell {number} went on when its {seconds} seconds were over"}
        try:
            with limited(seconds, report, stubborn):
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
                originals.put_back()
                report(verdict(page, name, namespace[name], seconds, report))


def verdict(page: str, name: str, answer: Any, seconds: int, report: Report) -> Row:
    """What the check of a page's exercise says."""
    endless = {"exercise": name, "passed": False, "message": f"The check ran for more than {seconds} seconds."}
    try:
        with limited(seconds, report, endless):
            found = getattr(fresh_checks(page), name)(answer)
        return {"exercise": name, "passed": bool(found.passed), "message": str(found.message)}
    except OutOfTime:
        return endless
    except BaseException as error:
        message = traceback.format_exception_only(error)[-1].strip()
        return {"exercise": name, "passed": False, "message": f"The check could not be run: {message}"}


def main() -> None:
    """Read the arguments, close what a submission must not use, and run."""
    told = json.load(sys.stdin)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    page, names, seconds = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3])
    fresh_checks(page)  # the imports are not part of anybody's time
    with os.fdopen(int(sys.argv[4]), "w", encoding="utf-8") as pipe:
        token = told.pop("token")

        def report(row: Row) -> None:
            pipe.write(f"\n{token}{json.dumps(row)}\n")  # a submission may have left a line without an end
            pipe.flush()

        sys.addaudithook(refuse)  # it says in a sentence what the filter refuses with a number
        with contextlib.suppress(FilterError):  # the grader has said so
            put_on()
        run(told["cells"], page, names, seconds, report)
        report({"finished": True})


if __name__ == "__main__":
    main()
