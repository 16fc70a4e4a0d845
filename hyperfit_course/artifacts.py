"""Has this been made already? A cache of files named by what they were made from.

An *artifact* is a folder of files (a model, a training history) that is expensive to make and depends on nothing but
its key: settings, and fingerprints of the inputs. A hash of the key names the folder, so nothing is overwritten. It is
made by one process, in a work folder beside it that is renamed when everything is there; others wait. The work folder
outlives a killed process, so that long work can go on from its last checkpoint. Size and SHA-256 of every file are
recorded. What does not match is thrown away and made again, never loaded.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock
from safetensors import SafetensorError
from torch import Tensor

CACHE_VARIABLE = "HYPERFIT_CACHE"
MANIFEST = "manifest.json"


class CacheError(RuntimeError):
    """The cache folder cannot be used; the message says why and what to do."""


def cache_dir() -> Path:
    """Folder of everything that is fetched or trained, made on first use.

    The environment variable ``HYPERFIT_CACHE`` names another one (absolute, or relative to the current folder).

    Raises:
        CacheError: the folder cannot be made or written to.
    """
    path = _cache_path()
    with disk_errors(path):
        for place in (path, *path.parents):
            if place.is_file():
                raise CacheError(
                    f"The cache cannot be {path}, since {place} is a file: set {CACHE_VARIABLE} to a folder."
                )
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()  # os.access says yes to root on read-only mounts, so try it
    return path


def _cache_path() -> Path:
    path = Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("hyperfit-course", appauthor=False))
    return path.expanduser().absolute()


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's errors about ``path`` into one sentence that says what to do."""
    hint = f"set {CACHE_VARIABLE} to a folder where there is room and that you may write to"
    if not path.absolute().is_relative_to(_cache_path()):
        hint = "name another place, in a command with --out"
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors reports the system's errors as text: "... (os error 28)"
        found = re.search(r"os error (\d+)", str(error))
        number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise CacheError(f"The disk that holds {path} is full: free some space, or {hint}.") from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise CacheError(f"Cannot write to {path} ({os.strerror(number)}): {hint}.") from error
        raise


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes the name ``path`` only if the block ends well.

    Raises:
        CacheError: the disk is full or read-only. What stood at ``path`` before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with disk_errors(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_tensor(tensor: Tensor) -> str:
    """SHA-256 of a tensor's shape and values, in hexadecimal."""
    return hashlib.sha256(f"{tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes()).hexdigest()


def key_digest(key: Mapping[str, Any]) -> str:
    """Hash of a key: the same for equal keys on every machine, whatever the order of their entries."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def artifact(kind: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """The folder of an artifact, made if it is not there yet; artifacts of a kind share a folder of the cache.

    Args:
        kind: what it is, in a word.
        key: everything that the content depends on, as JSON values.
        make: fills the folder that it is given. That folder may hold what an earlier, killed attempt left.

    Raises:
        CacheError: the cache cannot be written to.
    """
    parent = cache_dir() / kind
    folder, work = parent / key_digest(key), parent / f"{key_digest(key)}.work"
    with disk_errors(parent):
        parent.mkdir(exist_ok=True)
    with FileLock(parent / f"{folder.name}.lock"), disk_errors(folder):
        if folder.exists():
            fault = find_fault(folder)
            if fault is None:
                return folder
            warnings.warn(f"The cached {kind} in {folder} is damaged ({fault}); it is made again.", stacklevel=2)
            shutil.rmtree(folder)
        work.mkdir(exist_ok=True)
        make(work)
        _write_manifest(work, key)
        os.replace(work, folder)
    return folder


def _write_manifest(folder: Path, key: Mapping[str, Any]) -> None:
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST  # that of an attempt killed before its folder got its name
    }
    (folder / MANIFEST).write_text(json.dumps({"key": dict(key), "files": files}, indent=1), encoding="utf-8")


def find_fault(folder: Path) -> str | None:
    """What is wrong with a finished artifact, in a few words, or ``None``."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        expectations = [(name, entry["size"], entry["sha256"]) for name, entry in files.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its manifest is missing or unreadable"
    for name, size, sha256 in expectations:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has the wrong size"
        if sha256_file(path) != sha256:
            return f"the content of {name} has changed"
    return None
