"""Checks of the exercises of the lab on teacher labels."""

from __future__ import annotations

import random

from hyperfit_course.checks.core import Answer, exercise, need, spot

Tags = list[list[str]]


def spans(tags: list[str]) -> set[tuple[int, int]]:
    """Where spans begin, and the places after their ends."""
    starts = [place for place, tag in enumerate(tags) if tag == "B"]
    length = {start: next((n for n, tag in enumerate(tags[start + 1 :]) if tag != "I"), None) for start in starts}
    return {(start, len(tags) if n is None else start + 1 + n) for start, n in length.items()}


def reference(gold: Tags, predicted: Tags) -> float:
    """F1 of exact spans over all headlines."""
    sides = [[spans(row) for row in side] for side in (gold, predicted)]
    right = sum(len(one & other) for one, other in zip(*sides, strict=True))
    total = sum(len(row) for side in sides for row in side)
    return 2 * right / total if total else 1.0


@exercise(
    points=3,
    notice="How large would F1 be if each span that overlaps a gold one counted as right? Post-processing that cuts "
    "names could hide behind such a measure.",
)
def span_f1(answer: Answer) -> None:
    """Whether a function gives the F1 of exact spans over all headlines."""

    def found(gold: str, predicted: str) -> float:
        return answer.number(*([list(row) for row in side.split()] for side in (gold, predicted)))

    def wanted(gold: str, predicted: str, message: str) -> None:
        sides = [[list(row) for row in side.split()] for side in (gold, predicted)]
        value = found(gold, predicted)
        need(
            abs(value - reference(*sides)) < 1e-9,
            f"For gold {gold} and predicted {predicted} it gives {value:.4g}: {message}.",
        )

    wanted("BIOOB", "BIOOB", "a perfect prediction has an F1 of 1")
    wanted("OOO", "OOO", "where there is no span on either side, the result is 1")
    wanted("OOB", "OOO", "a span may end with its headline")
    wanted("BIO", "OBI", "none of these spans has the same first and last word; single words do not count")
    wanted("BOBO", "BOOO", "F1 divides by gold and predicted spans together; this is precision or recall alone")
    wanted("BIIIOB", "BIIIOO", "a span counts once, however many words it has")
    wanted("BIO", "BOO", "a name that lacks its last word is not right")
    wanted("BIBO", "BIIO", "a second name that begins right after the first is a name of its own")
    wanted("OOO", "OIO", "an I without a B before it belongs to no span")
    wanted("BO OO", "OO BO", "the same place in another headline is another span")
    wanted("B BBBBBB", "B BOOOOO", "divide once, for all headlines together, and not for each of them")
    draw = random.Random(5)
    for _ in range(5):
        rows = ["".join(draw.choice("OOBI") for _ in range(draw.randint(2, 9))) for _ in range(6)]
        other = ["".join(tag if draw.random() < 0.7 else draw.choice("OBI") for tag in row) for row in rows]
        wanted(" ".join(rows), " ".join(other), "which is wrong")


@exercise(
    points=2,
    notice="A teacher that cuts three of ten names has the same share of wrong names as one that loses them. Which of "
    "the two has the higher F1?",
)
def teacher_f1(answer: Answer) -> None:
    """Whether a function gives the F1 of a teacher from the shares of its errors."""
    need(abs(answer.number(0.0, 0.0, 0.0) - 1) < 1e-9, "A teacher without errors has an F1 of 1, and here it has not.")
    for lost, cut, added in ((0.2, 0.1, 0.25), (0.1, 0.3, 0.0), (0.0, 0.4, 0.1), (0.05, 0.15, 0.5)):
        given = f"lost = {lost}, cut = {cut}, added = {added}"
        right, labelled = 1 - lost - cut, 1 - lost + added
        precision, wanted = right / labelled, 2 * right / (1 + labelled)
        value = answer.number(lost, cut, added)
        faults = {
            right: "that is the share of names that are right, which is recall.",
            precision: "that is the share of labels that are right, which is precision.",
            (right + precision) / 2: "that is the plain mean of precision and recall.",
            2 * right / (1 + labelled - cut): "a name without its last word is labelled too.",
            2 * right / (2 - lost): "labels on other words count as labels.",
            2 * right / (2 + added): "names that are left out have no label.",
            2 * (1 - lost) / (1 + labelled): "a name without its last word is not right.",
        }
        spot(value, given, {fault: why for fault, why in faults.items() if abs(fault - wanted) > 1e-6})
        need(abs(value - wanted) < 1e-9, f"For {given} it gives {value:.4g}, which is wrong.")


@exercise(
    points=1,
    notice="900,000 headlines in 8 hours for $8 an hour: what did 1,000 cost? How many a second must a machine for "
    "$0.10 an hour read to be 80 times cheaper?",
)
def cost_per_thousand(answer: Answer) -> None:
    """Whether a function gives the price of 1,000 headlines."""
    for dollars, speed in ((8.0, 31.25), (0.1, 4.0), (0.5, 250.0)):
        given = f"{dollars} dollars an hour and {speed} headlines a second"
        right = 1000 * dollars / (3600 * speed)
        value = answer.number(dollars, speed)
        faults = {
            dollars / (3600 * speed): "that is the price of one headline.",
            dollars / 3600 * 1000: "the speed does not count in it.",
            1000 * dollars / speed: "the price is of an hour, and the speed of a second.",
            1000 * dollars / (60 * speed): "an hour has 3,600 seconds, and not 60.",
            3600 * speed / dollars: "that is how many headlines a dollar buys.",
            dollars * speed * 1000 / 3600: "a faster machine has to be cheaper a headline, and here it is dearer.",
        }
        spot(value, given, faults)
        need(abs(value - right) < 1e-9, f"For {given} it gives {value:.4g}, which is wrong.")
