"""Checks of the exercises on chapter 01: how repetitive is a text?"""

from __future__ import annotations

import random

from hyperfit_course.checks.core import Answer, exercise, need, show, spot


@exercise(
    points=1,
    notice="The ratio of a longer text is lower. Which two texts of the chapter may be compared, and which may not?",
)
def type_token_ratio(answer: Answer) -> None:
    """Whether a function gives the share of different tokens among all tokens of a text."""
    tokens = [3, 1, 4, 1, 5]
    found = answer.number(tokens)
    spot(
        found,
        show(tokens),
        {
            3 / 5: "you count the tokens that occur exactly once. One that occurs twice is one different token, too.",
            5 / 4: "that is above 1, so the fraction is upside down.",
            4: "that is a count, and a share of all tokens is wanted.",
            1 / 5: "that is the share that is repeated, and the share that is different is wanted.",
            1: "two of these tokens are the same. Is each one compared with all others, not only with its neighbour?",
        },
    )
    need(abs(found - 4 / 5) < 1e-9, f"For {tokens} it gives {found:.4g}: four of these five tokens are different.")
    generator = random.Random(0)
    for length in (1, 2, 50, 200):
        tokens = [generator.randrange(40) for _ in range(length)]
        found = answer.number(tokens)
        need(0 < found <= 1, f"For {show(tokens)} it gives {found}: a share lies between 0 and 1.")
        need(
            abs(answer.number(tokens + tokens) - found / 2) < 1e-9,
            f"When {show(tokens)} is written twice, the result should halve. Is the whole text counted?",
        )
        shuffled = generator.sample(tokens, length)
        need(
            abs(answer.number(shuffled) - found) < 1e-9,
            f"When the tokens of {show(tokens)} are put in another order, the result changes, and it must not.",
        )
        renamed = [token + 1000 for token in tokens]
        need(
            abs(answer.number(renamed) - found) < 1e-9,
            f"When 1000 is added to every token of {show(tokens)}, the result changes: ids are names, not amounts.",
        )
    need(answer.number([5]) == 1, "A text of one token has only different tokens: the result should be 1.")


@exercise(
    points=2,
    notice="Compare n = 1 with the type-token ratio. Why do we look at n = 2 and 3 as well?",
)
def ngram_repetition(answer: Answer) -> None:
    """Whether a function gives the share of n-grams of a text that occurred before in it."""
    tokens = [1, 2, 2, 3, 2, 3, 1, 2]
    found = answer.number(tokens, 2)
    spot(
        found,
        show(tokens, 2),
        {
            5 / 7: "that is the share of different bigrams, and the share that is repeated is wanted.",
            4 / 7: "the first time that a bigram occurs is no repetition. Only the later ones count.",
            1 / 4: "eight tokens have only seven bigrams. Divide by the number of n-grams.",
            3 / 8: "eight tokens have only seven bigrams. Divide by the number of n-grams.",
            1 / 2: "n-grams overlap. One begins at every token, and not only where the last one ended.",
            5 / 8: "that is the share of repeated tokens. Is n used?",
            3 / 7: "(2, 3) and (3, 2) are different bigrams. The order inside an n-gram counts.",
            1 / 6: "the last bigram is left out. It begins at the last token but one.",
            2: "that is a count, and a share of all n-grams is wanted.",
            0: "(1, 2) occurs at the beginning and at the end. Each n-gram is compared with all before it.",
        },
    )
    need(
        abs(found - 2 / 7) < 1e-9,
        f"For {show(tokens, 2)} it gives {found:.4g}: two of its seven bigrams occurred before.",
    )
    joined = answer.number([1, 11, 11, 1], 2)
    need(
        joined == 0,
        f"For {show([1, 11, 11, 1], 2)} it gives {joined:.4g}: (1, 11) and (11, 1) are different bigrams. How do you "
        "tell n-grams apart?",
    )
    generator = random.Random(1)
    for n in (1, 2, 3):
        fresh = list(range(20))
        need(
            answer.number(fresh, n) == 0,
            f"For 20 different tokens and n = {n} nothing is repeated, and it gives {answer.number(fresh, n)}.",
        )
        constant = [4] * 11
        expected = 1 - 1 / (11 - n + 1)
        found = answer.number(constant, n)
        need(
            abs(found - (1 - expected)) > 1e-9,
            f"For 11 equal tokens and n = {n} it gives {found:.3f}: an n-gram that occurs three times is repeated "
            "twice.",
        )
        need(
            abs(found - expected) < 1e-9,
            f"For 11 equal tokens and n = {n} all n-grams but the first are repetitions, a share of {expected:.3f}, "
            f"and it gives {found:.3f}. Is n used, and is the last n-gram counted?",
        )
        tokens = [generator.randrange(5) for _ in range(40)]
        backwards = answer.number(tokens[::-1], n)
        need(
            abs(answer.number(tokens, n) - backwards) < 1e-9,
            f"For a text and the same text read backwards it gives different results (n = {n}), and both repeat "
            "equally many n-grams.",
        )


@exercise(
    points=3,
    notice="Try it on the greedy continuations of the chapter: how long are the loops, and how soon do they begin?",
)
def find_loop(answer: Answer) -> None:
    """Whether a function finds where a text begins to loop, and how long one round is."""

    def expect(tokens: list[int], wanted: tuple[int, int] | None, hint: str) -> None:
        found = _loop(answer, tokens)
        if found and wanted and found[1] > wanted[1] and found[1] % wanted[1] == 0:
            hint = "Several rounds together are repeated as well, but the shortest round counts."
        elif found and wanted and found[1] == wanted[1] and found[0] > wanted[0]:
            hint = f"The round has the right length, but it is repeated from an earlier position on. {hint}"
        need(found == wanted, f"For {tokens} it gives {found}. {hint}")

    _loop(answer, [1, 2, 3])
    expect([5, 5, 5, 5], (0, 1), "One round is the token 5, and the text begins with it.")
    expect([9, 8, 1, 2, 3, 1, 2, 3, 1, 2, 3], (2, 3), "One round is (1, 2, 3), from position 2 on.")
    expect(
        [9, 8, 1, 2, 3, 1, 2, 3, 1],
        (2, 3),
        "A text may break off in the middle of a round: the loop is still that of 1, 2, 3 from position 2.",
    )
    expect(
        [7, 2, 3, 1, 2, 3, 1, 2, 3],
        (1, 3),
        "The loop begins as early as it can: position 1 fits the rounds that follow it.",
    )
    expect([1, 2, 3, 1, 2, 3], (0, 3), "Two whole rounds are enough, and here they are the whole text.")
    expect([1, 2, 1, 2, 9], None, "The end of the text is no loop, so it is not caught in one: None is wanted.")
    expect([1, 2, 3, 4, 1], None, "One token that comes back is no loop: at least two whole rounds are wanted.")
    expect([1, 2, 3, 4], None, "Nothing is repeated: None is wanted.")
    expect([1, 2, 2, 1, 2, 2], (4, 1), "The shortest round that fits counts, and here the text ends with 2, 2.")
    expect(
        [1, 1, 2, 1, 1, 2, 1, 1, 2],
        (0, 3),
        "Inside a round the same token may occur twice: one round is (1, 1, 2).",
    )
    generator = random.Random(2)
    for start, period in ((0, 4), (7, 5), (30, 1), (11, 20)):
        head = [100 + position for position in range(start)]
        round_ = generator.sample(range(50), period)
        tokens = (head + round_ * 40)[: start + 3 * period + period // 2]
        found = _loop(answer, tokens)
        need(
            found == (start, period),
            f"For a text of {len(tokens)} tokens that loops from position {start} on, in rounds of {period}, it gives "
            f"{found}.",
        )


def _loop(answer: Answer, tokens: list[int]) -> tuple[int, int] | None:
    """The result of ``find_loop``, of which ``None`` is a good one."""
    found = answer.or_none(tokens)
    shaped = isinstance(found, tuple) and len(found) == 2 and all(type(number) is int for number in found)
    need(
        found is None or shaped,
        f"For {tokens} it returned {found!r}: a tuple (start, period) of whole numbers, or None, is wanted.",
    )
    return found
