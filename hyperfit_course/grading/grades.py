"""Who solved which exercise? Runs submitted notebooks, each in a process of its own, and writes a table.

A submission's own check cells are not run. Its other code is, and then the original checks are run on the functions
that it has defined. Where bubblewrap works, nothing but its own verdicts can suffer from it; elsewhere the limits stop
accidents and simple tricks, and not an attacker: :mod:`~hyperfit_course.grading.isolation` says what is protected.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from hyperfit_course.artifacts import atomic_path, disk_errors
from hyperfit_course.checks import exercises
from hyperfit_course.grading import isolation, runner
from hyperfit_course.grading.ledger import Ledger, put_aside
from hyperfit_course.grading.submissions import (
    LINK,
    Cell,
    GradingError,
    handed_in,
    is_readable,
    page_named,
    page_of,
    plain,
    read_cells,
    shown,
    student_of,
)

NOT_READ = (
    "The file is not read, and costs no points: only notebooks (.ipynb) are. If it holds an answer, ask for that."
)
NO_FILE = "There is no file in the folder."


@dataclass(frozen=True)
class Grade:
    """One student and one exercise, or a file that was not graded."""

    student: str
    exercise: str
    passed: bool
    points: int
    possible: int
    message: str
    file: str
    graded: bool


COLUMNS = [each.name for each in fields(Grade)]


def grade_folder(submissions: Path, ledger: Ledger | None = None) -> Iterator[list[Grade]]:
    """Grade every notebook below a folder, and name what is none: one list of grades each, the notebooks first.

    A student is the first folder of a file's path below ``submissions``; of a file that lies there directly, its name.

    Args:
        submissions: the folder.
        ledger: where the grades of notebooks are put down. Those that stand there already are not graded again.

    Raises:
        GradingError: there is no such folder, or no notebook in it; or, after the grades of that submission, one has
            changed the installed course.
        CacheError: the grades cannot be put down.
    """
    if runner.resource is None:
        raise GradingError("Windows cannot limit what a submission uses: grade on Linux, for example in WSL.")
    if not submissions.is_dir():
        raise GradingError(f"There is no folder {submissions}: name the folder that holds the submitted notebooks.")
    notebooks, others = handed_in(submissions, ledger.files if ledger else ())
    if not notebooks:
        raise GradingError(
            f"There is no notebook (.ipynb) in {submissions}: is it the right folder, and are archives unpacked?"
        )
    return itertools.chain(
        _graded(notebooks, submissions, ledger),
        ([_not_graded(path.relative_to(submissions), _why_not_read(path))] for path in others),
    )


def _graded(notebooks: list[Path], submissions: Path, ledger: Ledger | None) -> Iterator[list[Grade]]:
    exercises()  # what Python compiles of the checks is there now, and changes no more
    untouched = isolation.course_files() if isolation.why_not() else None
    for path in notebooks:
        name = shown(path.relative_to(submissions))
        digest = ledger.digest(path) if ledger and is_readable(path) else ""
        if ledger and (digest, name) in ledger.known:
            yield [_read(row) for row in ledger.known[digest, name]]
            continue
        rows = grade_notebook(path, submissions)
        if ledger and digest:
            ledger.add([asdict(row) for row in rows], digest)
        yield rows
        if untouched and rows[0].graded and (changed := isolation.course_files().items() ^ untouched.items()):
            files = ", ".join(sorted({file for file, _ in changed})[:3])
            raise GradingError(
                f"{name} has changed the installed course ({files}), so no later check could be trusted, and grading "
                f"stops. Install the course anew, look at that notebook, and start again. {isolation.INSTALL}"
            )


def _read(row: dict[str, str]) -> Grade:
    """A grade as a table has it."""
    points, possible = int(row["points"]), int(row["possible"])
    passed, graded = row["passed"] == "True", row["graded"] == "True"
    return Grade(row["student"], row["exercise"], passed, points, possible, row["message"], row["file"], graded)


def _why_not_read(path: Path) -> str:
    return LINK if path.is_symlink() else NO_FILE if path.is_dir() else NOT_READ


def grade_notebook(path: Path, submissions: Path) -> list[Grade]:
    """Grade one notebook: a row for each exercise of its page, or one that says why there is none."""
    relative = path.relative_to(submissions)
    try:
        cells = read_cells(path)
    except GradingError as error:
        return _unreadable(relative, str(error))
    try:
        page = page_of(cells)
    except GradingError as error:
        return [_not_graded(relative, str(error))]
    points = exercises()[page]
    code = [cell.source for cell in cells if cell.kind == "code" and not is_check(cell.source)]
    verdicts, problems = runner.run_submission(code, page, list(points))
    grades = []
    for name, possible in points.items():
        verdict = verdicts.get(name, {"passed": False, "message": why_missing(name, cells, problems)})
        reached = possible if verdict["passed"] else 0
        row = (name, verdict["passed"], reached, possible, plain(" ".join(verdict["message"].splitlines())))
        grades.append(Grade(student_of(relative), *row, shown(relative), graded=True))
    return grades


def _unreadable(relative: Path, why: str) -> list[Grade]:
    """Rows of a notebook that cannot be read: its possible points count, as far as its name tells them."""
    page = page_named(relative)
    if page is None:
        return [_not_graded(relative, f"{why} Its possible points are not counted, since its name tells no page.")]
    return [_not_graded(relative, why, name, possible) for name, possible in exercises()[page].items()]


def _not_graded(relative: Path, message: str, exercise: str = "", possible: int = 0) -> Grade:
    return Grade(student_of(relative), exercise, False, 0, possible, message, shown(relative), graded=False)


def why_missing(name: str, cells: list[Cell], problems: list[str]) -> str:
    """Why a function has no verdict."""
    kinds = [cell.kind for cell in cells if re.search(rf"\bdef {name}\(", cell.source)]
    if kinds and "code" not in kinds:
        kind = kinds[0].replace("markdown", "Markdown")
        return f"The function {name} is in a {kind} cell, so it was not run: turn the cell back into a code cell."
    missing = "; ".join(problems) or "it is deleted, or the notebook is of another version of the exercises"
    return f"The function {name} is not there: {missing}."


def is_check(cell: str) -> bool:
    """Whether a cell only calls checks: the originals are run instead."""
    lines = [line for line in cell.split("\n") if line.strip() and not line.startswith("#")]
    return all(re.match(r"(verdict = )?checks\.\w+\(|verdict$", line) for line in lines)


def counted_once(found: list[list[Grade]]) -> tuple[list[Grade], list[str]]:
    """The grades of all files, where each exercise of a student counts once, with the most points that it got.

    Args:
        found: a list of grades a file.

    Returns:
        The grades in the same order, and a line for each student who has several notebooks of one page.
    """
    best: dict[tuple[tuple[str, ...], str], Grade] = {}
    files: dict[tuple[str, ...], list[str]] = {}
    for rows in found:
        page = _page(rows)
        files.setdefault(page, []).append(rows[0].file)
        for row in rows:
            best[page, row.exercise] = max(best.get((page, row.exercise), row), row, key=lambda each: each.points)
    grades = []
    for rows in found:
        for row in rows:
            counts = best[_page(rows), row.exercise]
            if row.exercise and row is not counts:
                row = replace(row, points=0, possible=0, message=f"It counts as in {counts.file}. {row.message}")
            grades.append(row)
    several = ((page[0], names) for page, names in files.items() if page[1] and len(names) > 1)
    return grades, [f"  {student}: {', '.join(names)}" for student, names in several]


def _page(rows: list[Grade]) -> tuple[str, ...]:
    """A student and a page, which its exercises name: two pages may share one of them."""
    return rows[0].student, *(row.exercise for row in rows)


def table(grades: list[Grade]) -> pd.DataFrame:
    """All grades, one row a student and exercise."""
    return pd.DataFrame([asdict(grade) for grade in grades], columns=COLUMNS)


def summary(grades: pd.DataFrame) -> pd.DataFrame:
    """Points of each student."""
    return grades.groupby("student")[["points", "possible"]].sum()


def grade(submissions: Path, out: Path) -> int:
    """Grade a folder, print the points, and write the table ``out``: what ``hyperfit grade`` does.

    Grades are put down beside ``out`` as they come. If grading is stopped, the same command goes on. A file that
    stands at ``out`` is not lost: it gets another name.

    Returns:
        0 if every file could be graded, 1 if one could not.

    Raises:
        GradingError: as :func:`grade_folder`; or there is no folder to write the table to, its name is not that of a
            CSV file, or another run writes it.
        CacheError: the table cannot be written.
    """
    if not out.parent.is_dir():
        raise GradingError(f"There is no folder {out.parent} to write {out.name} to: make it first.")
    if out.is_dir():
        raise GradingError(f"{out} is a folder, and the table is a file: name one, such as {out / 'grades.csv'}.")
    if out.suffix.lower() != ".csv":
        raise GradingError(f"The table is written as CSV: name {out.with_suffix('.csv').name} with --out.")
    try:
        with disk_errors(out), FileLock(out.with_name(f".{out.name}.lock"), timeout=0):
            return _grade(submissions, out)
    except Timeout as error:
        raise GradingError(f"Another run is writing {out}: wait for it, or name another table with --out.") from error


def _grade(submissions: Path, out: Path) -> int:
    files, problems = [], []
    ledger = Ledger(out, COLUMNS, isolation.course_digest(isolation.course_files()))
    try:
        found = grade_folder(submissions, ledger)
    except GradingError:
        if not ledger.known:
            ledger.part.unlink()  # of no earlier run either
        raise
    print(isolation.statement())
    print(f"Until the table is whole, its rows are in {ledger.part}.\n", flush=True)
    for rows in found:
        files.append(rows)
        points, possible = (sum(getattr(row, name) for row in rows) for name in ("points", "possible"))
        if rows[0].graded:
            print(f"{rows[0].file}: {points} of {possible} points", flush=True)
        else:
            problems.append(f"  {rows[0].file}: {rows[0].message}")
    grades, several = counted_once(files)
    whole = table(grades)
    with atomic_path(out) as temporary:
        whole.to_csv(temporary, index=False)
        old = put_aside(out, temporary)
    ledger.part.unlink()
    print(f"\n{summary(whole).to_string()}\n\n{len(whole)} rows are in {out}")
    if old:
        print(f"The file that stood there before is {old} now.")
    if several:
        print("\nSeveral notebooks of one page (each exercise counts once, with the most points):", *several, sep="\n")
        print("If one of these names is no student, put the notebooks into a folder for each student, and grade again.")
    if problems:
        print("\nNot graded:", *problems, sep="\n")
    return 1 if problems else 0
