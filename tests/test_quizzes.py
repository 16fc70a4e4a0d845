"""Every chapter with a question, and every lab, has a quiz whose answers say why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parent.parent / "book"
PAGES = sorted([*BOOK.glob("[0-9]*.md"), *BOOK.glob("labs/*.md")])
WITH_QUIZ = [path for path in PAGES if path.stem != "00_start_here"]


@pytest.mark.parametrize("path", WITH_QUIZ, ids=lambda path: path.stem)
def test_each_question_has_one_right_answer_and_explains_all(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "\n## Quiz\n" in text, f"{path.relative_to(BOOK.parent)} has no section `## Quiz`"
    quiz = text.split("\n## Quiz\n")[1].split("\n## ")[0]
    questions = re.split(r"^\*\*(\d)\. .+\*\*$", quiz, flags=re.M)
    numbers, bodies = questions[1::2], questions[2::2]
    assert numbers == [str(number) for number in range(1, len(bodies) + 1)]
    assert 3 <= len(bodies) <= 5
    for body in bodies:
        answers = re.findall(r"^:::\{dropdown\} ([a-d])\) (.+)\n(Right|No)\. (.+)\n:::$", body, flags=re.M)
        assert [letter for letter, *_ in answers] == list("abcd")[: len(answers)]
        assert len(answers) == body.count("{dropdown}") >= 3
        assert [verdict for _, _, verdict, _ in answers].count("Right") == 1
        assert all(len(why.split()) >= 5 for *_, why in answers)
