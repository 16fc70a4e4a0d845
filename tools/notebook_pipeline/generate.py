"""The notebook that a reader opens in Colab, GitHub or Jupyter, made from a text notebook."""

from __future__ import annotations

import collections
import hashlib
import re
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from notebook_pipeline.markdown import Page, Site
from notebook_pipeline.project import PipelineError, Project

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
PACKAGE = "hyperfit_course"
COLAB = "https://colab.research.google.com"

SETUP = """\
# In Colab, this installs the course and fetches the model (about a minute). Anywhere else it does nothing.
import importlib.util
import subprocess
import sys
from importlib.metadata import version

KEEP_IN_DRIVE = False  # True keeps what is trained in your Google Drive (about 1.5 GB), for the next time

if "google.colab" in sys.modules:
    if importlib.util.find_spec("{package}") is None:
        keep = [f"{{name}}=={{version(name)}}" for name in ("torch", "numpy")]  # Colab's own, which fit its GPU
        course = "git+https://github.com/{project.repository}@{project.branch}"
        command = [sys.executable, "-m", "pip", "install", "--quiet", *keep, course]
        pip = subprocess.run(command, capture_output=True, text=True)
        if pip.returncode != 0:
            raise RuntimeError(f"The course could not be installed: run this cell again.\\n{{pip.stderr}}")
        importlib.invalidate_caches()
    from {package}.colab import set_up

    set_up(made_for="{project.version}", computing={computing!r}, keep_in_drive=KEEP_IN_DRIVE)
"""


def generate(site: Site, source: Path) -> NotebookNode:
    """The notebook for a text notebook, without outputs. The same text always gives the same bytes."""
    project, cells = site.project, Page(site, source).cells()
    if not cells or cells[0].cell_type != "markdown" or not cells[0].source.startswith("# "):
        raise PipelineError(f"{project.name(source)}: a page starts with its title, `# ...`")
    for cell in cells:  # of a cell's settings, Jupyter, nbval and the slides know the tags
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
    title, _, rest = cells[0].source.partition("\n")
    opened = project.blob_url(source.with_suffix(".ipynb")).replace("https://github.com", f"{COLAB}/github")
    badge = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({opened})"
    header = f"{title}\n\n{badge} [Source of this page]({project.blob_url(source)})"
    first = [nbformat.v4.new_markdown_cell(text) for text in (header, rest.strip("\n")) if text]
    notebook = nbformat.v4.new_notebook(
        cells=[first[0], setup_cell(project, source), *first[1:], *cells[1:]],
        metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}},
        nbformat_minor=5,
    )
    if source.is_relative_to(project.root / "exercises"):
        notebook.metadata["colab"] = {"generative_ai_disabled": True}  # teachers ask for it
    set_identifiers(notebook, project.name(source))
    return notebook


def setup_cell(project: Project, source: Path) -> NotebookNode:
    """The cell that installs the library in Colab and does nothing elsewhere."""
    computing = re.search(r"\*\*Computing:\*\* (.+?)[.,\n]", source.read_text("utf8"))
    code = SETUP.format(package=PACKAGE, project=project, computing=computing and computing[1])
    return nbformat.v4.new_code_cell(code.rstrip())


def set_identifiers(notebook: NotebookNode, name: str) -> None:
    """Give every cell an id that depends only on the page and the cell's text: diffs stay small."""
    seen: collections.Counter[tuple[str, str]] = collections.Counter()
    for cell in notebook.cells:
        key = (cell.cell_type, cell.source)
        seen[key] += 1
        cell.id = hashlib.sha256(repr((name, key, seen[key])).encode()).hexdigest()[:16]


def page_code(notebook: NotebookNode) -> list[NotebookNode]:
    """A generated notebook's code cells that are also in the text notebook: all but the set-up cell."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"][1:]


def generated_part(notebook: NotebookNode) -> list[Any]:
    """Everything in a notebook that `generate` decides: what Colab may do, and the cells."""
    cells = [(cell.get("id"), cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]
    return [notebook.metadata.get("colab"), *cells]


def copy_outputs(old: NotebookNode, new: NotebookNode) -> None:
    """Give a newly generated notebook the outputs of an executed one with the same code."""
    old_code, new_code = ([cell for cell in nb.cells if cell.cell_type == "code"] for nb in (old, new))
    for before, after in zip(old_code, new_code, strict=True):
        after.execution_count, after.outputs = before.execution_count, before.outputs


def read(path: Path) -> NotebookNode:
    """A notebook file."""
    return nbformat.read(path, as_version=4)


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook file whole or not at all, and only if that changes it."""
    text = nbformat.writes(notebook) + "\n"
    if path.exists() and path.read_text("utf8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text, "utf8")
    unfinished.replace(path)
