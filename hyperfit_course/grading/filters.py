"""Which system calls may a submission make? A filter in the kernel, which no code of the process can take off again.

Limits that are watched from outside come too late for a process that doubles: it takes the watcher's time as well. So
the kernel is told (seccomp; it asks for no rights) to let a submission start no process, signal none but itself, trace
none, and open no socket. Threads stay allowed.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import struct
import subprocess
import sys

from hyperfit_course.sources import PACKAGE

_REFUSED = (
    *("fork", "vfork", "execve", "execveat", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"),
    *("ptrace", "process_vm_writev", "io_uring_setup", "socket"),
)
_NUMBERS = {  # from the tables of the kernel: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h
    "x86_64": {
        **{"fork": 57, "vfork": 58, "clone": 56, "clone3": 435, "execve": 59, "execveat": 322, "kill": 62},
        **{"tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "pidfd_send_signal": 424},
        **{"ptrace": 101, "process_vm_writev": 311, "io_uring_setup": 425, "socket": 41, "seccomp": 317},
    },
    "aarch64": {
        **{"clone": 220, "clone3": 435, "execve": 221, "execveat": 281, "kill": 129, "tkill": 130, "tgkill": 131},
        **{"rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "pidfd_send_signal": 424, "ptrace": 117},
        **{"process_vm_writev": 271, "io_uring_setup": 425, "socket": 198, "seccomp": 277},
    },
}
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # instructions of classic BPF
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16  # places in what the filter sees of a call
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_CLONE_THREAD, _OTHER_NUMBERING = 0x10000, 0x40000000
_NO_NEW_PRIVILEGES, _SET_FILTER, _ALL_THREADS = 38, 1, 1


class FilterError(OSError):
    """The kernel takes no filter."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


@functools.cache
def works() -> bool:
    """Whether the filter can be put on here. It is tried once, in another process."""
    program = "from hyperfit_course.grading.filters import put_on; put_on()"
    here = PACKAGE.parent  # where Python looks first
    return not subprocess.run([sys.executable, "-c", program], cwd=here, capture_output=True).returncode


def put_on() -> None:
    """Put the filter on this process, for good.

    Raises:
        FilterError: another processor than x86-64 and ARM64, or another kernel than Linux.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _NUMBERS:
        raise FilterError(f"There is no filter of system calls for {sys.platform} on {machine}.")
    code = _code(machine, os.getpid())
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
    call = (ctypes.c_long(_NUMBERS[machine]["seccomp"]), ctypes.c_uint(_SET_FILTER), ctypes.c_uint(_ALL_THREADS))
    if not done or libc.syscall(*call, ctypes.byref(program)) != 0:
        raise FilterError(ctypes.get_errno(), "The kernel takes no filter of system calls")


def _code(machine: str, process: int) -> bytes:
    """The filter: instructions of eight bytes. A jump says how many to leave out if it holds, and if not."""
    number = _NUMBERS[machine]
    refuse = _instruction(_RETURN, _ERROR | errno.EPERM)
    allow = _instruction(_RETURN, _ALLOW)

    def unless(name: str, test: int, value: int) -> list[bytes]:
        """A call is refused unless its first argument passes a test."""
        skip = _instruction(_EQUAL, number[name], 0, 4)
        return [skip, _instruction(_LOAD, _FIRST_ARGUMENT), _instruction(test, value, 0, 1), allow, refuse]

    code = [_instruction(_LOAD, _MACHINE), _instruction(_EQUAL, _ARCHITECTURE[machine], 1, 0), refuse]
    code += [_instruction(_LOAD, _NUMBER), _instruction(_AT_LEAST, _OTHER_NUMBERING, 0, 1), refuse]
    for name in _REFUSED:
        code += [_instruction(_EQUAL, number[name], 0, 1), refuse] if name in number else []
    # Its flags lie in memory, where a filter cannot look; the C library then takes clone.
    code += [_instruction(_EQUAL, number["clone3"], 0, 1), _instruction(_RETURN, _ERROR | errno.ENOSYS)]
    code += unless("clone", _ANY_BIT, _CLONE_THREAD)
    code += unless("kill", _EQUAL, process) + unless("tgkill", _EQUAL, process)
    return b"".join([*code, allow])


def _instruction(kind: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", kind, if_true, if_false, value)
