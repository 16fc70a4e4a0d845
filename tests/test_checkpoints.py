from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from hyperfit_course import checkpoints
from hyperfit_course.artifacts import CacheError, atomic_path
from hyperfit_course.checkpoints import LATEST, clear_checkpoints, load_checkpoint, save_checkpoint


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
    monkeypatch.setattr(checkpoints, "save_file", fill)
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


def write_half(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt


def test_clear_checkpoints_removes_what_a_process_killed_while_writing_left(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # A killed process runs no clean-up: what it was writing to stays.
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            write_half(tmp_path / "checkpoint-3.safetensors")
    assert list(tmp_path.iterdir()), "the kill was not imitated"
    clear_checkpoints(tmp_path)
    assert not list(tmp_path.iterdir())
