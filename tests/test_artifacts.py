from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperfit_course import artifacts
from hyperfit_course.artifacts import MANIFEST, CacheError, artifact, atomic_path, cache_dir, disk_errors, find_fault

KEY = {"epochs": 3, "data": "tales"}


class Maker:
    """Makes an artifact of two files, one of them in a folder, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "inside").mkdir(exist_ok=True)
        (folder / "a.txt").write_text("first")
        (folder / "inside" / "b.txt").write_text("second")


@pytest.fixture
def make() -> Maker:
    return Maker()


def test_is_made_once_and_then_reused(make: Maker) -> None:
    first, second = artifact("things", KEY, make), artifact("things", KEY, make)
    assert first == second
    assert make.calls == 1
    assert (second / "inside" / "b.txt").read_text() == "second"


def test_other_key_or_kind_is_another_folder(make: Maker) -> None:
    folders = {
        artifact("things", KEY, make),
        artifact("things", KEY | {"epochs": 4}, make),
        artifact("more", KEY, make),
    }
    assert len(folders) == make.calls == 3


def test_order_of_the_key_does_not_matter(make: Maker) -> None:
    assert artifact("things", KEY, make) == artifact("things", dict(reversed(KEY.items())), make)
    assert make.calls == 1


def test_folder_is_found_in_the_cache_that_the_environment_names(make: Maker, cache: Path) -> None:
    assert artifact("things", KEY, make).parent == cache / "things"


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda folder: (folder / "a.txt").write_text("fir"), "a.txt has the wrong size"),
        (lambda folder: (folder / "a.txt").write_text("fiRst"), "the content of a.txt has changed"),
        (lambda folder: (folder / "inside" / "b.txt").unlink(), "b.txt is missing"),
        (lambda folder: (folder / MANIFEST).unlink(), "its manifest is missing or unreadable"),
        (lambda folder: (folder / MANIFEST).write_text('{"key": {}, "fil'), "its manifest is missing or unreadable"),
        (lambda folder: (folder / MANIFEST).write_bytes(b"\0" * 90), "its manifest is missing or unreadable"),
        (lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe"), "its manifest is missing or unreadable"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "its manifest is missing or unreadable"),
    ],
    ids=["truncated", "altered", "missing", "no manifest", "cut manifest", "zeros", "no text", "no dictionary"],
)
def test_damaged_artifact_is_reported_and_made_again(make: Maker, damage: Callable[[Path], object], fault: str) -> None:
    folder = artifact("things", KEY, make)
    damage(folder)
    with pytest.warns(UserWarning, match=f"damaged \\(.*{fault}\\)"):
        artifact("things", KEY, make)
    assert make.calls == 2
    assert (folder / "a.txt").read_text() == "first"
    assert (folder / "inside" / "b.txt").read_text() == "second"
    artifact("things", KEY, make)
    assert make.calls == 2


def test_failed_make_leaves_no_artifact_and_keeps_its_work(make: Maker, cache: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("done")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        artifact("things", KEY, fail)
    assert [path.suffix for path in (cache / "things").iterdir() if path.is_dir()] == [".work"]

    def resume(folder: Path) -> None:
        assert (folder / "half").read_text() == "done"
        (folder / "whole").write_text("done")

    folder = artifact("things", KEY, resume)
    assert (folder / "whole").exists()
    assert not list((cache / "things").glob("*.work"))


def ask(log: str, ready: object) -> None:
    """Ask for the artifact at the same moment as the other process."""

    def make_slowly(folder: Path) -> None:
        with Path(log).open("a") as stream:
            stream.write("made\n")
        time.sleep(0.5)
        (folder / "a.txt").write_text("first")

    ready.wait(60)  # type: ignore[attr-defined]
    assert (artifact("things", KEY, make_slowly) / "a.txt").read_text() == "first"


def test_two_processes_that_ask_at_once_make_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    other = context.Process(target=ask, args=(str(tmp_path / "log"), barrier))
    other.start()
    ask(str(tmp_path / "log"), barrier)
    other.join(60)
    assert other.exitcode == 0
    assert (tmp_path / "log").read_text() == "made\n"


@pytest.mark.parametrize("inside", ["folder", ""], ids=["under a file", "a file itself"])
def test_file_in_the_way_of_the_cache_is_reported(inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HYPERFIT_CACHE", str(tmp_path / "file" / inside))
    with pytest.raises(CacheError, match=r"file.*set HYPERFIT_CACHE to a folder"):
        cache_dir()


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_cache_that_cannot_be_written_to_is_reported(
    code: int, cache: Path, monkeypatch: pytest.MonkeyPatch, make: Maker
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(artifacts.tempfile, "TemporaryFile", refuse)
    with pytest.raises(CacheError, match=f"Cannot write to {cache} \\({os.strerror(code)}\\): set HYPERFIT_CACHE"):
        artifact("things", KEY, make)
    assert make.calls == 0


def test_full_disk_while_making_is_reported() -> None:
    def fill(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CacheError, match="is full: free some space, or set HYPERFIT_CACHE"):
        artifact("things", KEY, fill)


def test_other_errors_of_the_system_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path):
        (tmp_path / "nothing").read_text()


def write_half(path: Path, error: BaseException) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise error


def test_atomic_path_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (ValueError("bad"), ValueError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, ""), CacheError),
    ],
    ids=["error", "interrupt", "full disk"],
)
def test_atomic_path_keeps_the_old_file_when_the_block_fails(
    tmp_path: Path, error: BaseException, reported: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(reported):
        write_half(path, error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_manifest_lists_every_file_with_its_key(make: Maker) -> None:
    manifest = json.loads((artifact("things", KEY, make) / MANIFEST).read_text())
    assert manifest["key"] == KEY
    assert {name: entry["size"] for name, entry in manifest["files"].items()} == {"a.txt": 5, "inside/b.txt": 6}


def test_attempt_that_was_killed_just_before_its_end_spoils_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(folder: Path) -> None:
        (folder / "a").write_text("a", encoding="utf-8")

    def killed(*paths: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hyperfit_course.artifacts.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            artifact("things", {"number": 1}, make)
    assert find_fault(artifact("things", {"number": 1}, make)) is None
