"""The checks of the exercises: right answers pass, and every usual mistake gets a message of its own."""

from __future__ import annotations

import doctest
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from answers import RIGHT, WRONG
from jupytext import read

from hyperfit_course import checks
from hyperfit_course.checks.core import Answer, Verdict, Wrong

ROOT = Path(__file__).resolve().parent.parent
NAMES = [name for names in checks.EXERCISES.values() for name in names]


@pytest.fixture(autouse=True)
def progress_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYPERFIT_PROGRESS", str(tmp_path / "own" / "progress.json"))
    return tmp_path / "own" / "progress.json"


@functools.cache
def functions(folder: str) -> dict[str, Callable[..., Any]]:
    """The functions that the text notebooks of a folder define; nothing else in them is run."""
    found: dict[str, Any] = {}
    for path in sorted((ROOT / folder).glob("[0-9]*.md")):
        for cell in read(path).cells:
            if cell.cell_type == "code" and re.match(r"def |from |import ", cell.source):
                exec(cell.source, found)
    return {name: found[name] for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes_and_its_example_is_true(name: str) -> None:
    solution = functions("solutions")[name]
    verdict = getattr(checks, name)(solution)
    assert verdict.passed, verdict
    examples = doctest.DocTestFinder().find(solution, name, globs=solution.__globals__)
    results = [doctest.DocTestRunner().run(example) for example in examples]
    assert sum(result.attempted for result in results) > 0
    assert sum(result.failed for result in results) == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_stub_is_not_implemented_yet(name: str) -> None:
    verdict = getattr(checks, name)(functions("exercises")[name])
    assert not verdict.passed
    assert "not implemented yet" in verdict.message


@pytest.mark.parametrize("name", NAMES)
def test_another_right_answer_passes(name: str) -> None:
    verdict = getattr(checks, name)(RIGHT[name])
    assert verdict.passed, verdict


@pytest.mark.parametrize(("name", "number"), [(name, number) for name in NAMES for number in range(len(WRONG[name]))])
def test_a_wrong_answer_is_told_its_fault(name: str, number: int) -> None:
    wrong = WRONG[name][number]
    verdict = getattr(checks, name)(wrong.answer)
    assert not verdict.passed
    assert wrong.message in verdict.message


@pytest.mark.parametrize("name", NAMES)
def test_wrong_answers_get_different_messages_and_there_are_three(name: str) -> None:
    messages = [getattr(checks, name)(wrong.answer).message for wrong in WRONG[name]]
    assert len(set(messages)) == len(messages) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_neither_messages_nor_help_show_the_solution(name: str) -> None:
    source = (ROOT / "solutions").glob("[0-9]*.md")
    regions = re.findall(r"# begin solution\n(.*?)# end solution", "".join(path.read_text() for path in source), re.S)
    code = {line.strip() for region in regions for line in region.split("\n") if not line.strip().startswith("#")}
    shown = [getattr(checks, name)(wrong.answer).message for wrong in WRONG[name]]
    shown += [getattr(checks, name).__doc__, getattr(checks, name)(RIGHT[name]).message]
    assert not [line for line in code if len(line) > 8 and any(line in text for text in shown)]


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
    assert message in checks.type_token_ratio(answer).message


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


def test_progress_is_kept_and_counted(progress_file: Path) -> None:
    checks.type_token_ratio(WRONG["type_token_ratio"][0].answer)
    checks.type_token_ratio(RIGHT["type_token_ratio"])
    checks.type_token_ratio(WRONG["type_token_ratio"][0].answer)
    table = checks.progress()
    assert len(table) == len(NAMES)
    row = table.loc[("01", "type_token_ratio")]
    assert row["attempts"] == 3
    assert row["solved"] == json.loads(progress_file.read_text())["type_token_ratio"]["solved"] != ""
    assert table.loc[("01", "find_loop"), "solved"] == ""


def test_a_damaged_or_unwritable_progress_file_stops_no_check(
    progress_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress_file.parent.mkdir()
    progress_file.write_text("{ broken", encoding="utf-8")
    assert checks.type_token_ratio(RIGHT["type_token_ratio"]).passed
    assert checks.progress()["attempts"].sum() == 1
    monkeypatch.setenv("HYPERFIT_PROGRESS", str(progress_file / "below" / "a file"))
    assert checks.type_token_ratio(RIGHT["type_token_ratio"]).passed
    assert "Your progress is not kept" in capsys.readouterr().out


def test_a_verdict_is_shown_as_text_and_as_html() -> None:
    verdict = Verdict("find_loop", False, "1 < 2")
    assert repr(verdict) == "find_loop: not yet. 1 < 2"
    assert "1 &lt; 2" in verdict._repr_html_()


@pytest.mark.parametrize("name", NAMES)
def test_the_page_says_the_points_that_are_given(name: str) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "solutions").glob("[0-9]*.md"))
    section = next(part for part in pages.split("\n## ") if f"checks.{name}({name})" in part)
    points = next(names[name] for names in checks.EXERCISES.values() if name in names)
    assert f" minutes · {points} point{'s'[: points > 1]}.*" in section
