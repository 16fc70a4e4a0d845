"""The timetables for teachers add up, and name exercises that exist with the minutes that they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hyperfit_course import checks

ROOT = Path(__file__).resolve().parent.parent
SYLLABUS = (ROOT / "book/teach/syllabus.md").read_text(encoding="utf-8")
TABLES = [table for table in re.findall(r"(?:^\|.*\n)+", SYLLABUS, re.M) if "| from |" in table]


def minutes_of_exercises() -> dict[str, int]:
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "solutions").glob("[0-9]*.md"))
    return {
        title.lower(): int(minutes) for title, minutes in re.findall(r"## Exercise \d: (.*)\n\n\*.*?· (\d+) min", pages)
    }


@pytest.mark.parametrize("table", TABLES)
def test_a_timetable_leaves_no_gap_and_adds_up(table: str) -> None:
    rows = re.findall(r"^\| (\d+):(\d\d) \| (\d+) \|", table, re.M)
    begins = [60 * int(hours) + int(minutes) for hours, minutes, _ in rows]
    lasts = [int(minutes) for *_, minutes in rows]
    assert [begin + last for begin, last in zip(begins, lasts, strict=True)][:-1] == begins[1:]
    assert int(re.findall(r"\*\*(\d+)\*\*", table)[0]) == sum(lasts)


def test_there_are_timetables() -> None:
    assert len(TABLES) == 4


def test_exercises_have_the_minutes_of_their_pages() -> None:
    named = re.findall(r'"([^"]+)" \((\d+)\)', SYLLABUS)
    assert len(named) > 30
    known = minutes_of_exercises()
    assert len(known) == 23
    assert [(title, minutes) for title, minutes in named if known.get(title.lower()) != int(minutes)] == []


def test_all_points_are_those_of_the_checks() -> None:
    points = [sum(names.values()) for names in checks.EXERCISES.values()]
    *first, last = points
    assert f"{', '.join(map(str, first))} and {last}, together {sum(points)}" in SYLLABUS
