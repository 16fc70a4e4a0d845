"""What does one arm of a study give? Part after part, each written when it is measured, in any process."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hyperfit_course.artifacts import CacheError, disk_errors
from hyperfit_course.study.arms import base_model
from hyperfit_course.study.battery import PARTS, StudyArm, forget
from hyperfit_course.study.config import StudyError
from hyperfit_course.study.locks import held
from hyperfit_course.study.meter import Meter
from hyperfit_course.study.progress import Progress
from hyperfit_course.study.recording import Row, Task, record
from hyperfit_course.study.report import FAILED, write_report

ROWS = "rows"  #: Folder of a study with a file of rows for each finished part.

BEGUN = ".begun"  #: End of the name of a hidden file there, for each arm that is being measured.
TRIES = 3  #: Processes that an arm may take with it.


@dataclass(frozen=True)
class Work:
    """What the arms of a study share, whichever process measures them."""

    folder: Path  #: Of the study.
    identity: dict[str, Any]  #: What the study is of: hashes of weights, texts and code among it.
    stopped: dict[str, str]  #: Parts that a failed self-check stops, and why.

    def configuration(self, part: str, arm: StudyArm) -> Row:
        """All that decides the numbers of a part."""
        decides = {name: self.identity[name] for name in ("weights", "texts", "corpus", "code", "moments")}
        return {"part": part, **arm.configuration(), **decides}

    def seconds_of(self, part: str, arm: StudyArm) -> float | None:
        """What a part took, if its rows are there and fit; else ``None``."""
        try:
            rows = json.loads((self.folder / ROWS / f"{file_of(part, arm)}.json").read_text(encoding="utf-8"))["rows"]
        except FileNotFoundError:
            return None
        if not rows or rows[0]["configuration"] != self.configuration(part, arm):
            return None
        return float(rows[0].get("cost", {}).get("seconds", 0))  # a part that was not tried has no cost


def file_of(part: str, arm: StudyArm) -> str:
    """Name of the file of rows of a part, without ``.json``."""
    return re.sub(r"\W+", "_", f"{part} {arm.label} seed {arm.seed}")


def names_of(arm: StudyArm) -> Row:
    """The values by which rows name their arm."""
    return {"arm": arm.label, "seed": arm.seed}


def measure_arm(work: Work, arm: StudyArm, parts: Sequence[str], progress: Progress | None = None) -> None:
    """Measure the parts of an arm that are not there yet; what fails is a row with its reason.

    One process at a time measures an arm of a study. Others wait, and then find what it has left.

    Args:
        progress: is told what begins and what it took; ``None`` for silence.

    Raises:
        CacheError: the disk is full or read-only.
        StudyError: every process that measured the arm was killed.
    """
    forget()
    lost: dict[str, str] = {}
    rows = work.folder / ROWS
    name = f"{arm.label}, seed {arm.seed}"
    with (
        held(rows / f".{file_of('arm', arm)}.lock", f"another process still measures {name}"),
        _counted(rows / f".{file_of('arm', arm)}{BEGUN}", name),
    ):
        for part in parts:
            if progress:
                progress.begins(part, arm)
            measure = functools.partial(_rows, part, arm, work, lost, progress)
            with contextlib.redirect_stdout(io.StringIO()):  # progress says all that is to be said
                record(file_of(part, arm), [Task(part, work.configuration(part, arm), measure)], rows)
            with held(work.folder / ".report.lock"):
                write_report(work.folder)
    forget()


@contextlib.contextmanager
def _counted(path: Path, name: str) -> Iterator[None]:
    """Count in a file how often an arm is begun and not ended: an arm that kills its process is not tried for ever."""
    begun = path.stat().st_size if path.exists() else 0
    if begun >= TRIES:
        raise StudyError(
            f"Each of {begun} processes that measured {name} was killed, often for want of memory: what is finished is "
            "kept, so start the same command again, with fewer processes on a machine if memory was short."
        )
    with disk_errors(path), path.open("ab") as stream:
        stream.write(b".")
    yield
    path.unlink(missing_ok=True)


def _rows(part: str, arm: StudyArm, work: Work, lost: dict[str, str], progress: Progress | None) -> Iterator[Row]:
    reason = lost.get("training") or work.stopped.get(part)
    if reason:
        yield {**names_of(arm), FAILED: reason}
        return
    with Meter(base_model(arm.subject).device) as meter:
        rows, reason = _tried(part, arm, work.folder)
    if reason and part == "training":
        lost["training"] = f"the arm could not be trained: {reason}"
    if progress:
        progress.took(part, meter.seconds)
    cost = {"seconds": round(meter.seconds, 1), "peak_gigabytes": round(meter.peak / 1e9, 3)}
    for row in [{**names_of(arm), FAILED: reason}] if reason else rows:
        yield {"part": part, **row, "cost": cost}


def _tried(part: str, arm: StudyArm, folder: Path) -> tuple[list[Row], str | None]:
    """The rows of a part, or the reason why there are none; the disk's errors end the study."""
    try:
        return list(PARTS[part].measure(arm)), None
    except CacheError:
        raise
    except Exception as error:  # out of memory, an unsupported architecture, a value that has no logarithm ...
        with (folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%F %T')} {part}, {arm.label}, seed {arm.seed}\n{traceback.format_exc()}\n")
        line = (str(error).strip().splitlines() or [""])[0]
        tqdm.write(f"  failed: {line}", file=sys.stderr)
        kind = "" if type(error).__module__.startswith("hyperfit_course.") else f"{type(error).__name__}: "
        return [], f"{kind}{line}"
