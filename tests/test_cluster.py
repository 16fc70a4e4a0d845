"""A study on a Dask cluster of two workers: the same numbers, a killed worker, and workers that are not fit."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_study import data_of, without_times
from test_workers import alone, config, finished, wait_for  # noqa: F401 - fixtures among them

from hyperfit_course.study import cluster, run
from hyperfit_course.study.config import Names, StudyConfig, StudyError
from hyperfit_course.study.workers import Workers

distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install distributed")


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Any]:
    """Two processes with a thread each, which are started again when they are killed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOKY_MAX_CPU_COUNT", "1")  # so that each computes with one thread, as the test itself does
        with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as started:
            yield started


@contextlib.contextmanager
def thread_cluster(workers: int, threads: int = 1) -> Iterator[str]:
    """The address of a cluster whose workers are threads of this process: it is there at once."""
    with distributed.LocalCluster(
        n_workers=workers, threads_per_worker=threads, processes=False, protocol="tcp", dashboard_address=None
    ) as started:
        yield started.scheduler_address


def test_killed_worker_changes_nothing_and_nothing_finished_is_measured_twice(
    two_workers: Any,
    config: StudyConfig,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run.study(config, str(tmp_path / "sequential"))
    expected = without_times(data_of(tmp_path / "sequential"))
    monkeypatch.setenv("HYPERFIT_CACHE", str(tmp_path / "another cache"))
    out, before = tmp_path / "study", {}

    def kill_one() -> None:
        wait_for(lambda: (out / "rows").is_dir() and len(finished(out)) >= 5)
        with distributed.Client(two_workers.scheduler_address, set_as_default=False) as client:
            busy = wait_for(lambda: [name for name, tasks in client.processing().items() if tasks])[0]
            pid = client.run(os.getpid, workers=[busy])[busy]
        before.update(finished(out))
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    assert run.study(config, str(out), cluster=two_workers.scheduler_address) == 0
    killer.join()
    assert 5 <= len(before) < len(expected["parts"]), "the worker was not killed half-way"
    assert before.items() <= finished(out).items(), "a finished part was measured again"
    assert without_times(data_of(out)) == expected


class Unreadable:
    """What no worker can read, as if a module were missing there."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


class Ready:
    """What a process has to be told where nothing is measured."""

    def follow(self) -> None:
        pass


def test_work_that_dask_gives_up_is_an_error_and_no_endless_wait() -> None:
    tell: Any = Ready
    with (
        thread_cluster(1) as address,
        distributed.Client(address, set_as_default=False) as client,
        pytest.raises(RuntimeError, match="deserialization"),
    ):
        Workers(1, {}, cluster._Backend(client=client)).run(print, [(Unreadable(),)], tell)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (distributed.CancelledError("scheduler-connection-lost"), "The scheduler at tcp://a is gone: what is finished"),
        (distributed.KilledWorker("batch", None, 3), "were killed one after the other, often for want of memory"),
    ],
    ids=["scheduler", "workers"],
)
def test_what_is_lost_on_the_way_is_a_sentence(loss: Exception, message: str) -> None:
    with pytest.raises(StudyError, match=message), cluster._losses("tcp://a"):
        raise loss


# Workers that are not fit


@contextlib.contextmanager
def unseen(folder: Path) -> Iterator[Path]:
    """A mark that no worker sees."""
    yield folder / "on another machine"


@contextlib.contextmanager
def unlocked(folder: Path) -> Iterator[Path]:
    """A mark whose lock no worker notices."""
    folder.mkdir(exist_ok=True)
    (folder / "mark").touch()
    yield folder / "mark"


NEWER = {"torch": "99.0"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("versions", lambda: NEWER, "has torch .*, and here it is 99.0: install the same version there"),
        ("marked", unseen, "does not see the cache .*: set HYPERFIT_CACHE here to a folder that all machines share"),
        ("marked", unlocked, "does not notice locks in the cache .*: set HYPERFIT_CACHE here to a folder on a file"),
    ],
    ids=["another version", "another disk", "locks of one machine"],
)
def test_worker_that_is_not_fit_is_named_before_anything_is_measured(
    name: str,
    value: Callable[..., Any],
    message: str,
    two_workers: Any,
    config: StudyConfig,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, name, value)  # here, and not in the workers
    out = tmp_path / "study"
    with pytest.raises(StudyError, match=rf"The worker tcp://[\d.:]+ {message}"):
        run.study(config, str(out), cluster=two_workers.scheduler_address)
    assert not out.exists()


SOUND = {"versions": {"torch": "2.0"}, "seen": [True, True], "locked": [True, True], "missing": []}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, None),
        ({"versions": {"torch": "2.1"}}, "has torch 2.1, and here it is 2.0"),
        ({"versions": {}}, "has torch None"),
        ({"seen": [True, False]}, "does not see the output folder /out: name one with --out that all machines share"),
        ({"locked": [True, False]}, "does not notice locks in the output folder /out: name one with --out on a file"),
        ({"missing": ["my/model"]}, "does not see my/model: give its whole path, in a folder that all"),
    ],
    ids=["sound", "version", "no package", "output", "locks", "model"],
)
def test_what_a_worker_lacks_is_said(given: dict[str, Any], message: str | None) -> None:
    found = cluster.fault_of({**SOUND, **given}, {"torch": "2.0"}, Path("/out"))
    assert found is None if message is None else message in str(found)


def test_clusters_that_cannot_measure_are_refused(
    config: StudyConfig,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens there
        silent = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        for address in (silent, "no address"):
            with pytest.raises(StudyError, match=f"No Dask scheduler answers at {address}: start one with 'dask sched"):
                run.study(config, str(tmp_path / "study"), cluster=address)
    with (
        thread_cluster(0) as address,
        pytest.raises(StudyError, match=f"has no workers: start some, 'dask worker {address}'"),
    ):
        run.study(config, str(tmp_path / "study"), cluster=address)
    with (
        thread_cluster(1, threads=2) as address,
        pytest.raises(StudyError, match="would measure 2 arms at once in one process: start it with --nthreads 1"),
    ):
        run.study(config, str(tmp_path / "study"), cluster=address)


def test_cluster_of_one_worker_measures_there_and_not_here(
    config: StudyConfig,  # noqa: F811
    two_workers: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    two_workers.scale(1)
    wait_for(lambda: len(two_workers.scheduler_info["workers"]) == 1)

    def here(*of: Any) -> None:
        raise AssertionError("measured in this process")

    monkeypatch.setattr("hyperfit_course.study.one_arm._tried", here)
    config = replace(config, arms=Names(["full"]), parts=Names(["prediction"]))
    try:
        assert run.study(config, str(tmp_path / "study"), cluster=two_workers.scheduler_address) == 0
    finally:
        two_workers.scale(2)
