"""What `pip install` puts into somebody else's environment."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent

# What Google Colab shipped on 2026-08-19: installing the course there must not change any of them.
COLAB = {
    "accelerate": "1.14.0",
    "filelock": "3.32.3",
    "matplotlib": "3.10.0",
    "nbformat": "5.11.1",
    "numpy": "2.1.3",
    "pandas": "2.2.3",
    "platformdirs": "4.11.3",
    "safetensors": "0.8.0",
    "seaborn": "0.13.2",
    "torch": "2.11.0",
    "tqdm": "4.67.3",
    "transformers": "5.15.0",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_alone_gives_tales_style_and_recorded_results(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = (
        "from hyperfit_course import __file__, corpora, plots; "
        "from hyperfit_course.study import records; "
        f"assert __file__.startswith({str(tmp_path)!r}), __file__; "
        "print(len(corpora.load_corpus('tales')['train']), len(records.recorded('full_arms')))"
    )
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert output.returncode == 0, output.stderr
    tales, rows = map(int, output.stdout.split())
    assert tales == len(list((ROOT / "hyperfit_course/data/tales/train").glob("*.txt")))
    assert rows > 0


def test_the_wheel_holds_nothing_but_the_library(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"hyperfit_course"}
    assert {f"hyperfit_course/data/{name}" for name in ("report.html.j2", "study.schema.json")} <= set(names)


def test_requirements_accept_what_colab_ships() -> None:
    needed = map(Requirement, metadata.requires("hyperfit-course") or [])
    requirements = {each.name: each for each in needed if each.marker is None}
    refused = [
        str(requirements[name]) for name, version in COLAB.items() if version not in requirements[name].specifier
    ]
    assert not refused


def test_the_version_is_the_same_wherever_it_is_written() -> None:
    version = metadata.version("hyperfit-course")
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert changes.index(f"\n## {version}") == changes.index("\n## "), "the newest entry is of another version"
