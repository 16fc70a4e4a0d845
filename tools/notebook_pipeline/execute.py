"""Running a notebook, with something to see for those who wait."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from notebook_pipeline.generate import KERNEL, PACKAGE, page_code
from notebook_pipeline.outputs import normalize
from notebook_pipeline.project import PipelineError, Project

CELL_TIMEOUT_S = 1800
PATIENCE_S = 5
LIBRARIES = ("torch", "transformers")
CLAIMS = Path("results", "claims.json")


def execution_key(project: Project, notebook: NotebookNode) -> str:
    """A hash of everything that a notebook's outputs depend on.

    The set-up cell is left out: a fork that only changes the repository's address executes nothing again.
    """
    digest = hashlib.sha256()
    parts = [cell.source for cell in page_code(notebook)]
    parts += [".".join(map(str, sys.version_info[:2])), *(f"{name} {version(name)}" for name in LIBRARIES)]
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    for path in inputs(project, notebook):
        digest.update(f"{project.name(path)}:{path.stat().st_size}:".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def version(library: str) -> str:
    """An installed library's version, or that there is none."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def inputs(project: Project, notebook: NotebookNode) -> list[Path]:
    """What a notebook reads: the library with its data, and the recorded results that its code names.

    The checks count only for notebooks that use them, and grading and Colab's set-up for none: a better message
    trains no model again.
    """
    code = "\n".join(cell.source for cell in page_code(notebook))
    names = set(re.findall(r"""recorded\(["'](\w+)["']\)""", code))
    unread = {
        "__pycache__",
        "cli.py",
        "colab.py",
        "grading.py",
        "sandbox.py",
        *([] if "checks" in code else ["checks"]),
    }
    package = project.root / PACKAGE
    library = [path for path in package.rglob("*") if not unread & set(path.relative_to(package).parts)]
    results = [project.root / "results" / f"{name}.json" for name in sorted(names)]
    return sorted(path for path in [*library, *results] if path.is_file())


class Client(NotebookClient):
    """A client that streams a running cell to the terminal and says which cell makes one wait."""

    def output(self, outs, msg, display_id, cell_index):  # type: ignore[no-untyped-def]
        """Show text while it comes (only in a terminal: a log file would fill with progress bars)."""
        if msg["msg_type"] == "stream" and sys.stderr.isatty():
            sys.stderr.write(msg["content"]["text"])
            sys.stderr.flush()
        return super().output(outs, msg, display_id, cell_index)


def execute(project: Project, notebook: NotebookNode, source: Path) -> None:
    """Execute a notebook in place, in the folder of its source; outputs are normalised."""
    code = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    client = Client(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name=KERNEL["name"],
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],  # a kernel otherwise warns about TCP each time
        resources={"metadata": {"path": str(source.parent)}},
    )
    progress = Progress(notebook, code)
    client.on_cell_start, client.on_cell_complete = progress.start, progress.complete
    project.executed.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    try:
        client.execute(env=os.environ | {"HYPERFIT_CLAIMS": str(project.executed / CLAIMS.name)})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise PipelineError(failure(project, notebook, source, progress.position, error)) from None
    finally:
        progress.complete()
    from hyperfit_course.claims import provenance  # imports torch, which only a run needs

    for index in code:
        normalize(notebook.cells[index], project.root)
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata["hyperfit"] = {
        "key": execution_key(project, notebook),
        "seconds": round(time.monotonic() - started),
        "made": provenance(),
    }


class Progress:
    """Says which cell is running once it takes a while."""

    def __init__(self, notebook: NotebookNode, code: list[int]) -> None:
        self.notebook = notebook
        self.code = code
        self.position = 0
        self._timer: threading.Timer | None = None

    def start(self, cell: NotebookNode, cell_index: int) -> None:
        """A cell starts."""
        self.position = cell_index
        if cell_index in self.code:
            self._timer = threading.Timer(PATIENCE_S, self._announce)
            self._timer.start()

    def complete(self, **_: object) -> None:
        """No cell is running any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _announce(self) -> None:
        number = self.code.index(self.position) + 1
        first_line = self.notebook.cells[self.position].source.split("\n")[0]
        print(f"  cell {number} of {len(self.code)} is running: {first_line}", flush=True)


def failure(project: Project, notebook: NotebookNode, source: Path, position: int, error: Exception) -> str:
    """What went wrong, where, and the code that did it."""
    number = sum(cell.cell_type == "code" for cell in notebook.cells[: position + 1])
    code = notebook.cells[position].source
    message = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    if code not in message:  # a dead kernel does not say what it was doing
        message = f"{code}\n\n{message}"
    return f"{project.name(source)}: code cell {number} failed\n\n{message}"
