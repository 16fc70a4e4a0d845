"""Grading: right and wrong submissions get their points, and hostile ones hurt nobody."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pandas as pd
import pytest

from hyperfit_course import grading
from hyperfit_course.checks import EXERCISES
from hyperfit_course.cli import main

ROOT = Path(__file__).resolve().parent.parent
NAMES = list(EXERCISES["01"])
TTR = "def type_token_ratio(tokens):\n    return len(set(tokens)) / len(tokens)"
POINTS = EXERCISES["01"]["type_token_ratio"]


def notebook(*cells: str) -> str:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    return nbformat.writes(made)


def committed(folder: str) -> str:
    return (ROOT / folder / "01_degeneration.ipynb").read_text(encoding="utf-8")


SUBMISSIONS = {
    "right": committed("solutions"),
    "nothing": committed("exercises"),
    "partly": notebook(TTR, "checks.type_token_ratio(type_token_ratio)", "def find_loop(tokens):\n    return None"),
    "no_checks": notebook(TTR),
    "endless": notebook(TTR, "while True:\n    pass", "def find_loop(tokens):\n    return (0, 1)"),
    "endless_answer": notebook(
        "def type_token_ratio(tokens):\n    while True:\n        pass", "def find_loop(t):\n    1 / 0"
    ),
    "exits": notebook("import sys\nsys.exit(0)", TTR),
    "kills_itself": notebook(TTR, "import os\nos._exit(0)", "def find_loop(tokens):\n    return None"),
    "redefines": notebook(
        "from hyperfit_course import checks",
        "from hyperfit_course.checks import chapter_01, core",
        "checks.type_token_ratio = lambda answer: print('passed')",
        "chapter_01.need = chapter_01.spot = core.need = lambda *given: None",
        "def type_token_ratio(tokens):\n    return 1.0",
        "checks.type_token_ratio(type_token_ratio)",
    ),
    "forks": notebook(TTR, "import os\nwhile True:\n    os.fork()"),
    "forks_below_python": notebook(TTR, "import ctypes\nlibc = ctypes.CDLL(None)\nwhile True:\n    libc.fork()"),
    "prints": notebook("while True:\n    print('x' * 1_000_000)", TTR),
    "fills_memory": notebook("held = bytearray(50_000_000_000)", TTR),
    "no_notebook": "This is my homework.",
    "another": notebook("print('hello')"),
}


@pytest.fixture(scope="module")
def grades(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("submissions")
    for student, text in SUBMISSIONS.items():
        (folder / student).mkdir()
        (folder / student / "01_degeneration.ipynb").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grading, "CELL_SECONDS", 3)
        patch.setattr(grading, "MEMORY_GIGABYTES", 6)
        status = main(["grade", str(folder), "--out", str(folder / "grades.csv")])
    assert status == 1  # two submissions are no exercise notebooks
    return pd.read_csv(folder / "grades.csv", keep_default_na=False).set_index(["student", "exercise"])


@pytest.mark.parametrize(
    ("student", "points"),
    [
        ("right", sum(EXERCISES["01"].values())),
        ("nothing", 0),
        ("partly", POINTS),
        ("no_checks", POINTS),
        ("endless", POINTS),
        ("endless_answer", 0),
        ("exits", POINTS),
        ("kills_itself", POINTS),
        ("redefines", 0),
        ("forks", POINTS),
        ("forks_below_python", POINTS),
        ("prints", POINTS),
        ("fills_memory", POINTS),
        ("no_notebook", 0),
        ("another", 0),
    ],
)
def test_every_submission_gets_its_points(grades: pd.DataFrame, student: str, points: int) -> None:
    assert grades.loc[student, "points"].sum() == points


@pytest.mark.parametrize(
    ("student", "exercise", "message"),
    [
        ("nothing", "find_loop", "not implemented yet"),
        ("partly", "find_loop", "it gives None"),
        ("partly", "ngram_repetition", "it is deleted, or the notebook is of another version"),
        ("endless", "ngram_repetition", "code cell 2 ran for more than 3 seconds"),
        ("endless", "find_loop", "it gives (0, 1)"),
        ("endless_answer", "type_token_ratio", "The check ran for more than 3 seconds"),
        ("endless_answer", "find_loop", "ZeroDivisionError"),
        ("exits", "find_loop", "code cell 1 raised SystemExit: 0"),
        ("kills_itself", "find_loop", "the notebook ended its own process (status 0)"),
        ("redefines", "type_token_ratio", "two of these tokens are the same"),
        ("forks", "find_loop", "PermissionError: a graded notebook starts no other process"),
        ("forks_below_python", "find_loop", "started more than 64 processes"),
        ("prints", "find_loop", "code cell 1 ran for more than 3 seconds"),
        ("fills_memory", "find_loop", "MemoryError"),
        ("no_notebook", "", "The file is no notebook"),
        ("another", "", "defines no function of any exercise"),
    ],
)
def test_a_row_says_what_happened(grades: pd.DataFrame, student: str, exercise: str, message: str) -> None:
    assert message in grades.loc[(student, exercise), "message"]


def test_there_is_a_row_for_every_student_and_exercise(grades: pd.DataFrame) -> None:
    whole = [student for student in SUBMISSIONS if student not in ("no_notebook", "another")]
    assert set(grades.index) == {(student, name) for student in whole for name in NAMES} | {
        ("no_notebook", ""),
        ("another", ""),
    }
    assert len(grades) == len(set(grades.index))


def test_no_process_is_left() -> None:
    found = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [line for line in found if b"hyperfit_course.sandbox" in line]


def test_a_wrong_folder_is_refused_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grade", str(tmp_path / "none")]) == 2
    assert main(["grade", str(tmp_path)]) == 2
    (tmp_path / "a.ipynb").write_text(notebook(TTR), encoding="utf-8")
    assert main(["grade", str(tmp_path), "--out", str(tmp_path / "none" / "grades.csv")]) == 2
    messages = capsys.readouterr().err
    assert "There is no folder" in messages
    assert "There is no notebook (.ipynb)" in messages
    assert "make it first" in messages


def test_a_student_is_a_folder_or_else_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "run_submission", lambda cells, names: ({}, []))
    for path in ("anna/02/01_degeneration.ipynb", "ben.ipynb", "anna/.ipynb_checkpoints/x.ipynb"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(notebook(TTR), encoding="utf-8")
    graded = [rows[0] for rows in grading.grade_folder(tmp_path)]
    assert [(row.student, row.file) for row in graded] == [
        ("anna", "anna/02/01_degeneration.ipynb"),
        ("ben", "ben.ipynb"),
    ]


def test_only_cells_that_do_nothing_but_check_are_left_out() -> None:
    assert grading.is_check("# my check\nchecks.find_loop(find_loop)")
    assert grading.is_check("verdict = checks.train(train)\nverdict")
    assert not grading.is_check("def find_loop(tokens):\n    return None\n\nchecks.find_loop(find_loop)")


def test_the_chapter_is_that_of_most_functions() -> None:
    assert (
        grading.exercises_in(["def train():\n    pass\n\ndef bootstrap_interval():\n    pass", TTR]) == EXERCISES["02"]
    )
    assert grading.exercises_in(["find_loop = lambda tokens: None"]) == EXERCISES["01"]
