"""What was handed in? Finds the files of a folder, reads notebooks, and says which page they belong to."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import nbformat

from hyperfit_course.checks import exercises


class GradingError(ValueError):
    """Nothing can be graded; the message says why and what to do."""


LINK = "It is a link, and is not followed: ask for the file itself."
MOST_MEGABYTES = 30  #: Of a notebook; one of this course with its outputs has less than two.


class Cell(NamedTuple):
    """One cell of a notebook; its kind is ``code``, ``markdown`` or ``raw``."""

    kind: str
    source: str


def handed_in(folder: Path, leave_out: Iterable[Path] = ()) -> tuple[list[Path], list[Path]]:
    """The notebooks below a folder; and what no student should vanish with: other files, and students' empty folders.

    Hidden files, and those to leave out, do not count. A link to a folder is a file here, and is not followed.
    """
    ours = {path.resolve() for path in leave_out}
    paths = [path for path in sorted(folder.rglob("*")) if not _is_hidden(path.relative_to(folder))]
    files = [path for path in paths if path.is_symlink() or (not path.is_dir() and path.resolve() not in ours)]
    notebooks = [path for path in files if path.suffix.lower() == ".ipynb"]
    others = [path for path in files if path.suffix.lower() != ".ipynb"]
    students = {path.relative_to(folder).parts[0] for path in files}
    empty = [path for path in paths if path.parent == folder and path.name not in students and path.is_dir()]
    return notebooks, others + empty


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def shown(path: Path) -> str:
    """A path as it can be written: an archive may hold names in another encoding, or with a line break in them."""
    return plain(os.fsencode(path.as_posix()).decode("utf-8", "replace"))


def plain(text: str) -> str:
    """A student's text on one line of a terminal or a table.

    What cannot be printed is written as in Python, a line break as ``\\n``. An apostrophe stands before what
    spreadsheets would take for a formula.
    """
    one_line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f"'{one_line}" if one_line[:1] in ("=", "+", "-", "@") else one_line


def student_of(relative: Path) -> str:
    """The first folder of a path; of a file that lies in no folder, its name."""
    return shown(Path(relative.stem if len(relative.parts) == 1 else relative.parts[0]))


def is_readable(path: Path) -> bool:
    """Whether a path is an ordinary file that we may read, of a size that a notebook may have."""
    ordinary = not path.is_symlink() and path.is_file() and os.access(path, os.R_OK)
    return ordinary and path.stat().st_size <= MOST_MEGABYTES * 1_000_000


def read_cells(path: Path) -> list[Cell]:
    """The cells of a notebook in UTF-8 or UTF-16, with a byte order mark or without.

    Raises:
        GradingError: the file is no notebook, too large for one, or a link.
    """
    if path.is_symlink():
        raise GradingError(LINK)
    if not path.is_file():
        raise GradingError("It is no ordinary file: ask for the notebook.")
    if path.stat().st_size > MOST_MEGABYTES * 1_000_000:
        raise GradingError(
            f"The file has {path.stat().st_size / 1e6:,.0f} MB, and a notebook of this course less than "
            f"{MOST_MEGABYTES}: ask for it without outputs (in Jupyter: Edit, Clear Outputs of All Cells)."
        )
    try:
        raw = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the ids of cells, which do not matter here
            notebook = nbformat.reads(raw.decode(json.detect_encoding(raw)), as_version=4)
        return [Cell(str(cell.cell_type), _python(cell)) for cell in notebook.cells]
    except OSError as error:
        raise GradingError(f"The file cannot be read ({error.strerror}): change its permissions.") from error
    except Exception as error:  # the parser raises many kinds
        raise GradingError(
            "The file is no notebook: ask for it again as Jupyter or Colab saves it, in UTF-8."
        ) from error


def _python(cell: nbformat.NotebookNode) -> str:
    """The source of a cell, without commands to Jupyter if it is code."""
    source = str(cell.source)
    return re.sub(r"^[ \t]*[%!].*$", "", source, flags=re.M) if cell.cell_type == "code" else source


def page_of(cells: list[Cell]) -> str:
    """The page that a notebook belongs to: that of most of its functions, and first of all one that it imports.

    Raises:
        GradingError: it imports no page's checks, and no function of any exercise is there.
    """
    code = "\n".join(cell.source for cell in cells if cell.kind == "code")
    text = "\n".join(cell.source for cell in cells if cell.kind != "code")
    names = {*re.findall(r"^(?:def )?(\w+)(?:\(| *=[^=])", code, flags=re.M), *re.findall(r"def (\w+)\(", text)}
    lines = re.findall(r"^[ \t]*(?:from|import) hyperfit_course\.checks\b(.*)$", code, flags=re.M)
    imported = set(re.findall(r"\w+", " ".join(lines)))
    ranked = {}
    for page, points in exercises().items():
        common = len(names & set(points))
        ranked[page] = (page in imported and common > 0, common, page in imported)
    page = max(ranked, key=lambda page: ranked[page])
    if not any(ranked[page]):
        raise GradingError(
            "The notebook defines no function of any exercise: ask the student for that of the exercises."
        )
    return page


def page_named(path: Path) -> str | None:
    """The page that a file's name speaks of: ``01_degeneration.ipynb``, or one with the name of a chapter or a lab."""
    name = re.sub(r"\W+", "_", path.stem.lower())
    found = [page for page in exercises() if _names(name, page)]
    return max(found, key=len, default=None)


def _names(name: str, page: str) -> bool:
    kind, _, rest = page.partition("_")
    return rest in name if kind == "lab" else bool(re.search(rf"(?<![a-z0-9]){rest}_[a-z]|{page}", name))
