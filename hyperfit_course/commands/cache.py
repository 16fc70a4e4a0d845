"""``hyperfit cache``: what is kept, whether it is whole, and how to get rid of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from hyperfit_course.artifacts import MANIFEST, cache_dir, disk_errors, find_fault
from hyperfit_course.commands.options import Caching
from hyperfit_course.study.config import StudyError

UNFINISHED = "unfinished"  #: The kind that names what interrupted runs left, of all kinds.


def look_after(options: Caching) -> int:
    """List, verify or prune the cache.

    Returns:
        0, or 1 if something in it is damaged.

    Raises:
        StudyError: there is nothing of the kind that is to be removed.
    """
    if options.kind and options.action != "prune":
        raise StudyError(f"--kind goes with prune only: leave it out, and {options.action} goes through all kinds.")
    print(f"The cache is {cache_dir()}")
    actions = {"list": _list, "verify": _verify, "prune": lambda: _prune(options.kind)}
    return actions[options.action]()


def kept() -> Iterator[Path]:
    """Folders of finished artifacts."""
    for kind in sorted(path for path in cache_dir().iterdir() if path.is_dir()):
        yield from sorted(path.parent for path in kind.glob(f"*/{MANIFEST}") if path.parent.suffix != ".work")


def unfinished() -> list[Path]:
    """What work that was interrupted left behind; a run goes on from it."""
    return sorted(path for path in cache_dir().glob("*/*.work") if path.is_dir())


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def _list() -> int:
    for kind in sorted(path for path in cache_dir().iterdir() if path.is_dir()):
        folders = [path for path in kept() if path.parent == kind]
        left = [path for path in unfinished() if path.parent == kind]
        count = f"{len(folders)} kept" if folders else f"{sum(path.is_file() for path in kind.iterdir())} files"
        extra = f", {len(left)} unfinished" if left else ""
        print(f"  {kind.name:16}{size_of(kind) / 1e6:10,.0f} MB  {count}{extra}")
    return 0


def _verify() -> int:
    damaged = 0
    for folder in kept():
        fault = find_fault(folder)
        damaged += fault is not None
        print(f"  {folder.parent.name}/{folder.name}: {fault or 'whole'}")
    print(
        f"{damaged} damaged. "
        + ("'hyperfit cache prune' removes them; they are made again when needed." if damaged else "")
    )
    return 1 if damaged else 0


def _prune(kind: str | None) -> int:
    """Remove what is damaged; or, of a kind, everything and nothing else."""
    if kind == UNFINISHED:
        wanted = unfinished()
    elif kind:
        wanted = [path for path in [*kept(), *unfinished()] if path.parent.name == kind]
    else:
        wanted = [path for path in kept() if find_fault(path) is not None]
    if kind and not wanted:
        known = sorted({path.parent.name for path in [*kept(), *unfinished()]}) + [UNFINISHED] * bool(unfinished())
        hint = f"choose from {', '.join(known)}" if known else "the cache is empty"
        raise StudyError(f"Of the kind {kind} there is nothing that prune can remove: {hint}.")
    freed = 0
    for path in wanted:
        with disk_errors(path):
            try:
                with FileLock(path.with_suffix(".lock"), timeout=0):
                    freed += size_of(path)
                    shutil.rmtree(path)
                print(f"  removed {path.parent.name}/{path.name}")
            except Timeout:
                print(f"  kept {path.parent.name}/{path.name}: a running process uses it")
    print(f"{freed / 1e6:,.0f} MB are free again.")
    return 0
