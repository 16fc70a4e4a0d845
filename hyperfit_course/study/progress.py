"""What is being measured, and how long will the rest take? Lines for somebody who waits."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperfit_course.study.battery import StudyArm

EVERY = 1.0  #: Seconds between two looks at what other processes have finished.


def duration(seconds: float) -> str:
    """A time for readers, such as ``0.4 seconds``, ``12 seconds``, ``3 minutes`` or ``2.5 hours``."""
    for size, unit, digits in ((3600, "hours", 1), (60, "minutes", 0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.{int(seconds < 10)}f} seconds"


class Progress:
    """Says what begins, or what is finished, with a guess of the time that is left from the parts so far.

    Args:
        tasks: all parts of the study, each with its arm.
        processes: that measure at the same time.
    """

    def __init__(self, tasks: list[tuple[str, StudyArm]], processes: int = 1) -> None:
        self.tasks, self.processes = tasks, processes
        self._seconds: dict[str, list[float]] = {}
        self._done: set[int] = set()

    def begins(self, part: str, arm: StudyArm) -> None:
        """A part is being measured now, and all before it are done."""
        number = self.tasks.index((part, arm))
        self._done = set(range(number))
        self._say(number, number + 1, "")

    def took(self, part: str, seconds: float) -> None:
        """What a part took."""
        self._seconds.setdefault(part, []).append(seconds)

    @contextlib.contextmanager
    def watching(self, look: Callable[[str, StudyArm], float | None]) -> Iterator[None]:
        """While the block runs, say which parts other processes have finished.

        Args:
            look: gives the seconds that a part took, or ``None`` while it is not there.
        """
        self._look(look, silent=True)
        if self._done:
            print(f"{len(self._done)} of {len(self.tasks)} parts are there already.", flush=True)
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(EVERY):
                self._look(look)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
            self._look(look)

    def _look(self, look: Callable[[str, StudyArm], float | None], silent: bool = False) -> None:
        for number in sorted(set(range(len(self.tasks))) - self._done):
            seconds = look(*self.tasks[number])
            if seconds is None:
                continue
            self._done.add(number)
            if not silent:
                self.took(self.tasks[number][0], seconds)
                self._say(number, len(self._done), ": finished")

    def _say(self, number: int, count: int, what: str) -> None:
        part, arm = self.tasks[number]
        line = f"[{count}/{len(self.tasks)}] {part}, {arm.label}, seed {arm.seed}{what}"
        print(f"{line}{self._time_left()}", flush=True)

    def _time_left(self) -> str:
        known = {name: sum(values) / len(values) for name, values in self._seconds.items()}
        left = [name for number, (name, _) in enumerate(self.tasks) if number not in self._done]
        if not known or not left:
            return ""
        usual = sum(known.values()) / len(known)
        seconds = sum(known.get(name, usual) for name in left) / self.processes
        return f" (about {duration(seconds)} left)"
