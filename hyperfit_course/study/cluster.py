"""Can the workers of a Dask cluster measure arms? They need the same code and versions, and must share the folders."""

from __future__ import annotations

import contextlib
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
from joblib._dask import DaskDistributedBackend

from hyperfit_course.artifacts import CACHE_VARIABLE, cache_dir
from hyperfit_course.sources import code_behind
from hyperfit_course.study.config import StudyConfig, StudyError
from hyperfit_course.study.locks import is_locked, marked
from hyperfit_course.study.workers import Workers

PATIENCE = 5  #: Seconds until an address that gives no answer is given up.
PACKAGES = ("torch", "transformers", "accelerate", "peft", "numpy")


@contextlib.contextmanager
def cluster_workers(address: str, config: StudyConfig, folder: Path) -> Iterator[Workers]:
    """The workers of a cluster, each found fit for a study.

    A worker measures one arm at a time. The cores of a machine are divided among its workers.

    Args:
        address: of a Dask scheduler.
        config: of the study.
        folder: of the study, the whole path; it need not be there yet.

    Raises:
        StudyError: Dask is not installed, nothing answers at the address, or a worker is not fit.
    """
    with _connected(address) as client:
        threads = client.nthreads()
        if not threads:
            raise StudyError(f"The cluster at {address} has no workers: start some, 'dask worker {address}'.")
        if busy := [name for name, count in threads.items() if count > 1]:
            raise StudyError(
                f"The worker {busy[0]} would measure {threads[busy[0]]} arms at once in one process: start it with "
                "--nthreads 1, and several on one machine with --nworkers."
            )
        hosts = _fit(client, config, folder)
        shares = {host: max(1, cores // count) for host, (cores, count) in hosts.items()}
        with _losses(address):
            yield Workers(len(threads), shares, _Backend(client=client))


class _Backend(DaskDistributedBackend):
    """Joblib's backend for Dask; a task that Dask gives up is an error, where joblib 1.6 would wait for ever."""

    def effective_n_jobs(self, n_jobs: int) -> int:
        return max(2, super().effective_n_jobs(n_jobs))  # with one, joblib would measure in this process

    def submit(self, func: Any, callback: Callable[[Any], None]) -> Any:
        future = super().submit(func, callback)
        future.add_done_callback(lambda done: callback(done.exception()) if done.exception() else None)
        return future


@contextlib.contextmanager
def _losses(address: str) -> Iterator[None]:
    """What Dask says of workers and schedulers that are gone, as sentences."""
    from distributed import CancelledError, KilledWorker

    try:
        yield
    except KilledWorker as error:
        raise StudyError(
            "The workers that an arm was given to were killed one after the other, often for want of memory: what is "
            "finished is kept, so start the same command again, with fewer workers on a machine if memory was short."
        ) from error
    except CancelledError as error:
        raise StudyError(
            f"The scheduler at {address} is gone: what is finished is kept, so start it and the same command again."
        ) from error


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError as error:
        raise StudyError(
            "--cluster needs Dask: pip install 'hyperfit-course[cluster]', or use --jobs on one machine."
        ) from error
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise StudyError(
            f"No Dask scheduler answers at {address}: start one with 'dask scheduler', and give --cluster the address "
            "that it prints, such as tcp://10.0.0.1:8786."
        ) from error
    with client:
        yield client


def _fit(client: Any, config: StudyConfig, folder: Path) -> dict[str, tuple[int, int]]:
    """The cores of each machine, and how many workers are on it; or an error that says what a worker lacks."""
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    sources = [name for name in (config.model, config.corpus) if name and Path(name).expanduser().exists()]
    with marked(cache_dir()) as in_cache, marked(there) as in_output:
        found = client.run(look_around, [in_cache, in_output], sources, on_error="return")
    for address, seen in found.items():
        if isinstance(seen, BaseException):
            raise StudyError(
                f"The worker {address} cannot run the course ({type(seen).__name__}: {seen}): install the same version "
                "of the course there."
            )
        if fault := fault_of(seen, versions(), there):
            raise StudyError(f"The worker {address} {fault}")
    counts = Counter(seen["machine"] for seen in found.values())
    return {seen["machine"]: (seen["cores"], counts[seen["machine"]]) for seen in found.values()}


def versions() -> dict[str, str]:
    """What has to be the same in all processes of a study, for the same numbers; builds of PyTorch may differ."""
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "the course": f"{version('hyperfit-course')} ({code_behind('hyperfit_course.study.battery')[:8]})",
        **{name: version(name).split("+")[0] for name in PACKAGES},
    }


def look_around(marks: Sequence[Path], sources: Sequence[str]) -> dict[str, Any]:
    """What a worker says of itself; this runs there.

    Args:
        marks: files that the asking process has made and locked, in the cache and where the study goes.
        sources: paths of the model and of the corpus.
    """
    return {
        "machine": platform.node(),
        "cores": joblib.cpu_count(only_physical_cores=True),
        "versions": versions(),
        "seen": [mark.exists() for mark in marks],
        "locked": [mark.exists() and is_locked(mark) for mark in marks],
        "missing": [name for name in sources if not Path(name).expanduser().exists()],
    }


def fault_of(seen: Mapping[str, Any], here: Mapping[str, str], output: Path) -> str | None:
    """Why a worker cannot measure, and what to do, as the end of a sentence; or ``None``.

    Args:
        seen: what :func:`look_around` gave there.
        here: :func:`versions` of this process.
        output: the folder in which the study is, or will be made.
    """
    for name, wanted in here.items():
        if seen["versions"].get(name) != wanted:
            return f"has {name} {seen['versions'].get(name)}, and here it is {wanted}: install the same version there."
    names = (f"the cache {cache_dir()}", f"the output folder {output}")
    remedies = (f"set {CACHE_VARIABLE} here to a folder", "name one with --out")
    for name, remedy, sees, locked in zip(names, remedies, seen["seen"], seen["locked"], strict=True):
        if not sees:
            return f"does not see {name}: {remedy} that all machines share under one path."
        if not locked:
            return f"does not notice locks in {name}: {remedy} on a file system whose locks work between machines."
    if seen["missing"]:
        return f"does not see {seen['missing'][0]}: give its whole path, in a folder that all machines share."
    return None
