"""Grading: right and wrong submissions get their points, and hostile ones hurt nobody."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from hyperfit_course.checks import exercises
from hyperfit_course.cli import main
from hyperfit_course.grading import grades as grading
from hyperfit_course.grading import isolation, runner, submissions
from hyperfit_course.grading.ledger import Ledger
from hyperfit_course.grading.submissions import Cell, GradingError

ROOT = Path(__file__).resolve().parent.parent
CHAPTER = exercises()["chapter_01"]
NAMES = list(CHAPTER)
TTR = "def type_token_ratio(tokens):\n    return len(set(tokens)) / len(tokens)"
POINTS = CHAPTER["type_token_ratio"]


def notebook(*cells: str, make: Callable[[str], nbformat.NotebookNode] = nbformat.v4.new_code_cell) -> str:
    return nbformat.writes(nbformat.v4.new_notebook(cells=[make(cell) for cell in cells]))


def without_ids(text: str) -> str:
    """A notebook as some editors save it: all cells have one id."""
    made = json.loads(text)
    for cell in made["cells"]:
        cell["id"] = "same"
    return json.dumps(made)


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
        "from hyperfit_course.checks import chapter_01 as checks, core",
        "checks.type_token_ratio = lambda answer: print('passed')",
        "checks.need = checks.spot = core.need = lambda *given: None",
        "def type_token_ratio(tokens):\n    return 1.0",
        "checks.type_token_ratio(type_token_ratio)",
    ),
    "forks": notebook(TTR, "import os\nwhile True:\n    os.fork()"),
    "forks_below_python": notebook(TTR, "import ctypes\nlibc = ctypes.CDLL(None)\nwhile True:\n    libc.fork()"),
    "prints": notebook("while True:\n    print('x' * 1_000_000)", TTR),
    "fills_memory": notebook("held = bytearray(50_000_000_000)", TTR),
    "no_notebook": "This is my homework.",
    "another": notebook("print('hello')"),
    "one_id": without_ids(notebook(TTR, "1 + 1")),
    "in_markdown": notebook(f"```python\n{TTR}\n```", make=nbformat.v4.new_markdown_cell),
}
FILES = {"zipped/answers.zip": b"PK", "right/README.md": b"See my notebook.", "right/.DS_Store": b"", "grades.csv": b""}


@pytest.fixture(scope="module")
def grades(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("submissions")
    for student, text in SUBMISSIONS.items():
        (folder / student).mkdir()
        (folder / student / "01_degeneration.ipynb").write_text(text, encoding="utf-8")
    for path, content in FILES.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    (folder / "nothing_at_all" / "deeper").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "CELL_SECONDS", 3)
        patch.setattr(runner, "MEMORY_GIGABYTES", 6)
        status = main(["grade", str(folder), "--out", str(folder / "grades.csv")])
    assert status == 1  # some submissions are no exercise notebooks
    return pd.read_csv(folder / "grades.csv", keep_default_na=False).set_index(["student", "exercise"])


@pytest.mark.parametrize(
    ("student", "points"),
    [
        ("right", sum(CHAPTER.values())),
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
        ("one_id", POINTS),
        ("in_markdown", 0),
        ("zipped", 0),
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
        ("forks_below_python", "find_loop", "code cell 2 ran for more than 3 seconds"),
        ("prints", "find_loop", "code cell 1 ran for more than 3 seconds"),
        ("fills_memory", "find_loop", "MemoryError"),
        ("no_notebook", "find_loop", "The file is no notebook: ask for it again as Jupyter"),
        ("another", "", "defines no function of any exercise"),
        ("in_markdown", "type_token_ratio", "is in a Markdown cell, so it was not run: turn the cell back into a code"),
        ("in_markdown", "find_loop", "it is deleted, or the notebook is of another version"),
        ("zipped", "", "only notebooks (.ipynb) are. If it holds an answer, ask for that."),
        ("right", "", "not read, and costs no points"),
        ("nothing_at_all", "", "There is no file in the folder"),
    ],
)
def test_a_row_says_what_happened(grades: pd.DataFrame, student: str, exercise: str, message: str) -> None:
    assert message in grades.loc[(student, exercise), "message"]


def test_there_is_a_row_for_every_student_and_exercise(grades: pd.DataFrame) -> None:
    whole = [student for student in SUBMISSIONS if student != "another"]
    alone = {"another", "zipped", "right", "nothing_at_all"}
    assert set(grades.index) == {(student, name) for student in whole for name in NAMES} | {
        (student, "") for student in alone
    }
    assert len(grades) == len(set(grades.index))
    assert set(grades[~grades["graded"]].index.get_level_values(0)) == alone | {"no_notebook"}


def test_a_notebook_that_cannot_be_read_counts_its_possible_points(grades: pd.DataFrame) -> None:
    assert grades.loc["no_notebook", "possible"].sum() == sum(CHAPTER.values())
    assert grades.loc["right", "possible"].sum() == sum(CHAPTER.values())
    assert grades.loc["zipped", "possible"].sum() == 0


def test_no_process_is_left() -> None:
    found = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [line for line in found if b"hyperfit_course.grading.sandbox" in line]


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
    monkeypatch.setattr(runner, "run_submission", lambda cells, page, names: ({}, []))
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


def test_the_page_is_that_of_most_functions() -> None:
    train = Cell("code", "def train():\n    pass\n\ndef bootstrap_interval():\n    pass")
    assert submissions.page_of([train, Cell("code", TTR)]) == "chapter_02"
    assert submissions.page_of([Cell("code", "find_loop = lambda tokens: None")]) == "chapter_01"
    assert submissions.page_of([Cell("raw", TTR)]) == "chapter_01"


def test_of_two_pages_with_one_name_the_imported_one_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"chapter_01": {"count": 1, "trim": 2}, "lab_counting": {"count": 5}, "lab_other": {"other": 1}}
    monkeypatch.setattr(submissions, "exercises", lambda: pages)
    count, trim = Cell("code", "def count(tokens):\n    pass"), Cell("code", "def trim(tokens):\n    pass")

    def page(line: str, *cells: Cell) -> str:
        return submissions.page_of([Cell("code", line), *cells])

    assert page("from hyperfit_course.checks import lab_counting as checks", count, trim) == "lab_counting"
    assert page("from hyperfit_course.checks import chapter_01 as checks, progress", count) == "chapter_01"
    assert page("import hyperfit_course.checks.lab_counting as checks", count) == "lab_counting"
    assert page("from hyperfit_course.checks import lab_other", count, trim) == "chapter_01"  # nothing of it is there
    assert page("from hyperfit_course.checks import lab_other") == "lab_other"  # all functions are deleted
    with pytest.raises(GradingError, match="defines no function"):
        page("from hyperfit_course import checks")


def test_the_check_of_the_page_is_run_and_not_its_namesake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "hyperfit_course"
    shutil.copytree(ROOT / "hyperfit_course", package, ignore=shutil.ignore_patterns("__pycache__"))
    twin = """
from hyperfit_course.checks.core import Answer, exercise, need


@exercise(points=7, notice="the lab's")
def type_token_ratio(answer: Answer) -> None:
    need(answer.number([1, 1]) == 2, "Count the tokens.")
"""
    (package / "checks" / "lab_twin.py").write_text(twin, encoding="utf-8")
    monkeypatch.setattr(isolation, "PACKAGE", package)
    for page, passed in (("lab_twin", True), ("chapter_01", False)):
        verdicts, problems = runner.run_submission(["type_token_ratio = len"], page, ["type_token_ratio"])
        assert not problems
        assert verdicts["type_token_ratio"]["passed"] == passed
        assert (verdicts["type_token_ratio"]["message"] == "the lab's") == passed


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_notebook_is_read_however_it_is_encoded(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "01_degeneration.ipynb"
    path.write_bytes(notebook("answer = 'übergroß'\n%time answer").encode(encoding))
    assert submissions.read_cells(path) == [Cell("code", "answer = 'übergroß'\n")]


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\xfe\xff", notebook("'ü'").encode("latin-1")])
def test_a_file_that_is_no_notebook_is_refused_with_what_to_ask_for(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "anna.ipynb"
    path.write_bytes(content)
    with pytest.raises(GradingError, match=r"no notebook: ask for it again as Jupyter or Colab saves it, in UTF-8"):
        submissions.read_cells(path)
    (row,) = grading.grade_notebook(path, tmp_path)
    assert (row.student, row.exercise, row.possible, row.graded) == ("anna", "", 0, False)
    assert "possible points are not counted, since its name tells no page" in row.message


def test_the_ids_of_cells_are_not_warned_about(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(without_ids(notebook(TTR, TTR)), encoding="utf-8")
    assert len(submissions.read_cells(path)) == 2
    assert len(recwarn) == 0


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("01_degeneration.ipynb", "chapter_01"),
        ("doe_jane_98702_01_Degeneration (2).ipynb", "chapter_01"),
        ("Chapter 02.ipynb", "chapter_02"),
        ("dynamic-convolutions.ipynb", "lab_dynamic_convolutions"),
        ("anna_convolutions.ipynb", "lab_convolutions"),
        ("hw01_anna.ipynb", None),
        ("2026-01-02.ipynb", None),
        ("99_other.ipynb", None),
    ],
)
def test_the_name_of_a_file_tells_its_page(name: str, page: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = ("chapter_01", "chapter_02", "lab_convolutions", "lab_dynamic_convolutions")
    monkeypatch.setattr(submissions, "exercises", lambda: {key: {} for key in pages})
    assert submissions.page_named(Path("student", name)) == page


def test_what_is_not_graded_is_named_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "run_submission", lambda cells, page, names: ({}, []))
    handed_in = tmp_path / "handed_in"
    for path in ("anna/a.ipynb", "anna/notes.pdf", "ben.py", "carl/x.IPYNB", "dora/__pycache__/x.pyc", ".hidden/x.py"):
        (handed_in / path).parent.mkdir(parents=True, exist_ok=True)
        (handed_in / path).write_text(notebook(TTR), encoding="utf-8")
    (handed_in / os.fsdecode(b"L\xf6sung.zip")).write_bytes(b"PK")  # from an archive in another encoding
    assert main(["grade", str(handed_in), "--out", str(handed_in / "grades.csv")]) == 1
    assert main(["grade", str(handed_in), "--out", str(handed_in / "grades.csv")]) == 1
    end = capsys.readouterr().out.split("Not graded:\n")[-1]
    assert [line.split(":")[0].strip() for line in end.splitlines()] == [
        "L\ufffdsung.zip",
        "anna/notes.pdf",
        "ben.py",
        "dora",
    ]
    found = pd.read_csv(handed_in / "grades.csv", keep_default_na=False)
    assert set(found["student"]) == {"anna", "ben", "carl", "dora", "L\ufffdsung"}
    assert set(found[found["student"] == "carl"]["possible"]) == set(CHAPTER.values())


def test_of_several_notebooks_of_a_page_each_exercise_counts_once_with_its_most_points(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(cells: list[str], page: str, names: list[str]) -> tuple[dict, list[str]]:
        solved = [name for name in names if f"def {name}(" in "".join(cells)]
        return {name: {"passed": name in solved, "message": "seen"} for name in names}, []

    monkeypatch.setattr(runner, "run_submission", run)
    handed_in = tmp_path / "handed_in"
    for path, function in {"anna/01.ipynb": NAMES[0], "anna/01 (1).ipynb": NAMES[1], "ben/01.ipynb": NAMES[0]}.items():
        (handed_in / path).parent.mkdir(parents=True, exist_ok=True)
        (handed_in / path).write_text(notebook(f"def {function}(tokens):\n    pass"), encoding="utf-8")
    assert main(["grade", str(handed_in), "--out", str(tmp_path / "grades.csv")]) == 0
    found = pd.read_csv(tmp_path / "grades.csv")
    sums = grading.summary(found)
    assert sums["possible"].tolist() == [sum(CHAPTER.values())] * 2
    assert sums.loc["anna", "points"] == CHAPTER[NAMES[0]] + CHAPTER[NAMES[1]]
    less = found[(found["file"] == "anna/01 (1).ipynb") & (found["exercise"] == NAMES[0])]
    assert less["message"].item() == "It counts as in anna/01.ipynb. seen"
    shown = capsys.readouterr().out
    assert "each exercise counts once" in shown
    assert "  anna: anna/01 (1).ipynb, anna/01.ipynb\n" in shown
    assert "  ben:" not in shown


def test_a_folder_of_nothing_but_notebooks_has_nothing_to_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "run_submission", lambda cells, page, names: ({}, []))
    (tmp_path / "handed_in").mkdir()
    (tmp_path / "handed_in" / "anna.ipynb").write_text(notebook(TTR), encoding="utf-8")
    assert main(["grade", str(tmp_path / "handed_in"), "--out", str(tmp_path / "grades.csv")]) == 0
    assert "Not graded" not in capsys.readouterr().out


def test_ten_thousand_submissions_are_no_burden(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "handed_in", tmp_path / "grades.csv"
    folder.mkdir()
    for number in range(10_000):
        (folder / f"student{number:05}.ipynb").write_bytes(b"my homework")
    assert main(["grade", str(folder), "--out", str(out)]) == 1
    assert capsys.readouterr().out.count("The file is no notebook") == 10_000
    assert len(pd.read_csv(out)) == 10_000


# The table that grows


def test_rows_are_there_while_the_next_notebook_is_graded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, seen = tmp_path / "grades.csv", []

    def run(cells: list[str], page: str, names: list[str]) -> tuple[dict, list[str]]:
        seen.append(pd.read_csv(f"{out}.part")["student"].unique().tolist())
        if len(seen) == 3:
            raise KeyboardInterrupt
        return {}, []

    monkeypatch.setattr(runner, "run_submission", run)
    (tmp_path / "handed_in").mkdir()
    for name in ("anna", "ben", "carl"):
        (tmp_path / "handed_in" / f"{name}.ipynb").write_text(notebook(TTR), encoding="utf-8")
    out.write_text("the table of last week", encoding="utf-8")
    command = ["grade", str(tmp_path / "handed_in"), "--out", str(out)]
    assert main(command) == 130
    assert seen == [[], ["anna"], ["anna", "ben"]]
    assert out.read_text(encoding="utf-8") == "the table of last week"
    assert main(command) == 0
    assert len(seen) == 4, "only the one that was interrupted is run again"
    assert set(pd.read_csv(out)["student"]) == {"anna", "ben", "carl"}
    assert (tmp_path / "grades.old1.csv").read_text(encoding="utf-8") == "the table of last week"
    there = [".grades.csv.lock", "grades.csv", "grades.old1.csv"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == there


def test_a_table_that_was_corrected_by_hand_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "run_submission", lambda cells, page, names: ({}, []))
    (tmp_path / "anna.ipynb").write_text(notebook(TTR), encoding="utf-8")
    out = tmp_path / "grades.csv"
    for number in (1, 2):
        assert main(["grade", str(tmp_path), "--out", str(out)]) == 0, "what was put aside is not handed in"
        assert "stood there before" not in capsys.readouterr().out
        assert main(["grade", str(tmp_path), "--out", str(out)]) == 0
        assert "stood there before" not in capsys.readouterr().out, "the same table is not kept twice"
        out.write_text(f"corrected {number}", encoding="utf-8")
        assert main(["grade", str(tmp_path), "--out", str(out)]) == 0
        kept = tmp_path / f"grades.old{number}.csv"
        assert f"The file that stood there before is {kept} now." in capsys.readouterr().out
        assert kept.read_text(encoding="utf-8") == f"corrected {number}"


@pytest.fixture
def ledger(tmp_path: Path) -> Callable[[str], Ledger]:
    return lambda course="now": Ledger(tmp_path / "grades.csv", ["file", "message"], course)


def put(ledger: Ledger, path: Path, *messages: str) -> None:
    ledger.add([{"file": path.name, "message": message} for message in messages], ledger.digest(path))


def test_a_notebook_is_known_by_its_content_its_name_and_the_course(
    tmp_path: Path, ledger: Callable[..., Ledger]
) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text("one", encoding="utf-8")
    put(ledger(), path, "first\nline", "second")
    again = ledger()
    rows = again.known[again.digest(path), "a.ipynb"]
    assert [row["message"] for row in rows] == ["first\nline", "second"]
    assert (ledger("later").digest(path), "a.ipynb") not in ledger().known
    path.write_text("two", encoding="utf-8")
    assert (again.digest(path), "a.ipynb") not in ledger().known


@pytest.mark.parametrize("cut", range(1, 75, 7))
def test_a_table_that_was_cut_off_keeps_whole_notebooks_only(
    tmp_path: Path, ledger: Callable[..., Ledger], cut: int
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name, encoding="utf-8")
        put(ledger(), tmp_path / name, "first", "second")
    part = tmp_path / "grades.csv.part"
    part.write_bytes(part.read_bytes()[:-cut])
    assert [name for _, name in ledger().known] == ["a"]
    assert part.read_text(encoding="utf-8").count("\n") == 3, "the head, and two rows"


def test_a_full_disk_keeps_the_table_as_it_was(tmp_path: Path, ledger: Callable[..., Ledger]) -> None:
    (tmp_path / "a").touch()
    made = ledger()
    put(made, tmp_path / "a", "first")
    before = made.part.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            put(made, tmp_path / "a", "second" * 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert made.part.read_bytes() == before


def test_another_table_is_not_taken_for_ours(tmp_path: Path, ledger: Callable[..., Ledger]) -> None:
    (tmp_path / "grades.csv.part").write_text("a,b\n1,2\n", encoding="utf-8")
    assert ledger().known == {}
