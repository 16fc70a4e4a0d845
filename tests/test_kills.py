"""The cache and the table of grades under kills, a full disk, a read-only folder and a wrong clock: nothing finished is
lost, and nothing corrupt is loaded. The longest of these run in ``make test-slow``, and print how much they did."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest

from hyperfit_course.artifacts import CacheError, artifact, find_fault
from hyperfit_course.checks import exercises
from hyperfit_course.cli import main
from hyperfit_course.grading import isolation, runner

KILLS = 200
READERS = 4
KEYS = 12  #: Artifacts that are wanted at one time: few, so that writers meet.
FORK = multiprocessing.get_context("fork")  # a process in a millisecond: 200 times PyTorch would take minutes


def content(number: int, name: str) -> bytes:
    """What belongs into a file of an artifact: it can be told from that of every other."""
    return hashlib.sha256(f"{number} {name}".encode()).digest() * (500 + 37 * (number % 50))


class Missing(Exception):
    """A reader has asked for an artifact that is not there."""


class Log:
    """Lines that several processes write; each is written at once, and their order is that of the events."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, *words: object) -> None:
        line = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(line, (" ".join(map(str, words)) + "\n").encode())
        os.close(line)

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.path.read_text().splitlines()] if self.path.exists() else []


def write_one(number: int, log: Log) -> None:
    def make(folder: Path) -> None:
        log("begins", number)
        (folder / "inside").mkdir(exist_ok=True)
        for name in ("a", "inside/b", "c"):
            whole = content(number, name)
            with (folder / name).open("wb") as stream:
                for start in range(0, len(whole), 8000):
                    stream.write(whole[start : start + 8000])
                    stream.flush()
                    time.sleep(0.001)
        log("made", number)

    artifact("things", {"number": number}, make)
    log("finished", number)


def writer(seed: int, first: int, log: Log) -> None:
    draw = random.Random(seed)
    while True:
        write_one(first + draw.randrange(KEYS), log)


def reader(seed: int, most: int, stop: Path, log: Log) -> None:
    draw, warned = random.Random(seed), warnings.simplefilter("error")  # "damaged" is an error here
    assert warned is None

    def make(folder: Path) -> None:
        raise Missing

    while not stop.exists():
        number = draw.randrange(most)
        try:
            folder = artifact("things", {"number": number}, make)
        except Missing:
            continue
        except UserWarning:
            log("damaged", number)
            continue
        sound = all((folder / name).read_bytes() == content(number, name) for name in ("a", "inside/b", "c"))
        log("read" if sound else "corrupt", number)


def killed(process: multiprocessing.process.BaseProcess) -> bool:
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.slow
def test_killed_writers_lose_nothing_and_leave_nothing_corrupt(tmp_path: Path) -> None:
    log, stop, draw = Log(tmp_path / "log"), tmp_path / "stop", random.Random(0)
    most = KEYS * (1 + KILLS // 20)
    readers = [FORK.Process(target=reader, args=(seed, most, stop, log)) for seed in range(READERS)]
    for each in readers:
        each.start()
    kills = 0
    while kills < KILLS:
        first = KEYS * (kills // 20)  # after twenty kills, other artifacts
        pair = [FORK.Process(target=writer, args=(draw.random(), first, log)) for _ in range(2)]
        for each in pair:
            each.start()
        time.sleep(draw.uniform(0.005, 0.15))
        kills += sum(map(killed, pair))
    stop.touch()
    for each in readers:
        each.join(120)
    lines = log.lines()
    finished: set[str] = set()
    again: list[str] = []
    for word, number in lines:
        finished |= {number} if word == "finished" else set()
        again += [number] if word == "begins" and number in finished else []
    count = {word: sum(line[0] == word for line in lines) for word in ("begins", "made", "read", "corrupt", "damaged")}
    print(f"cache: killed {kills}, begun {count['begins']}, finished {len(finished)}, read {count['read']}, ", end="")
    print(f"lost {len(again)}, corrupt {count['corrupt']}, damaged {count['damaged']}")
    assert [each.exitcode for each in readers] == [0] * READERS
    assert (count["corrupt"], count["damaged"], again) == (0, 0, [])
    assert count["begins"] - count["made"] > KILLS // 20, "too few kills came while something was made"
    assert count["read"] > KILLS
    for number in range(most):  # and all can still be made
        write_one(number, log)
    kept = [path for path in (tmp_path / "cache" / "things").iterdir() if path.is_dir()]
    assert len(kept) == most, "no work folder is left"
    assert [find_fault(path) for path in kept] == [None] * most


FULL = """
import os, subprocess, sys
from pathlib import Path
from hyperfit_course.artifacts import CacheError, artifact
folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
made = []
def of(name, size):
    def make(folder):
        made.append(name)
        (folder / "whole").write_bytes(os.urandom(size))
    return make
os.environ["HYPERFIT_CACHE"] = str(folder)
artifact("things", {"name": "small"}, of("small", 1 << 20))
for _ in range(2):
    try:
        artifact("things", {"name": "large"}, of("large", 8 << 20))
    except CacheError as error:
        print(error)
artifact("things", {"name": "small"}, of("small", 1 << 20))
print((artifact("things", {"name": "large"}, of("less", 1 << 20)) / "whole").stat().st_size)
print(made)
"""


def test_a_disk_that_is_really_full_loses_nothing_that_is_finished(tmp_path: Path) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a small disk of their own (unshare --user --mount)")
    (tmp_path / "disk").mkdir()
    command = [*unshare, sys.executable, "-c", FULL, str(tmp_path / "disk")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    first, second, size, made = ended.stdout.splitlines()
    assert first == second
    assert "is full: free some space, or set HYPERFIT_CACHE to a folder where there is room" in first
    assert int(size) == 1 << 20
    assert made == "['small', 'large', 'large', 'less']", "what was finished is not made again"


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that any user can reach."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def as_nobody(function: Callable[[], None]) -> int | None:
    """Run something without the rights of an administrator, to whom nothing is read-only; its exit status."""

    def run() -> None:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        function()

    process = FORK.Process(target=run)
    process.start()
    process.join(120)
    return process.exitcode


def test_a_read_only_cache_is_said_and_keeps_what_it_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    with open_folder() as folder:
        monkeypatch.setenv("HYPERFIT_CACHE", str(folder))
        write_one(1, log)
        inside = [path for path in [folder, *folder.rglob("*")] if path.is_dir()]
        for path in inside:
            path.chmod(0o555)

        def ask() -> None:
            with pytest.raises(CacheError, match=r"Cannot write to .*Permission denied.*: set HYPERFIT_CACHE to"):
                artifact("things", {"number": 1}, lambda path: None)

        assert as_nobody(ask) == 0
        for path in inside:
            path.chmod(0o755)
        write_one(1, log)
    assert [line[0] for line in log.lines()] == ["begins", "made", "finished", "finished"]


@pytest.mark.parametrize("years", [-40, 40])
def test_a_clock_that_was_set_back_or_ahead_makes_nothing_again(years: int, cache: Path, tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    write_one(1, log)
    then = time.time() + years * 365 * 86400
    for path in [*cache.rglob("*"), cache]:
        os.utime(path, (then, then))
    write_one(1, log)
    assert [line[0] for line in log.lines()] == ["begins", "made", "finished", "finished"]


@pytest.mark.slow
def test_every_altered_byte_is_found_before_anything_is_loaded(tmp_path: Path) -> None:
    log, draw, number = Log(tmp_path / "log"), random.Random(0), 3
    write_one(number, log)
    for _ in range(100):
        folder = artifact("things", {"number": number}, lambda path: pytest.fail("it was there"))
        path = folder / draw.choice(["a", "inside/b", "c"])
        raw = bytearray(path.read_bytes())
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        path.write_bytes(raw)
        with pytest.warns(UserWarning, match="has changed"):
            write_one(number, log)
        assert all((folder / name).read_bytes() == content(number, name) for name in ("a", "inside/b", "c"))


# The table of grades


def graded(folder: Path, log: Log) -> None:
    """Grade in this process, with submissions that are not run."""

    def run(cells: list[str], page: str, names: list[str]) -> tuple[dict, list[str]]:
        log("run", cells[0].split()[-1])
        time.sleep(0.004)
        return {names[0]: {"exercise": names[0], "passed": True, "message": "well done"}}, []

    runner.run_submission = run
    isolation.why_not = lambda: ""
    with open(folder / "said", "a") as said, contextlib.redirect_stdout(said):
        os._exit(main(["grade", str(folder / "handed_in"), "--out", str(folder / "grades.csv")]))


@pytest.mark.slow
def test_killed_graders_lose_no_grade_and_end_with_the_same_table(tmp_path: Path) -> None:
    draw, starts, kills, ran, lost, classes = random.Random(1), 0, 0, 0, 0, 0
    students = [f"student{number:03}" for number in range(60)]
    while kills < 20:
        folder = hand_in(students, tmp_path / f"class{classes}")
        log, killed_here = Log(folder / "log"), 0
        classes += 1
        while not (folder / "grades.csv").exists():
            there, before = put_down(folder / "grades.csv.part"), len(log.lines())
            process = FORK.Process(target=graded, args=(folder, log))
            process.start()
            starts += 1
            if kills + killed_here < 20:
                process.join(draw.uniform(0.05, 0.3))
                killed_here += process.is_alive() and killed(process)
            process.join()
            lost += len(there & {line[1] for line in log.lines()[before:]})
        runs = [line[1] for line in log.lines()]
        assert set(runs) == set(students)
        assert len(runs) - len(students) <= killed_here, "a killed grader loses at most the one that it was at"
        rows = (folder / "grades.csv").read_text().splitlines()[1:]
        assert len(rows) == len(students) * len(exercises()["chapter_01"])
        assert not (folder / "grades.csv.part").exists()
        kills, ran = kills + killed_here, ran + len(runs)
    print(f"grade: started {starts}, killed {kills}, classes {classes}, submissions run {ran}, lost {lost}")
    assert lost == 0


def hand_in(students: list[str], folder: Path) -> Path:
    """A folder with a submission of each student."""
    (folder / "handed_in").mkdir(parents=True)
    for student in students:
        cells = [nbformat.v4.new_code_cell(f"def type_token_ratio(tokens): return 1  # {student}")]
        path = folder / "handed_in" / f"{student}.ipynb"
        path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=cells)), encoding="utf-8")
    return folder


def put_down(part: Path) -> set[str]:
    """Students whose grades are whole in a table that is not."""
    rows = part.read_text(encoding="utf-8").splitlines()[1:] if part.exists() else []
    return {row.split(",")[0] for row in rows if not row.endswith(",")}
