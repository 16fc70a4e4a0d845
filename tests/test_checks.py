"""The checks of the exercises: right answers pass, and every usual mistake gets a message of its own."""

from __future__ import annotations

import doctest
import functools
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from answers import RIGHT, WRONG
from answers import Wrong as WrongAnswer
from jupytext import read

from hyperfit_course import checks
from hyperfit_course.checks.chapter_01 import type_token_ratio
from hyperfit_course.checks.core import Answer, Verdict, Wrong, exercise
from hyperfit_course.checks.record import EXERCISES, keep, progress_table

ROOT = Path(__file__).resolve().parent.parent
GUIDE = 'see "How an exercise is made" in CONTRIBUTING.md'
POINTS = {(page, name): points for page, names in checks.exercises().items() for name, points in names.items()}
for_every_exercise = pytest.mark.parametrize(("page", "name"), POINTS)


def check(page: str, name: str) -> Callable[[Any], Verdict]:
    return getattr(importlib.import_module(f"hyperfit_course.checks.{page}"), name)


def text_of(folder: str, page: str) -> Path:
    """The text notebook of a page: of a chapter by its number, of a lab by its name."""
    kind, _, rest = page.partition("_")
    name = f"{rest}_*.md" if kind == "chapter" else f"labs/{rest}.md"
    found = list((ROOT / folder).glob(name))
    assert len(found) == 1, (
        f"hyperfit_course/checks/{page}.py needs one page {folder}/{name}, and there are {len(found)}: {GUIDE}"
    )
    return found[0]


def wrong_answers(page: str, name: str) -> list[WrongAnswer]:
    assert (page, name) in WRONG, f"tests/answers/{page}.py has no WRONG[{name!r}]: {GUIDE}"
    return WRONG[page, name]


def right_answer(page: str, name: str) -> Callable[..., Any]:
    assert (page, name) in RIGHT, f"tests/answers/{page}.py has no RIGHT[{name!r}]: {GUIDE}"
    return RIGHT[page, name]


@pytest.fixture(autouse=True)
def progress_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYPERFIT_PROGRESS", str(tmp_path / "own" / "progress.json"))
    return tmp_path / "own" / "progress.json"


def function(folder: str, page: str, name: str) -> Callable[..., Any]:
    """The function of an exercise, as the text notebook of its page has it."""
    found = functions(folder, page)
    assert name in found, f"{text_of(folder, page).relative_to(ROOT)} has no function {name}, as its check is called"
    return found[name]


@functools.cache
def functions(folder: str, page: str) -> dict[str, Callable[..., Any]]:
    """The functions that the text notebook of a page defines; nothing else in it is run."""
    found: dict[str, Any] = {}
    for cell in read(text_of(folder, page)).cells:
        if cell.cell_type == "code" and re.match(r"def |from |import ", cell.source):
            exec(cell.source, found)
    return found


@for_every_exercise
def test_the_solution_passes_and_its_example_is_true(page: str, name: str) -> None:
    solution = function("solutions", page, name)
    verdict = check(page, name)(solution)
    assert verdict.passed, verdict
    examples = doctest.DocTestFinder().find(solution, name, globs=solution.__globals__)
    results = [doctest.DocTestRunner().run(example) for example in examples]
    assert sum(result.attempted for result in results) > 0
    assert sum(result.failed for result in results) == 0


@for_every_exercise
def test_the_stub_is_not_implemented_yet(page: str, name: str) -> None:
    verdict = check(page, name)(function("exercises", page, name))
    assert not verdict.passed
    assert "not implemented yet" in verdict.message


@for_every_exercise
def test_another_right_answer_passes(page: str, name: str) -> None:
    verdict = check(page, name)(right_answer(page, name))
    assert verdict.passed, verdict


@pytest.mark.parametrize(
    ("page", "name", "number"), [(*key, number) for key in POINTS for number in range(len(WRONG.get(key, [])))]
)
def test_a_wrong_answer_is_told_its_fault(page: str, name: str, number: int) -> None:
    wrong = WRONG[page, name][number]
    verdict = check(page, name)(wrong.answer)
    assert not verdict.passed
    assert wrong.message in verdict.message


@for_every_exercise
def test_wrong_answers_get_different_messages_and_there_are_three(page: str, name: str) -> None:
    messages = [check(page, name)(wrong.answer).message for wrong in wrong_answers(page, name)]
    assert len(messages) >= 3, f"tests/answers/{page}.py: WRONG[{name!r}] needs three answers"
    twice = {message for message in messages if messages.count(message) > 1}
    assert not twice, f"hyperfit_course/checks/{page}.py says the same to two wrong answers: {twice}"


@for_every_exercise
def test_neither_messages_nor_help_show_the_solution(page: str, name: str) -> None:
    texts = [text_of("solutions", each).read_text(encoding="utf-8") for each in checks.exercises()]
    regions = re.findall(r"# begin solution\n(.*?)# end solution", "".join(texts), re.S)
    code = {line.strip() for region in regions for line in region.split("\n") if not line.strip().startswith("#")}
    tried = check(page, name)
    shown = [tried(wrong.answer).message for wrong in wrong_answers(page, name)]
    shown += [tried.__doc__ or "", tried(right_answer(page, name)).message]
    told = [line for line in code if len(line) > 8 and any(line in text for text in shown)]
    assert not told, f"hyperfit_course/checks/{page}.py: {name} shows lines of a solution, {told}"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1, 2], "takes the function itself, and this is a list"),
        (0.5, "this is a float (0.5)"),
        (lambda: 1, "called with 1 argument, and yours cannot be"),
        (lambda tokens: None, "returned nothing"),
        (lambda tokens: tokens[99], "it raised IndexError: list index out of range (at `"),
        (lambda tokens: "much", "a str ('much'): a number is wanted"),
        (lambda tokens: True, "a bool (True)"),
        (lambda tokens: torch.tensor(0.5), "turn it into a number with .item()"),
        (lambda tokens: torch.zeros(3), "a tensor of shape (3,): one number is wanted"),
        (lambda tokens: exit("bye"), "it raised SystemExit"),
        (lambda tokens: tokens.append(1) or 0.5, "changed what it was given"),
        (lambda tokens: float("inf"), "no finite number"),
    ],
)
def test_answers_of_the_wrong_kind_are_refused_in_words(answer: Any, message: str) -> None:
    assert message in type_token_ratio(answer).message


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (0.5, "a tensor of shape (2,) is wanted"),
        (torch.zeros(2, 1), "returned shape (2, 1), and (2,) is wanted"),
        (torch.zeros(2, dtype=torch.float64), "returned float64, and float32 is wanted"),
        (torch.zeros(2, device="meta"), "on meta, and its input was on cpu"),
        (torch.tensor([0.0, torch.nan]), "the result has NaN in it: look for 0 / 0"),
    ],
)
def test_tensors_of_the_wrong_kind_are_refused_in_words(result: Any, message: str) -> None:
    with pytest.raises(Wrong, match=re.escape(message)):
        Answer(lambda given: result, "f").tensor(torch.zeros(2), shape=(2,))


@pytest.mark.parametrize("change", [lambda given: given.mul_(2), lambda given: given.resize_(1)])
def test_a_changed_tensor_is_found(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(Wrong, match="changed what it was given"):
        Answer(change, "f")(torch.ones(2))


def test_a_result_of_the_wrong_kind_is_shown_and_said() -> None:
    tensors = Answer(lambda given: (torch.tensor(0.5), torch.tensor(1)), "f")
    with pytest.raises(Wrong, match=re.escape("With 3 it returned (tensor(0.5), tensor(1)): a pair of Python numbers")):
        tensors.pair(3, wanted="(low, high)")
    with pytest.raises(Wrong, match=re.escape("For one coin it returned (True, 1)")):
        Answer(lambda given: (True, 1), "f").pair(3, wanted="(low, high)", given="For one coin")
    with pytest.raises(Wrong, match=re.escape("a list of whole numbers is wanted (.tolist() makes one of a tensor)")):
        Answer(torch.arange, "f").whole_numbers(3)
    with pytest.raises(Wrong, match=r"With 3 it returned \[0, 1.0\]: a list of whole numbers is wanted\.$"):
        Answer(lambda given: [0, 1.0], "f").whole_numbers(3)
    assert Answer(lambda given: (0, 0.5), "f").pair(3, wanted="(low, high)") == (0, 0.5)
    assert Answer(lambda given: [given], "f").whole_numbers(3) == [3]


def test_what_a_check_forbids_is_no_error_of_the_answer() -> None:
    def forbidden() -> None:
        raise Wrong("Do it without.")

    with pytest.raises(Wrong, match=r"^Do it without\.$"):
        Answer(lambda given: forbidden(), "f")(3)


def test_exercises_are_those_of_all_pages_in_their_order() -> None:
    pages = [path.stem for path in sorted((ROOT / "hyperfit_course/checks").glob("*_*.py")) if path.stem != "__init__"]
    assert list(checks.exercises()) == pages == sorted(pages)
    assert list(checks.exercises()["chapter_05"]) == [
        "participation_ratio",
        "pr_by_traces",
        "outlier_dimensions",
    ]


def test_importing_the_checks_imports_those_of_no_page() -> None:
    program = "import sys, hyperfit_course.checks; print([name for name in sys.modules if 'checks.chapter' in name])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_two_pages_may_have_an_exercise_of_one_name() -> None:
    for page, points in (("lab_one", 1), ("lab_two", 4)):

        def count(answer: Answer) -> None:
            answer.number([1])

        count.__module__ = f"hyperfit_course.checks.{page}"
        made = exercise(points=points, notice=page)(count)
    assert (EXERCISES.pop("lab_one"), EXERCISES.pop("lab_two")) == ({"count": 1}, {"count": 4})
    assert made(len).message == "lab_two"
    table = progress_table({"lab_one": ["count"], "lab_two": ["count"]})
    assert table["attempts"].tolist() == [0, 1]
    assert table.loc[("lab_two", "count"), "solved"] != "" == table.loc[("lab_one", "count"), "solved"]


def test_progress_is_kept_and_counted(progress_file: Path) -> None:
    wrong = WRONG["chapter_01", "type_token_ratio"][0].answer
    type_token_ratio(wrong)
    type_token_ratio(RIGHT["chapter_01", "type_token_ratio"])
    type_token_ratio(wrong)
    table = checks.progress()
    assert list(table.index) == list(POINTS)
    row = table.loc[("chapter_01", "type_token_ratio")]
    assert row["attempts"] == 3
    assert row["solved"] == json.loads(progress_file.read_text())["chapter_01.type_token_ratio"]["solved"] != ""
    assert table.loc[("chapter_01", "find_loop"), "solved"] == ""


def test_an_older_progress_file_counts_where_it_is_clear_what_it_means(progress_file: Path) -> None:
    progress_file.parent.mkdir()
    old = {"count": {"attempts": 2, "solved": "2026-01-01"}, "trim": {"attempts": 5, "solved": None}}
    progress_file.write_text(json.dumps(old), encoding="utf-8")
    keep("lab_one", "trim", passed=True)
    table = progress_table({"lab_one": ["count", "trim"], "lab_two": ["count"]})
    assert table["attempts"].tolist() == [0, 6, 0]  # which page's `count` it was is not known
    assert table.loc[("lab_one", "trim"), "solved"] != ""


@pytest.mark.parametrize(
    "text",
    [
        "{ broken",
        "[1, 2]",
        '{"chapter_01.type_token_ratio": 3}',
        '{"chapter_01.type_token_ratio": {"attempts": "many", "solved": null}}',
        '{"chapter_01.type_token_ratio": {"attempts": 3}}',
        '{"chapter_01.type_token_ratio": {"attempts": 3, "solved": 7}, "type_token_ratio": null}',
        "\udce9",
    ],
)
def test_a_damaged_progress_file_stops_no_check(progress_file: Path, text: str) -> None:
    progress_file.parent.mkdir()
    progress_file.write_text(text, encoding="utf-8", errors="surrogateescape")
    assert type_token_ratio(RIGHT["chapter_01", "type_token_ratio"]).passed
    assert checks.progress()["attempts"].sum() == 1


def test_an_unwritable_progress_file_stops_no_check(
    progress_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress_file.parent.mkdir()
    progress_file.write_text("{}", encoding="utf-8")
    monkeypatch.setenv("HYPERFIT_PROGRESS", str(progress_file / "below" / "a file"))
    assert type_token_ratio(RIGHT["chapter_01", "type_token_ratio"]).passed
    assert "Your progress is not kept" in capsys.readouterr().out


def test_a_verdict_is_shown_as_text_and_as_html() -> None:
    verdict = Verdict("find_loop", False, "1 < 2")
    assert repr(verdict) == "find_loop: not yet. 1 < 2"
    assert "1 &lt; 2" in verdict._repr_html_()


@for_every_exercise
def test_the_page_says_the_points_that_are_given_and_calls_its_own_checks(page: str, name: str) -> None:
    text = text_of("solutions", page).read_text(encoding="utf-8")
    assert f"\nfrom hyperfit_course.checks import {page} as checks" in text
    section = next((part for part in text.split("\n## ") if f"checks.{name}({name})" in part), "")
    assert section, f"the solutions of {page} have no cell `checks.{name}({name})`"
    points = POINTS[page, name]
    assert f" minutes · {points} point{'s'[: points > 1]}.*" in section, f"{page}: {name} gives {points}"
