"""The guides for teachers add up, and say of each exercise what its page says."""

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
COURSE, _, SEMINAR = SYLLABUS.partition("\n## A seminar of eight meetings on the labs\n")
"""What the guide says of the chapters and of the labs: two labs have exercises of the same title."""
TABLES = [table for table in re.findall(r"(?:^\|.*\n)+", SYLLABUS, re.M) if "| from |" in table]
HEAD = re.compile(r"^## Exercise \d+: (.+)\n\n\*.+? · (\d+) minutes · (?:(\d+) points?|no check)\.\*", re.M)


class Exercise(NamedTuple):
    """What its page says of an exercise; an open one has no points."""

    minutes: int
    points: int


class Meeting(NamedTuple):
    """What the seminar says of the meeting of a lab: how its minutes are divided, and who does what where."""

    minutes: str
    in_class: str
    at_home: str
    points: str


def exercises_of(path: Path) -> dict[str, Exercise]:
    """The exercises of a page by their titles, in small letters as the guides have them."""
    found = HEAD.findall(path.read_text(encoding="utf-8"))
    return {title.lower(): Exercise(int(minutes), int(points or 0)) for title, minutes, points in found}


PAGES = {path.stem[:2]: path for path in sorted((ROOT / "solutions").glob("[0-9]*.md"))}
CHAPTERS = {number: exercises_of(path) for number, path in PAGES.items()}
KNOWN = {title: exercise for page in CHAPTERS.values() for title, exercise in page.items()}
WEEKS = dict(re.findall(r"^\| \d+: \{doc\}`(\d\d) .+?` \| \d+ \| (.+\|.+) \|$", SYLLABUS, re.M))
"""What students do in class and at home in the week of each chapter."""
LABS = {path.stem: exercises_of(path) for path in sorted((ROOT / "solutions/labs").glob("*.md"))}
ROW = r"^\| \d+: \{doc\}`.+? </book/labs/(\w+)>` \| \{cite:t\}`\w+` \| (.+) \| (.+) \| (.+) \| (\d+) \|$"
MEETINGS = {name: Meeting(*rest) for name, *rest in re.findall(ROW, SEMINAR, re.M)}
LANDING = (ROOT / "book/labs.md").read_text(encoding="utf-8")


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
    assert len(TABLES) == 5


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_exercise_says_its_minutes_and_points(chapter: str) -> None:
    assert len(CHAPTERS[chapter]) == PAGES[chapter].read_text(encoding="utf-8").count("\n## Exercise "), (
        f"solutions/{PAGES[chapter].name}: each title, one of its own, is followed by a line such as "
        "*Difficulty ●○○ · 10 minutes · 1 point.* or *Difficulty ●○○ · 10 minutes · no check.*"
    )


def test_exercises_have_the_minutes_of_their_pages() -> None:
    for title, minutes in re.findall(r'"([^"]+)" \((\d+)\)', COURSE):
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


def test_the_seminar_has_a_meeting_for_every_lab() -> None:
    pages = {path.stem for path in (ROOT / "book/labs").glob("*.md")}
    assert set(MEETINGS) == set(LABS) == pages, "book/teach/syllabus.md: the seminar lacks a lab, or knows one too many"


def minutes_of(lab: str, text: str) -> int:
    """What the exercises of a lab take that a text names."""
    return sum(LABS[lab][title].minutes for title in named(text))


@pytest.mark.parametrize("lab", LABS)
def test_a_meeting_of_the_seminar_is_that_of_the_pages_of_its_lab(lab: str) -> None:
    meeting, where = MEETINGS[lab], f"book/teach/syllabus.md, the meeting on {lab}"
    said = re.findall(r'"([^"]+)" \((\d+)\)', (meeting.in_class + meeting.at_home).lower())
    assert sorted(said) == sorted((title, str(each.minutes)) for title, each in LABS[lab].items()), where
    assert int(meeting.points) == sum(each.points for each in LABS[lab].values()), where
    plan = next(part for part in GUIDES["lessons"].split("\n## ") if f"</book/labs/{lab}>" in part)
    in_class, in_all = minutes_of(lab, meeting.in_class), sum(each.minutes for each in LABS[lab].values())
    assert f"exercises {in_class} minutes in class, {in_all} in all\n" in plan, f"{where}: not as its lesson plan"
    line = "".join(re.findall(r"^\*\*Exercise\.\*\* (.+) in class[,;]", plan, re.M))
    assert sorted(named(line)) == sorted(named(meeting.in_class)), f"{where}: not as its lesson plan"
    assert re.findall(rf"<labs/{lab}>`.+, (\d+) exercises \|", LANDING) == [str(in_all)], f"book/labs.md: {lab}"


@pytest.mark.parametrize("lab", LABS)
def test_talk_exercise_and_discussion_fill_their_part_of_a_meeting(lab: str) -> None:
    plan = next(part for part in GUIDES["lessons"].split("\n## ") if f"</book/labs/{lab}>" in part)
    (talk,) = re.findall(r"talk (\d+) minutes", plan)
    (exercise,) = re.findall(r"\| (\d+) \| exercise in class, then discussion \|", SEMINAR)
    assert f"| {talk} | talk:" in SEMINAR
    in_class = minutes_of(lab, MEETINGS[lab].in_class)
    rest = int(exercise) - in_class
    wanted = f"talk {talk}, exercise {in_class}" + (f", discussion {rest}" if rest else "")
    assert MEETINGS[lab].minutes == wanted, f"book/teach/syllabus.md, the meeting on {lab}"


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
    tasks = [each for page in LABS.values() for each in page.values()]
    assert all(each.points for each in tasks), "an open exercise of a lab: the seminar says that all have a check"
    yield "syllabus", f"The labs have {len(tasks)} exercises, all with a check."
    points = [sum(each.points for each in LABS[lab].values()) for lab in MEETINGS]
    yield "syllabus", f"The points by meeting are {listed(points)}, together {sum(points)}."
    home = [minutes_of(lab, meeting.at_home) for lab, meeting in MEETINGS.items()]
    yield "syllabus", f"So homework takes {listed(home)} minutes, and the reading comes on top. The order is ours"


@pytest.mark.parametrize(("guide", "sentence"), list(sentences()))
def test_a_guide_says_the_numbers_of_the_pages(guide: str, sentence: str) -> None:
    assert sentence in " ".join(GUIDES[guide].split()), f"book/teach/{guide}.md has to say: {sentence}"
