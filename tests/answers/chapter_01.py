"""Answers to the exercises on chapter 01."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import Any


def ttr_upside_down(tokens: list[int]) -> float:
    return len(tokens) / len(set(tokens))


def ttr_count(tokens: list[int]) -> int:
    return len(set(tokens))


def ttr_once(tokens: list[int]) -> float:
    return sum(number == 1 for number in Counter(tokens).values()) / len(tokens)


def ttr_repeated(tokens: list[int]) -> float:
    return 1 - len(set(tokens)) / len(tokens)


def ttr_neighbours(tokens: list[int]) -> float:
    return (1 + sum(first != second for first, second in pairwise(tokens))) / len(tokens)


def ttr_window(tokens: list[int]) -> float:
    return len(set(tokens[-10:])) / len(tokens[-10:])


def ttr_sorts(tokens: list[int]) -> float:
    tokens.sort()
    return (1 + sum(first != second for first, second in pairwise(tokens))) / len(tokens)


def ttr_by_counting(tokens: list[int]) -> float:
    return len(Counter(tokens)) / len(tokens)


def grams_of(tokens: list[int], n: int) -> list[tuple[int, ...]]:
    return list(zip(*(tokens[shift:] for shift in range(n)), strict=False))


def ngram_different(tokens: list[int], n: int) -> float:
    grams = grams_of(tokens, n)
    return len(set(grams)) / len(grams)


def ngram_first_too(tokens: list[int], n: int) -> float:
    counts = Counter(grams_of(tokens, n))
    return sum(number for number in counts.values() if number > 1) / counts.total()


def ngram_of_tokens(tokens: list[int], n: int) -> float:
    grams = grams_of(tokens, n)
    return (len(grams) - len(set(grams))) / len(tokens)


def ngram_side_by_side(tokens: list[int], n: int) -> float:
    grams = [tuple(tokens[start : start + n]) for start in range(0, len(tokens), n)]
    return 1 - len(set(grams)) / len(grams)


def ngram_of_one(tokens: list[int], n: int) -> float:
    return 1 - len(set(tokens)) / len(tokens)


def ngram_as_sets(tokens: list[int], n: int) -> float:
    grams = [frozenset(gram) for gram in grams_of(tokens, n)]
    return 1 - len(set(grams)) / len(grams)


def ngram_misses_last(tokens: list[int], n: int) -> float:
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n)]
    return 1 - len(set(grams)) / len(grams)


def ngram_by_counting(tokens: list[int], n: int) -> float:
    seen: set[tuple[int, ...]] = set()
    repeated = 0
    for gram in grams_of(tokens, n):
        repeated += gram in seen
        seen.add(gram)
    return repeated / (len(tokens) - n + 1)


def loop_long_round(tokens: list[int]) -> tuple[int, int] | None:
    for period in range(len(tokens) // 2, 0, -1):
        start = len(tokens) - 2 * period
        if tokens[start : start + period] == tokens[start + period :]:
            return start, period
    return None


def loop_late_start(tokens: list[int]) -> tuple[int, int] | None:
    for period in range(1, len(tokens) // 2 + 1):
        start = len(tokens) - 2 * period
        if tokens[start : start + period] == tokens[start + period :]:
            return start, period
    return None


def loop_anywhere(tokens: list[int]) -> tuple[int, int] | None:
    for start in range(len(tokens)):
        for period in range(1, (len(tokens) - start) // 2 + 1):
            if tokens[start : start + period] == tokens[start + period : start + 2 * period]:
                return start, period
    return None


def loop_one_round(tokens: list[int]) -> tuple[int, int] | None:
    for period in range(1, len(tokens)):
        start = len(tokens) - period
        while start > 0 and tokens[start - 1] == tokens[start - 1 + period]:
            start -= 1
        if len(tokens) - start > period:
            return start, period
    return None


def loop_whole_rounds(tokens: list[int]) -> tuple[int, int] | None:
    for period in range(1, len(tokens) // 2 + 1):
        start = len(tokens) - period
        while start >= period and tokens[start - period : start] == tokens[start : start + period]:
            start -= period
        if len(tokens) - start >= 2 * period:
            return start, period
    return None


def loop_minus_one(tokens: list[int]) -> Any:
    return loop_by_comparing(tokens) or -1


def loop_by_comparing(tokens: list[int]) -> tuple[int, int] | None:
    best = None
    for period in range(len(tokens) // 2, 0, -1):
        differences = [i for i in range(len(tokens) - period) if tokens[i] != tokens[i + period]]
        start = differences[-1] + 1 if differences else 0
        if len(tokens) - start >= 2 * period:
            best = start, period
    return best


def ngrams_repeated_once(tokens: list[int], n: int) -> float:
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return sum(grams.count(gram) > 1 for gram in set(grams)) / len(grams)


WRONG = {
    "type_token_ratio": [
        (ttr_upside_down, "upside down"),
        (ttr_count, "that is a count"),
        (ttr_once, "exactly once"),
        (ttr_repeated, "share that is repeated"),
        (ttr_neighbours, "not only with its neighbour"),
        (ttr_window, "Is the whole text counted?"),
        (ttr_sorts, "changed what it was given"),
        (lambda tokens: math.nan, "no finite number"),
    ],
    "ngram_repetition": [
        (ngram_different, "share of different bigrams"),
        (ngram_first_too, "the first time that a bigram occurs"),
        (ngram_of_tokens, "Divide by the number of n-grams"),
        (ngram_side_by_side, "n-grams overlap"),
        (ngram_of_one, "Is n used?"),
        (ngram_as_sets, "are different bigrams"),
        (ngram_misses_last, "the last bigram is left out"),
        (ngrams_repeated_once, "is repeated twice"),
    ],
    "find_loop": [
        (loop_long_round, "the shortest round counts"),
        (loop_late_start, "from an earlier position on"),
        (loop_anywhere, "The end of the text is no loop"),
        (loop_one_round, "at least two whole rounds"),
        (loop_whole_rounds, "break off in the middle"),
        (loop_minus_one, "a tuple (start, period)"),
    ],
}

RIGHT = {
    "type_token_ratio": ttr_by_counting,
    "ngram_repetition": ngram_by_counting,
    "find_loop": loop_by_comparing,
}
