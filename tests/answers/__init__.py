"""Answers that people give, chapter by chapter: wrong ones with the words that name the fault, and other right ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from answers import chapter_01, chapter_02, chapter_03, chapter_04, chapter_05, chapter_06


class Wrong(NamedTuple):
    """An answer with a mistake, and a part of the message that it should get."""

    answer: Callable[..., Any]
    message: str


CHAPTERS = (chapter_01, chapter_02, chapter_03, chapter_04, chapter_05, chapter_06)
WRONG = {name: [Wrong(*pair) for pair in pairs] for chapter in CHAPTERS for name, pairs in chapter.WRONG.items()}
RIGHT: dict[str, Callable[..., Any]] = {name: right for chapter in CHAPTERS for name, right in chapter.RIGHT.items()}
