"""What may a submission see and change? Where bubblewrap works, a system of its own, read-only and without a network.

`bubblewrap <https://github.com/containers/bubblewrap>`_ (the package ``bubblewrap`` of Debian and Ubuntu, version 0.8
or newer) starts a program in namespaces of its own: it sees the files that are named here, and no process, user or
network of the machine. It needs no rights of an administrator. Whether it works here is tried, not guessed.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from hyperfit_course.artifacts import sha256_file
from hyperfit_course.grading.filters import works
from hyperfit_course.sources import PACKAGE

PROTECTED = (
    "Each submission runs in bubblewrap: the system and the course are read-only, there is no network, and it sees "
    "no file and no process of yours. Code that is written for this grader can still forge the verdicts of its own "
    "submission: look at the code of those who solved everything."
)
UNPROTECTED = (
    "NOT PROTECTED: each submission runs as you. It can read, change and delete your files, these grades too, fill the "
    "disk, and forge its verdicts. What still holds: limits of time, of memory and of each file's size; and grading "
    "stops when a submission has changed the installed course."
)
FILTERED = "The kernel lets no submission start or end a process, or use the network."
UNFILTERED = (
    "The kernel here takes no filter of system calls (it takes x86-64 or ARM64, and Linux): a submission can start "
    "processes until nothing else runs, and without bubblewrap also end this program and use the network."
)
INSTALL = "Install bubblewrap (sudo apt install bubblewrap), or grade in a container without a network."
SCRATCH_MEGABYTES = 200  #: All that a submission in bubblewrap can write.
HOME = "/tmp/home"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/sys/devices/system/cpu")
_SETTINGS = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "fonts")
_PACKAGES = ("site-packages", "dist-packages")
_TRY = "import hyperfit_course.checks.core"  #: What every submission needs: PyTorch, and the course.


def statement() -> str:
    """What is protected here, and what is not."""
    missing = why_not()
    protected = f"{missing}\n{UNPROTECTED}" if missing else PROTECTED
    return f"{protected} {FILTERED if works() else UNFILTERED}"


@functools.cache
def why_not() -> str:
    """Why submissions cannot run in bubblewrap here; nothing if they can. It is tried once, in a few seconds."""
    if shutil.which("bwrap") is None:
        return f"bubblewrap is not installed. {INSTALL}"
    try:
        trial = [sys.executable, "-c", _TRY]
        found = subprocess.run(
            wrapped(trial), env=environment(HOME), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap cannot run here ({error}). {INSTALL}"
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or [f"status {found.returncode}"])[-1]
        return f"bubblewrap is installed and cannot run here ({reason}). Version 0.8 or newer is needed. {INSTALL}"
    return ""


def wrapped(program: list[str]) -> list[str]:
    """The command that runs a program in bubblewrap.

    The program keeps the open descriptors that it is given. With it ends everything that it has started.
    """
    megabytes = str(SCRATCH_MEGABYTES << 20)
    return [
        *("bwrap", "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"),
        *("--unshare-cgroup-try", "--disable-userns", "--die-with-parent", "--new-session"),
        *("--uid", "1000", "--gid", "1000", "--hostname", "grading"),
        *(argument for path in _SYSTEM for argument in _shown_as_it_is(Path(path))),
        *(argument for name in _SETTINGS for argument in ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")),
        *("--proc", "/proc", "--dev", "/dev", "--size", megabytes, "--tmpfs", "/dev/shm"),
        *("--size", megabytes, "--tmpfs", "/tmp", "--dir", HOME),
        *(argument for path in readable() for argument in ("--ro-bind", str(path), str(path))),
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", HOME, "--", *program),
    ]


def _shown_as_it_is(path: Path) -> list[str]:
    """On many systems ``/bin`` is a link to ``/usr/bin``, and programs are found by both names."""
    if path.is_symlink():
        return ["--symlink", os.readlink(path), str(path)]
    return ["--ro-bind", str(path), str(path)] if path.is_dir() else []


def readable() -> list[Path]:
    """Folders of Python, of its packages and of the course that lie in no other one and not in the system's."""
    python = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent.parent)}
    packages = {path for path in sys.path if Path(path).name in _PACKAGES and Path(path).is_dir()}
    system = Path("/usr")
    found = {Path(path) for path in python | packages} | {PACKAGE}
    return sorted(path for path in found - {system} if not {system, *found} & set(path.parents))


def environment(home: str) -> dict[str, str]:
    """The variables of a submission: none of yours but the language and where programs are."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS") if name in os.environ}
    # The course as this process has it; a folder of packages is on Python's own path already.
    ours = {} if PACKAGE.parent.name in _PACKAGES else {"PYTHONPATH": str(PACKAGE.parent)}
    private = {"HOME": home, "TMPDIR": home, "USER": "student", "HF_HUB_OFFLINE": "1"}
    return kept | ours | private | {"PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def course_files() -> dict[str, str]:
    """SHA-256 of each file of the installed course, in hexadecimal, by its path in the package."""
    paths = [path for path in sorted(PACKAGE.rglob("*")) if path.is_file()]
    return {path.relative_to(PACKAGE).as_posix(): sha256_file(path) for path in paths}


def course_digest(files: dict[str, str]) -> str:
    """One digest of all of them, without what Python has compiled."""
    kept = [f"{name} {sha256}" for name, sha256 in sorted(files.items()) if "__pycache__" not in name]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()
