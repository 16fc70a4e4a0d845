"""Does another process work here? Locks on files, and whether they work in a folder at all."""

from __future__ import annotations

import contextlib
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from hyperfit_course.artifacts import CACHE_VARIABLE, disk_errors
from hyperfit_course.study.config import StudyError

STUDY_LOCK = ".study.lock"  #: In a study's folder; the process that runs the study holds it.


@contextlib.contextmanager
def held(path: Path, why: str | None = None) -> Iterator[None]:
    """Hold a lock; wait for it where another process has it, and say why if there is something to say."""
    lock = FileLock(path)
    with disk_errors(path.parent):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if why:
                print(f"  ({why}: waiting until it is done)", flush=True)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def only_study(folder: Path, instead: str = "") -> Iterator[None]:
    """Be the only process that runs a study in a folder, which is there.

    Args:
        folder: of the study.
        instead: what else can be done than to wait, as the end of a sentence.

    Raises:
        StudyError: another one does, or files cannot be locked there.
    """
    try:
        lock = _acquired(folder / STUDY_LOCK)
    except Timeout as error:
        raise StudyError(f"Another process runs a study in {folder}: wait until it has ended{instead}.") from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Be the only process that writes a file or a folder, in a folder that is there; nothing is left of the lock.

    Raises:
        StudyError: another one does, or files cannot be locked there.
    """
    mark = path.with_name(f".{path.name}.lock")
    try:
        lock = _acquired(mark)
    except Timeout as error:
        raise StudyError(
            f"Another process is writing {path}: wait for what it writes, or name another place with --out."
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps a file that is open
            mark.unlink()  # still locked: nobody can lock it and be a second one
        lock.release()


@contextlib.contextmanager
def marked(folder: Path) -> Iterator[Path]:
    """A new file in a folder that this process has locked: who sees it, and finds it locked, shares the folder.

    Raises:
        StudyError: the folder has no locks that processes can share.
    """
    path = folder / f".hyperfit-{uuid.uuid4().hex}"
    try:
        lock = _acquired(path)
        try:
            if isinstance(lock, SoftFileLock):  # a file that a killed process leaves behind, and nobody may remove
                raise _no_locks(folder, "the system offers no locks there")
            yield path
        finally:
            lock.release()
    finally:
        path.unlink(missing_ok=True)


def _acquired(path: Path) -> FileLock:
    """A lock that this process holds now, or an error at once."""
    lock = FileLock(path)
    try:
        with disk_errors(path.parent), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # filelock says that it does without the system's locks
            lock.acquire(timeout=0)
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        raise _no_locks(path.parent, str(error)) from error
    return lock


def is_locked(path: Path) -> bool:
    """Whether another process is found to hold the lock on a file that is there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            FileLock(path, timeout=0).acquire().lock.release()
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        pass
    return False


def _no_locks(folder: Path, why: str) -> StudyError:
    return StudyError(
        f"Files in {folder} cannot be locked ({why}), and processes that share it would disturb each other: put it on "
        f"a file system with locks (--out names what is written, {CACHE_VARIABLE} the cache)."
    )
