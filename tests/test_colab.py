"""What the set-up cell does in Colab once the course is installed; ``google.colab`` is a fake."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest

from hyperfit_course import __version__, colab


@pytest.fixture(autouse=True)
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was fetched, and the cache folder that was named then."""
    calls: list[tuple[str, str]] = []
    monkeypatch.setattr(colab, "fetch", lambda name: calls.append((name, os.environ["HYPERFIT_CACHE"])))
    return calls


def test_it_fetches_the_model_and_says_how_long_it_takes(
    cache: Path, fetched: list[tuple[str, str]], capsys: pytest.CaptureFixture
) -> None:
    colab.set_up(__version__, "about 3 minutes")
    assert fetched == [("model", str(cache))]
    printed = capsys.readouterr().out
    assert "Computing: about 3 minutes, without a GPU" in printed
    assert "made for version" not in printed
    colab.set_up(__version__, None)
    assert "Computing" not in capsys.readouterr().out


@pytest.mark.parametrize(("made_for", "told"), [("0.0.1", True), ("9.1.0", True), (f"{__version__}.post1", False)])
def test_a_notebook_of_another_version_says_so(made_for: str, told: bool, capsys: pytest.CaptureFixture) -> None:
    colab.set_up(made_for, None)
    assert (f"made for version {made_for} of the course" in capsys.readouterr().out) == told


def test_drive_is_mounted_before_anything_is_fetched(
    fetched: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted: list[str] = []
    drive = types.ModuleType("google.colab.drive")
    drive.mount = mounted.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "google.colab.drive", drive)
    colab.set_up(__version__, None, keep_in_drive=True)
    assert mounted == ["/content/drive"]
    assert fetched == [("model", colab.DRIVE_FOLDER)]
