"""Checks of the exercises on chapter 07: does it recite?"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from hyperfit_course.checks.core import Answer, exercise, need, show, small_model

Rows = list[list[int]]


def _marks(text: list[int], source: Rows, n: int) -> list[bool]:
    """What is copied, by looking at every run that holds a token."""
    pieces = [row[start : start + n] for row in source for start in range(len(row) - n + 1)]
    starts = [start for start in range(len(text) - n + 1) if text[start : start + n] in pieces]
    return [any(start <= place < start + n for start in starts) for place in range(len(text))]


def _longest(text: list[int], source: Rows) -> int:
    """The longest shared run, by trying every piece of the text."""
    return max((n for n in range(1, len(text) + 1) if any(_marks(text, source, n))), default=0)


def _draws(seed: int) -> list[tuple[list[int], Rows]]:
    """Texts and sources of few symbols, so that much is copied."""
    rng = random.Random(seed)
    return [
        (rng.choices(range(3), k=rng.randint(1, 14)), [rng.choices(range(3), k=rng.randint(0, 9)) for _ in range(3)])
        for _ in range(40)
    ]


@exercise(
    points=2,
    notice="Count a text of yours against another one, with n from 1 to 8. Where does chance end?",
)
def copied_tokens(answer: Answer) -> None:
    """Whether a function marks the tokens of a text that are copied from a source."""

    def marks(text: list[int], source: Rows, n: int) -> str:
        found = answer(text, source, n)
        need(
            isinstance(found, list) and all(type(each) is bool for each in found),
            f"With {show(text, source, n)} it returned {show(found)}: a list of True and False is wanted.",
        )
        need(
            len(found) == len(text),
            f"A text of {len(text)} tokens needs as many answers, and it gives {len(found)}.",
        )
        return "".join("x" if each else "-" for each in found)

    found = marks([9, 1, 2, 3, 9], [[1, 2, 3, 4]], 3)
    need(
        found != "-x---",
        "It marks only the first token of a run: every token that lies in the run is copied.",
    )
    need(
        marks([3, 9, 1, 9, 2], [[1, 2, 3]], 3) == "-----",
        "It marks tokens that occur in the source one by one: they have to stand there in a row, in the same order.",
    )
    need(
        found == "-xxx-",
        f"In the text 9 1 2 3 9, the three tokens in the middle are copied from 1 2 3 4 if n is 3. It marks {found}.",
    )
    need(
        marks([1, 2, 3, 4], [[1, 2], [3, 4]], 3) == "----",
        "It finds 1 2 3 in the rows 1 2 and 3 4: no run goes over the end of a row.",
    )
    need(
        marks([1, 2, 9, 1, 2], [[1, 2]], 2) == "xx-xx",
        "A run that stands twice in the text is copied twice, and it does not mark both.",
    )
    need(
        marks([1, 2, 3, 4, 5], [[1, 2, 3], [3, 4, 5]], 3) == "xxxxx",
        "Two copied runs may share a token: 1 2 3 and 3 4 5 together make a text of which all is copied.",
    )
    need(marks([1, 2], [[1, 2, 3]], 3) == "--", "In a text shorter than n tokens nothing is copied: it has no run.")
    for text, source in _draws(7):
        for n in (1, 2, 3, 4):
            wanted = "".join("x" if each else "-" for each in _marks(text, source, n))
            found = marks(text, source, n)
            need(found == wanted, f"With {show(text, source, n)} it marks {found}, and {wanted} is right.")


@exercise(
    points=2,
    notice="Which of the texts of chapter 02 has the longest span, and is it the one with the largest copied share?",
)
def longest_copied(answer: Answer) -> None:
    """Whether a function finds the longest run that a text shares with a row of a source."""

    def longest(text: list[int], source: Rows) -> int:
        found = answer.number(text, source)
        need(found == int(found), f"With {show(text, source)} it returned {found}: a number of tokens is wanted.")
        return int(found)

    found = longest([1, 9, 2, 9, 3], [[1, 2, 3]])
    need(
        found != 3,
        "For the text 1 9 2 9 3 and the row 1 2 3 it gives 3: other tokens may not stand in between. Count a run.",
    )
    need(
        longest([3, 2, 1], [[1, 2, 3]]) != 3,
        "For the text 3 2 1 and the row 1 2 3 it gives 3: the order counts.",
    )
    need(
        longest([1, 2, 3, 4], [[1, 2], [3, 4]]) == 2,
        "For the text 1 2 3 4 and the rows 1 2 and 3 4 the answer is 2: no run goes over the end of a row.",
    )
    need(
        longest([7, 8, 1, 2, 3], [[9, 1, 2, 3]]) == 3,
        "For the text 7 8 1 2 3 and the row 9 1 2 3 the answer is 3: a run may begin anywhere in both.",
    )
    need(
        longest([1, 2, 9, 1, 2, 3], [[1, 2, 3]]) == 3,
        "For the text 1 2 9 1 2 3 and the row 1 2 3 the answer is 3: after a short run, a longer one may come.",
    )
    need(longest([1, 2], [[3, 4]]) == 0, "A text that shares no token with the source has a longest span of 0.")
    need(
        longest([1, 2, 3, 4, 5, 6, 7], [[1, 2, 3, 4, 5, 6, 7]]) == 7,
        "If the whole text is copied, the longest span is the whole text.",
    )
    for text, source in _draws(8):
        found, wanted = longest(text, source), _longest(text, source)
        need(found == wanted, f"With {show(text, source)} it gives {found}, and {wanted} is right.")


@exercise(
    points=2,
    notice="Which hole does the rule have? Think of a model that changes one word and then goes on as before.",
)
def block_citations(answer: Answer) -> None:
    """Whether a function forbids what would continue a citation."""

    def forbidden(written: list[int], source: Rows, n: int) -> list[int]:
        logits = torch.linspace(-2, 2, 8)
        found = answer.tensor(written, logits, source, n, shape=(8,))
        away = found != logits
        need(
            bool(found[away].isneginf().all()),
            "It gives a forbidden token another logit than minus infinity: then greedy decoding may still choose it.",
        )
        return away.nonzero().flatten().tolist()

    source = [[1, 2, 3, 4], [7, 1, 2], [5, 2, 3, 6]]
    found = forbidden([0, 2, 3], source, 2)
    need(bool(found), "After 2 3 nothing is forbidden, and both 4 and 6 would continue a citation.")
    need(
        found == [4, 6],
        f"After 2 3, two rows go on: with 4 and with 6. It forbids {found}, and all that follows anywhere is wanted.",
    )
    need(
        forbidden([2, 3, 0], source, 2) == [],
        "It forbids something after 2 3 0, though 3 0 stands in no row: only the *last* n written tokens count.",
    )
    need(
        forbidden([2], source, 2) == [],
        "With one token written and n = 2 it forbids something: fewer than n tokens cite nothing.",
    )
    need(
        forbidden([0, 0, 1, 2], source, 2) == [3],
        "After 1 2 it should forbid 3 only. One row ends with 1 2: nothing follows there, not even the next row.",
    )
    need(
        forbidden([1, 2, 3], source, 3) == [4],
        "With n = 3 and 1 2 3 written, 4 is forbidden. Does the length of what is compared depend on n?",
    )
    _blocks_a_model(answer)


def _blocks_a_model(answer: Answer) -> None:
    """Greedy text of a small model with the answer in the loop, with its free text as the source."""
    model, prompt, n = small_model(), [5, 17, 40], 3

    def written(source: Rows) -> list[int]:
        text: list[int] = []
        with torch.no_grad():
            while len(text) < 12:
                logits: Tensor = model(input_ids=torch.tensor([prompt + text])).logits[0, -1]
                text.append(int(answer.tensor(text, logits, source, n, shape=(61,)).argmax()))
        return text

    free = written([])
    blocked = written([free])
    need(
        _longest(blocked, [free]) <= n,
        "A small model writes with it, and its own free text is the source. A run longer than n gets through.",
    )


@exercise(
    points=1,
    notice="If all values of a row are alike, the model writes in a style. Which rows of the chapter's figure are "
    "nearest to that?",
)
def beyond_style(answer: Answer) -> None:
    """Whether a function takes the mean share with foreign texts from the share with the own ones."""
    shares = torch.tensor([[0.30, 0.02, 0.04], [0.01, 0.20, 0.03], [0.05, 0.03, 0.10]])
    wanted = torch.tensor([0.27, 0.18, 0.06])
    found = answer.tensor(shares, shape=(3,))
    faults = {
        "it takes the own share into the mean of the others.": shares.diagonal() - shares.mean(dim=1),
        "it takes the mean of a column. That is the text of other models, counted against the own training texts.": (
            shares.diagonal() - (shares.sum(dim=0) - shares.diagonal()) / 2
        ),
        "it takes foreign minus own: a model that recites should have a large value.": -wanted,
        "the sum of the foreign shares is taken off, and not their mean.": (2 * shares.diagonal() - shares.sum(dim=1)),
        "the foreign shares are divided by the number of models, and there is one less of them.": (
            shares.diagonal() - (shares.sum(dim=1) - shares.diagonal()) / 3
        ),
    }
    for message, value in faults.items():
        need(not torch.allclose(found, value, atol=1e-6), f"For three models it gives {show(found)}: {message}")
    need(
        torch.allclose(found, wanted, atol=1e-6),
        f"For three models it gives {show(found)}, and {show(wanted)} is right.",
    )
    alike = answer.tensor(torch.full((5, 5), 0.1), shape=(5,))
    need(
        torch.allclose(alike, torch.zeros(5), atol=1e-6),
        "If all shares are alike, nothing is copied beyond style, and all values are 0.",
    )
    two = answer.tensor(torch.tensor([[0.5, 0.25], [0.0, 0.25]]), shape=(2,))
    need(torch.allclose(two, torch.tensor([0.25, 0.25])), f"For two models it gives {show(two)}, and not 0.25 twice.")
