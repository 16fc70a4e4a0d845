"""Answers to the exercises of the lab on teacher labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Tags = list[list[str]]
Span = tuple[int, int]


def spans(tags: list[str]) -> list[Span]:
    text = "".join(tags)
    return [
        (at, at + 1 + len(text[at + 1 :]) - len(text[at + 1 :].lstrip("I")))
        for at in range(len(text))
        if text[at] == "B"
    ]


def from_counts(right: float, wanted: float, given: float) -> float:
    return 2 * right / (wanted + given) if wanted + given else 1.0


def by(found: Callable[[list[str]], list[Span]], size: Callable[[Span], int] = lambda span: 1) -> Callable[..., float]:
    """F1 with some way to find spans, and some weight of each."""

    def f1(gold: Tags, predicted: Tags) -> float:
        sides = [[set(found(row)) for row in side] for side in (gold, predicted)]
        both = [one & other for one, other in zip(*sides, strict=True)]
        return from_counts(*(sum(size(span) for row in rows for span in row) for rows in (both, *sides)))

    return f1


def words(gold: Tags, predicted: Tags) -> float:
    pairs = [
        (one != "O", other != "O")
        for g, p in zip(gold, predicted, strict=True)
        for one, other in zip(g, p, strict=True)
    ]
    return from_counts(sum(a and b for a, b in pairs), sum(a for a, _ in pairs), sum(b for _, b in pairs))


def swallowed(tags: list[str]) -> list[Span]:
    joined = ["I" if tag == "B" and place and tags[place - 1] != "O" else tag for place, tag in enumerate(tags)]
    return spans(joined)


def begun_by_inside(tags: list[str]) -> list[Span]:
    return spans(["B" if tag == "I" and (not n or tags[n - 1] == "O") else tag for n, tag in enumerate(tags)])


def never_closed(tags: list[str]) -> list[Span]:
    return [(first, end) for first, end in spans(tags) if end < len(tags)]


def starts(tags: list[str]) -> list[Span]:
    return [(first, first) for first, _ in spans(tags)]


def mixed_headlines(gold: Tags, predicted: Tags) -> float:
    one, other = ({span for row in side for span in spans(row)} for side in (gold, predicted))
    return from_counts(len(one & other), len(one), len(other))


def mean_of_headlines(gold: Tags, predicted: Tags) -> float:
    return sum(by(spans)([g], [p]) for g, p in zip(gold, predicted, strict=True)) / len(gold)


def precision(gold: Tags, predicted: Tags) -> float:
    right = sum(len({*spans(g)} & {*spans(p)}) for g, p in zip(gold, predicted, strict=True))
    given, wanted = (sum(len(spans(row)) for row in side) for side in (predicted, gold))
    return right / given if given else float(not wanted)


def f1_by_rates(lost: float, cut: float, added: float) -> float:
    recall, precision = 1 - lost - cut, (1 - lost - cut) / (1 - lost + added)
    return 2 / (1 / precision + 1 / recall)


WRONG: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "span_f1": [
        (words, "single words do not count"),
        (by(spans, size=lambda span: span[1] - span[0]), "a span counts once"),
        (by(swallowed), "right after the first"),
        (by(never_closed), "may end with its headline"),
        (by(starts), "lacks its last word"),
        (by(begun_by_inside), "without a B before it"),
        (mixed_headlines, "in another headline"),
        (mean_of_headlines, "divide once"),
        (precision, "precision or recall alone"),
    ],
    "teacher_f1": [
        (lambda lost, cut, added: 1 - lost - cut, "which is recall"),
        (lambda lost, cut, added: (1 - lost - cut) / (1 - lost + added), "which is precision"),
        (
            lambda lost, cut, added: (1 - lost - cut) * (1 + 1 / (1 - lost + added)) / 2,
            "plain mean",
        ),
        (lambda lost, cut, added: 2 * (1 - lost - cut) / (2 - lost - cut + added), "is labelled too"),
        (lambda lost, cut, added: 2 * (1 - lost - cut) / (2 - lost), "on other words"),
        (lambda lost, cut, added: 2 * (1 - lost - cut) / (2 + added), "have no label"),
        (lambda lost, cut, added: 2 * (1 - lost) / (2 - lost + added), "is not right"),
        (lambda lost, cut, added: 1 - lost - cut - added, "which is wrong"),
    ],
    "cost_per_thousand": [
        (lambda dollars, speed: dollars / (3600 * speed), "of one headline"),
        (lambda dollars, speed: 1000 * dollars / 3600, "speed does not count"),
        (lambda dollars, speed: 1000 * dollars / speed, "of a second"),
        (lambda dollars, speed: 1000 * dollars / (60 * speed), "not 60"),
        (lambda dollars, speed: 3600 * speed / dollars, "a dollar buys"),
        (lambda dollars, speed: 1000 * dollars * speed / 3600, "it is dearer"),
    ],
}

RIGHT: dict[str, Callable[..., Any]] = {
    "span_f1": by(spans),
    "teacher_f1": f1_by_rates,
    "cost_per_thousand": lambda dollars, speed: dollars / 3.6 / speed,
}
