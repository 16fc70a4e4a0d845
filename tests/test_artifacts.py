from __future__ import annotations

import errno
import importlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from hyperfit_course import artifacts
from hyperfit_course.artifacts import (
    LATEST,
    MANIFEST,
    CacheError,
    artifact,
    atomic_path,
    cache_dir,
    clear_checkpoints,
    code_digest,
    disk_errors,
    load_checkpoint,
    save_checkpoint,
)

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


def save_two_checkpoints(folder: Path) -> None:
    save_checkpoint(folder, 2, {"w": torch.full((3,), 2.0)}, {"epoch": 2})
    save_checkpoint(folder, 10, {"w": torch.full((3,), 10.0)}, {"epoch": 10})


def test_newest_checkpoint_is_loaded_and_older_ones_are_removed(tmp_path: Path) -> None:
    save_two_checkpoints(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded[0]["w"].tolist() == [10.0] * 3
    assert loaded[1] == {"epoch": 10}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10.safetensors", LATEST]


def test_no_checkpoint_is_none_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert load_checkpoint(tmp_path) is None
    assert not recwarn.list


def flip_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip_last_byte(folder / "checkpoint-10.safetensors"),
        lambda folder: os.truncate(folder / "checkpoint-10.safetensors", 20),
        lambda folder: (folder / "checkpoint-10.safetensors").unlink(),
        lambda folder: os.truncate(folder / LATEST, 20),
        lambda folder: (folder / LATEST).write_text("{}"),
    ],
    ids=["altered", "truncated", "missing", "cut pointer", "empty pointer"],
)
def test_damaged_checkpoint_is_reported_and_not_loaded(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    save_two_checkpoints(tmp_path)
    damage(tmp_path)
    with pytest.warns(UserWarning, match="checkpoint in .* is damaged"):
        assert load_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        # What safetensors raises is no OSError: the code of the system is only in its text.
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["OSError", "SafetensorError"],
)
def test_full_disk_at_a_checkpoint_is_reported_and_keeps_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fill(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    save_checkpoint(tmp_path, 2, {"w": torch.ones(3)}, {"epoch": 2})
    monkeypatch.setattr(artifacts, "save_file", fill)
    with pytest.raises(CacheError, match="is full"):
        save_checkpoint(tmp_path, 3, {"w": torch.ones(3)}, {"epoch": 3})
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded[1] == {"epoch": 2}


def test_process_killed_before_the_pointer_moved_goes_on_from_the_older_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 2, {"w": torch.ones(3)}, {"epoch": 2})
    (tmp_path / "checkpoint-3.safetensors").write_bytes(b"not pointed to yet")
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded[1] == {"epoch": 2}


def test_clear_checkpoints_leaves_only_the_finished_files(tmp_path: Path) -> None:
    save_two_checkpoints(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"the result")
    clear_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_clear_checkpoints_removes_what_a_process_killed_while_writing_left(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # A killed process runs no clean-up: what it was writing to stays.
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            write_half(tmp_path / "checkpoint-3.safetensors", KeyboardInterrupt())
    assert list(tmp_path.iterdir()), "the kill was not imitated"
    clear_checkpoints(tmp_path)
    assert not list(tmp_path.iterdir())


def test_manifest_lists_every_file_with_its_key(make: Maker) -> None:
    manifest = json.loads((artifact("things", KEY, make) / MANIFEST).read_text())
    assert manifest["key"] == KEY
    assert {name: entry["size"] for name, entry in manifest["files"].items()} == {"a.txt": 5, "inside/b.txt": 6}


def test_code_digest_sees_code_and_not_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    sources = ["x = 1 + 2\n", "# why\nx = (1 +\n     2)  # because\n", "x = 1 + 3\n"]
    digests = []
    for number, source in enumerate(sources):
        (tmp_path / f"written_{number}.py").write_text(source)
        digests.append(code_digest(importlib.import_module(f"written_{number}")))
    assert digests[0] == digests[1] != digests[2]
