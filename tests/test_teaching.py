"""The guides for teachers add up, and say of each exercise of the chapters what its page says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from hyperfit_course import checks

ROOT = Path(__file__).resolve().parent.parent
GUIDES = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "book/teach").glob("*.md")}
SYLLABUS = GUIDES["syllabus"]
TABLES = [table for table in re.findall(r"(?:^\|.*\n)+", SYLLABUS, re.M) if "| from |" in table]
HEAD = re.compile(r"^## Exercise \d+: (.+)\n\n\*.+? · (\d+) minutes · (?:(\d+) points?|no check)\.\*", re.M)


class Exercise(NamedTuple):
    """What its page says of an exercise; an open one has no points."""

    minutes: int
    points: int


def exercises_of(path: Path) -> dict[str, Exercise]:
    """The exercises of a page by their titles, in small letters as the guides have them."""
    found = HEAD.findall(path.read_text(encoding="utf-8"))
    return {title.lower(): Exercise(int(minutes), int(points or 0)) for title, minutes, points in found}


PAGES = {path.stem[:2]: path for path in sorted((ROOT / "solutions").glob("[0-9]*.md"))}
CHAPTERS = {number: exercises_of(path) for number, path in PAGES.items()}
KNOWN = {title: exercise for page in CHAPTERS.values() for title, exercise in page.items()}
WEEKS = dict(re.findall(r"^\| \d+: \{doc\}`(\d\d) .+?` \| \d+ \| (.+\|.+) \|$", SYLLABUS, re.M))
"""What students do in class and at home in the week of each chapter."""


def named(text: str) -> list[str]:
    """The titles of exercises in a text."""
    return [title.lower() for title in re.findall(r'"([^"]+)"', text)]


def in_order(text: str) -> list[Exercise]:
    """The exercises that a text names; a title that no page has fails in a test of its own."""
    return [KNOWN[title] for title in named(text) if title in KNOWN]


def listed(numbers: list[int]) -> str:
    """Numbers as a sentence has them: 1, 2 and 3."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}"


@pytest.mark.parametrize("table", TABLES)
def test_a_timetable_leaves_no_gap_and_adds_up(table: str) -> None:
    rows = re.findall(r"^\| (\d+):(\d\d) \| (\d+) \|", table, re.M)
    begins = [60 * int(hours) + int(minutes) for hours, minutes, _ in rows]
    lasts = [int(minutes) for *_, minutes in rows]
    assert [begin + last for begin, last in zip(begins, lasts, strict=True)][:-1] == begins[1:]
    assert int(re.findall(r"\*\*(\d+)\*\*", table)[0]) == sum(lasts)


def test_there_are_timetables() -> None:
    assert len(TABLES) == 4


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_exercise_says_its_minutes_and_points(chapter: str) -> None:
    assert len(CHAPTERS[chapter]) == PAGES[chapter].read_text(encoding="utf-8").count("\n## Exercise "), (
        f"solutions/{PAGES[chapter].name}: each title, one of its own, is followed by a line such as "
        "*Difficulty ●○○ · 10 minutes · 1 point.* or *Difficulty ●○○ · 10 minutes · no check.*"
    )


def test_exercises_have_the_minutes_of_their_pages() -> None:
    for title, minutes in re.findall(r'"([^"]+)" \((\d+)\)', SYLLABUS):
        assert title.lower() in KNOWN, f"book/teach/syllabus.md names {title!r}, and no page has such an exercise"
        expected = KNOWN[title.lower()].minutes
        assert int(minutes) == expected, f"book/teach/syllabus.md: {title!r} takes {expected} minutes on its page"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_exercise_has_its_place_in_the_six_weeks(chapter: str) -> None:
    assert sorted(named(WEEKS.get(chapter, ""))) == sorted(CHAPTERS[chapter]), (
        f"book/teach/syllabus.md: in the table of weeks, the row of {chapter} does not name the exercises of its page"
    )


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_lesson_plan_knows_the_exercises_of_its_chapter(chapter: str) -> None:
    plan = next((part for part in GUIDES["lessons"].split("\n## ") if part.startswith(f"{chapter} ")), "")
    minutes = sum(each.minutes for each in CHAPTERS[chapter].values())
    assert f"in class, {minutes} in all\n" in plan, f"book/teach/lessons.md: exercises {chapter} take {minutes} minutes"
    line = "".join(re.findall(r"^\*\*Exercise\.\*\* (.+)$", plan, re.M))
    assert named(line), f"book/teach/lessons.md: {chapter} has no line **Exercise.** that names one"
    for title in named(line):
        assert title in CHAPTERS[chapter], f"book/teach/lessons.md: {chapter} has no exercise {title!r}"


def test_pages_say_the_points_that_the_checks_give() -> None:
    given = {page: sum(points.values()) for page, points in checks.exercises().items() if page.startswith("chapter_")}
    said = {f"chapter_{number}": sum(each.points for each in page.values()) for number, page in CHAPTERS.items()}
    assert said == given, "solutions/: the points of the pages are not those in hyperfit_course/checks/"


def sentences() -> Iterator[tuple[str, str]]:
    """What a guide has to say, since the pages of the chapters say it."""
    points = [sum(each.points for each in page.values()) for page in CHAPTERS.values()]
    checked = sum(each.points > 0 for each in KNOWN.values())
    yield "syllabus", f"The chapters have {checked} exercises with a check, with {sum(points)} points in all."
    yield "syllabus", f"The {len(KNOWN) - checked} open exercises have no check"
    yield "syllabus", f"The points by week are {listed(points)}, together {sum(points)}."
    yield "running", f"{listed(points)} for exercises {min(CHAPTERS)} to {max(CHAPTERS)}."
    home = [sum(each.minutes for each in in_order(week.split("|")[1])) for week in WEEKS.values()]
    yield "syllabus", f"So homework takes {listed(home)} minutes"
    hours, *days = ([each.points for each in in_order(table) if each.points] for table in TABLES[:3])
    yield "syllabus", f"The {len(hours)} exercises above give {sum(hours)} points ({listed(hours)})."
    yield "syllabus", f"The exercises of both days with a check give {sum(map(sum, days))} points."


@pytest.mark.parametrize(("guide", "sentence"), list(sentences()))
def test_a_guide_says_the_numbers_of_the_pages(guide: str, sentence: str) -> None:
    assert sentence in " ".join(GUIDES[guide].split()), f"book/teach/{guide}.md has to say: {sentence}"
