"""Running a notebook, with something to see for those who wait, and telling when it has to run again."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from hyperfit_course.sources import code_digest, modules_of
from notebook_pipeline.generate import KERNEL, PACKAGE, page_code
from notebook_pipeline.outputs import normalize
from notebook_pipeline.project import PipelineError, Project

CELL_TIMEOUT_S = 1800
PATIENCE_S = 5
CLAIMS = Path("results", "claims.json")
NEW_CLAIMS = "new_claims.json"  # in the folder of executed notebooks: those of the page that ran last
PRECISION = "ACCELERATE_MIXED_PRECISION"


def execution_key(project: Project, notebook: NotebookNode, source: Path) -> str:
    """A hash of everything that a notebook's outputs depend on.

    That is its code, the library's modules that this code imports, directly or through one another, the library's
    files that any of them names, the recorded results that its code names, the versions of Python and torch, and the
    precision of training that the environment asks for. Results are named by ``recorded("name")``, or by a function of
    the page such as ``recorded_so_far("name")``, which also takes those that are not there yet.
    The set-up cell is left out: a fork that only changes the repository's address executes nothing again.
    """
    package = project.root / PACKAGE
    code = page_python(project, notebook, source)
    modules = modules_of("\n".join(code), package)
    digest = hashlib.sha256()
    versions = [str(sys.version_info[:2]), *(f"{name} {version(name)}" for name in ("torch", "transformers"))]
    for part in [*code, *versions, os.environ.get(PRECISION, ""), code_digest(modules)]:
        digest.update(f"{len(part)}:{part}".encode())
    names = recorded_files("\n".join(code))
    results = [project.root / "results" / f"{name}.json" for name in names]
    for path in [*named_files(package, [*code, *(module.read_text("utf8") for module in modules)]), *results]:
        if path.is_file():
            digest.update(f"{project.name(path)}:{path.stat().st_size}:".encode() + path.read_bytes())
    return digest.hexdigest()


def recorded_files(code: str) -> list[str]:
    """The files of recorded results that code reads, with ``recorded`` or with a function whose name begins so."""
    calls = re.findall(r"\brecorded\w*\(([^()]*)\)", code)
    return sorted({name for arguments in calls for name in re.findall(r"""["'](\w+)["']""", arguments)})


def page_python(project: Project, notebook: NotebookNode, source: Path) -> list[str]:
    """The code of a page's cells, all of it Python, so that its imports can be followed."""
    code = [cell.source for cell in page_code(notebook)]
    for number, text in enumerate(code, 2):  # the set-up cell is the first
        try:
            ast.parse(text)
        except SyntaxError as error:
            problem = f"code cell {number} is not plain Python ({error.msg}): write %magics and !commands in Python"
            raise PipelineError(f"{project.name(source)}: {problem}") from None
    return code


def named_files(package: Path, code: list[str]) -> list[Path]:
    """The library's files beside its code that some code may read: a string in it names one, or a folder of one.

    A name in vain only executes something once more, so the suffix may be missing, and docstrings alone do not count.
    """
    nodes = [node for text in code for node in ast.walk(ast.parse(text))]
    texts = {node.value for node in nodes if isinstance(node, ast.Expr)}
    strings = [node.value for node in nodes if isinstance(node, ast.Constant) and node not in texts]
    names = {part for string in strings if isinstance(string, str) for part in string.split("/")}
    files = [path for path in sorted(package.rglob("*")) if path.suffix not in (".py", ".pyc", ".typed")]
    return [path for path in files if names & {path.stem, *path.relative_to(package).parts}]


class Client(NotebookClient):
    """A client that streams a running cell to the terminal and says which cell makes one wait."""

    number = 0  # of the code cell that runs

    def output(self, outs, msg, display_id, cell_index):  # type: ignore[no-untyped-def]
        """Show text while it comes (only in a terminal: a log file would fill with progress bars)."""
        if msg["msg_type"] == "stream" and sys.stderr.isatty():
            sys.stderr.write(msg["content"]["text"])
            sys.stderr.flush()
        return super().output(outs, msg, display_id, cell_index)

    async def async_execute_cell(self, cell, cell_index, **options):  # type: ignore[no-untyped-def]
        """Run a cell, and name it once it takes a while."""
        if cell.cell_type != "code":
            return cell
        self.number += 1
        cells = sum(each.cell_type == "code" for each in self.nb.cells)
        message = f"  cell {self.number} of {cells} is running: {cell.source.splitlines()[0]}"
        timer = threading.Timer(PATIENCE_S, print, [message], {"flush": True})
        timer.start()
        try:
            return await super().async_execute_cell(cell, cell_index, **options)
        finally:
            timer.cancel()


def execute(project: Project, notebook: NotebookNode, source: Path) -> None:
    """Execute a notebook in place, in the folder of its source; outputs are normalised."""
    key = execution_key(project, notebook, source)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    client = Client(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name=KERNEL["name"],
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],  # a kernel otherwise warns about TCP each time
        resources={"metadata": {"path": str(source.parent)}},
    )
    project.executed.mkdir(parents=True, exist_ok=True)
    (claims := project.executed / NEW_CLAIMS).write_text("[]", "utf8")
    started = time.monotonic()
    try:
        client.execute(env=os.environ | {"HYPERFIT_CLAIMS": str(claims)})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        failed, message = code[client.number - 1].source, re.sub(r"\x1b\[[0-9;]*m", "", str(error))
        if failed not in message:  # a dead kernel does not say what it was doing
            message = f"{failed}\n\n{message}"
        raise PipelineError(f"{project.name(source)}: code cell {client.number} failed\n\n{message}") from None
    from hyperfit_course.study.records import provenance  # imports torch, which only a run needs

    for cell in code:
        normalize(cell, project.root)
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata["hyperfit"] = {"key": key, "seconds": round(time.monotonic() - started), "made": provenance()}
