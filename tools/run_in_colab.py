"""Run committed notebooks as Google Colab does: each alone in an empty folder, its set-up cell first.

    run_in_colab.py [NOTEBOOK ...]   such as book/01_degeneration.ipynb (default: two chapters and an exercise)

The Python that runs this script plays Colab's. It is the one of Colab's public image in a weekly workflow, and one with
the same packages in `make test-colab`. The set-up cell installs the course as it does for a reader. Only git is told
to take it from this checkout, with everything that is not committed yet, and not from GitHub.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from importlib import metadata
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from notebook_pipeline.project import Project

NOTEBOOKS = ("book/01_degeneration.ipynb", "book/03_temperature.ipynb", "exercises/01_degeneration.ipynb")
VERSIONS = Path("tests", "colab-versions.txt")
RUNNING = ("ipykernel", "ipython", "nbclient", "nbformat", "pip", "PyYAML")
"""What runs a notebook in Colab, beside the packages that the course needs."""
CELL_TIMEOUT_S = 1800


def main(arguments: list[str] | None = None) -> int:
    """Run notebooks; the exit status counts those that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", default=NOTEBOOKS)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the course")
    options = parser.parse_args(arguments)
    project = Project(options.root.resolve())
    with tempfile.TemporaryDirectory() as folder:
        environment = as_in_colab(project, Path(folder))
        return sum(not runs(project.root / name, environment) for name in options.notebooks)


def as_in_colab(project: Project, folder: Path) -> dict[str, str]:
    """The environment variables under which a kernel finds `google.colab`, and git this checkout for the course."""
    copy = snapshot(project, folder / "course")
    variables = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{copy.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{project.repository}",
    }
    if importlib.util.find_spec("google") is None or importlib.util.find_spec("google.colab") is None:
        fake = folder / "fake" / "google" / "colab"
        fake.mkdir(parents=True)
        (fake / "__init__.py").touch()
        variables["PYTHONPATH"] = str(folder / "fake")
    return os.environ | variables


def snapshot(project: Project, target: Path) -> Path:
    """A repository with the course as it stands in the checkout, on the branch that readers get."""

    def git(*arguments: str, cwd: Path = target) -> str:
        # In a container the checkout often belongs to another user, which git refuses otherwise.
        command = ["git", "-c", "safe.directory=*", *arguments]
        return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout

    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=project.root)
    for name in filter(None, names.split("\0")):
        if (project.root / name).is_file():  # not one that was deleted and is still in the index
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(project.root / name, target / name)
    git("init", "--quiet", "--initial-branch", project.branch)
    git("add", "--all")
    git("-c", "user.name=course", "-c", "user.email=course@localhost", "commit", "--quiet", "--message", "Snapshot")
    return target


def runs(path: Path, environment: dict[str, str]) -> bool:
    """Whether a notebook runs to its end; prints how long it took, or what went wrong."""
    started = time.monotonic()
    print(f"{path.name}: running", flush=True)
    with tempfile.TemporaryDirectory() as content:
        client = NotebookClient(
            nbformat.read(path, as_version=4),
            timeout=CELL_TIMEOUT_S,
            kernel_name="python3",
            extra_arguments=["--log-level=ERROR", "--IPKernelApp.exec_lines=import google.colab"],
            resources={"metadata": {"path": content}},
        )
        try:
            client.execute(env=environment)
        except CellExecutionError as error:
            print(f"{path.name}: failed\n{error}", flush=True)
            return False
    print(f"{path.name}: done in {time.monotonic() - started:.0f} s", flush=True)
    return True


def make_environment(project: Project, folder: Path) -> Path:
    """A Python with what Colab ships of the packages that the course needs; PyTorch is the one that is installed here.

    It is made once. It lacks what Colab lacks, which the set-up cell has to install.

    Returns:
        Its folder of packages.
    """
    shipped = dict(re.findall(r"^([\w.-]+)==(\S+)$", (project.root / VERSIONS).read_text("utf8"), re.M))
    own = ("torch", "nvidia", "setuptools")  # setuptools, since this PyTorch may want another
    shipped = {name: version for name, version in shipped.items() if not name.startswith(own)}
    shipped["torch"] = metadata.version("torch").split("+")[0]
    required = [line for line in metadata.requires("hyperfit-course") or [] if "extra ==" not in line]
    needed = {*RUNNING, *(re.split(r"[^\w.-]", line)[0] for line in required)}
    requirements = sorted(f"{name}=={shipped[name]}" for name in needed & shipped.keys())
    stamp = folder / "requirements.txt"
    if not stamp.exists() or stamp.read_text("utf8").splitlines() != requirements:
        venv.create(folder, clear=True, with_pip=True)
        constraints = folder / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in shipped.items()), "utf8")
        command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, *requirements, "--constraint", str(constraints)], check=True)
        stamp.write_text("\n".join(requirements), "utf8")
    return next(folder.glob("lib/python*/site-packages"))


def fresh_python(packages: Path, folder: Path) -> Path:
    """A Python that sees packages that are installed elsewhere, and installs others for itself alone."""
    venv.create(folder)
    (next(folder.glob("lib/python*/site-packages")) / "shipped.pth").write_text(str(packages), "utf8")
    return folder / "bin" / "python"


if __name__ == "__main__":
    sys.exit(main())
