"""Notebooks in an environment like Google Colab's; they take minutes, so `make test-colab` runs them."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import pytest
import run_in_colab
from notebook_pipeline.project import Project

PROJECT = Project(Path(__file__).resolve().parent.parent)
pytestmark = pytest.mark.colab


@pytest.fixture(scope="module")
def shipped() -> Path:
    """The folder of Colab's packages."""
    return run_in_colab.make_environment(PROJECT, PROJECT.root / "_build" / "colab")


@pytest.fixture(autouse=True)
def cache() -> None:
    """The reader's own cache folder, in the place of the empty one of the other tests: no model is trained again."""


def names(packages: Path) -> set[str]:
    return {each.metadata["Name"].lower().replace("_", "-") for each in distributions(path=[str(packages)])}


def run(python: Path, root: Path, notebook: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [python, PROJECT.root / "tools" / "run_in_colab.py", "--root", root, notebook]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)


@pytest.mark.parametrize("notebook", run_in_colab.NOTEBOOKS, ids=lambda name: name.replace("/", "-"))
def test_a_notebook_runs_from_its_first_cell_with_nothing_else(notebook: str, shipped: Path, tmp_path: Path) -> None:
    python = run_in_colab.fresh_python(shipped, tmp_path / "python")
    before = names(shipped)
    assert not {"hyperfit-course", "gguf"} & before
    # The exercise fetches the model as well; the chapters would train one, which takes minutes.
    variables = {"HYPERFIT_CACHE": str(tmp_path / "cache")} if notebook.startswith("exercises") else {}
    done = run(python, PROJECT.root, notebook, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    installed = names(next((tmp_path / "python").glob("lib/python*/site-packages")))
    assert {"hyperfit-course", "gguf"} <= installed
    assert not installed & before, "the set-up cell replaced packages that Colab ships"


def test_a_dependency_that_the_package_forgot_is_noticed(shipped: Path, tmp_path: Path) -> None:
    course = run_in_colab.snapshot(PROJECT, tmp_path / "course")
    metadata = course / "pyproject.toml"
    text = metadata.read_text("utf8")
    assert '  "gguf>=0.17",\n' in text
    metadata.write_text(text.replace('  "gguf>=0.17",\n', ""), "utf8")
    python = run_in_colab.fresh_python(shipped, tmp_path / "python")
    # An empty cache: nothing is converted yet.
    done = run(python, course, run_in_colab.NOTEBOOKS[0], HYPERFIT_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 1
    assert "Please install torch and gguf" in done.stdout
