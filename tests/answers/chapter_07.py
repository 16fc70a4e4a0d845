"""Answers to the exercises on chapter 07."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Rows = list[list[int]]


def runs(source: Rows, n: int) -> set[tuple[int, ...]]:
    return {tuple(row[start : start + n]) for row in source for start in range(len(row) - n + 1)}


def starts(text: list[int], source: Rows, n: int) -> list[int]:
    known = runs(source, n)
    return [start for start in range(len(text) - n + 1) if tuple(text[start : start + n]) in known]


def covered(text: list[int], found: list[int], n: int) -> list[bool]:
    return [any(start <= place < start + n for start in found) for place in range(len(text))]


def copied_by_tokens(text: list[int], source: Rows, n: int) -> list[bool]:
    return covered(text, starts(text, source, n), n)


def copied_starts(text: list[int], source: Rows, n: int) -> list[bool]:
    found = starts(text, source, n)
    return [place in found for place in range(len(text))]


def copied_one_by_one(text: list[int], source: Rows, n: int) -> list[bool]:
    known = {token for row in source for token in row}
    return [token in known for token in text]


def copied_over_ends(text: list[int], source: Rows, n: int) -> list[bool]:
    return copied_by_tokens(text, [[token for row in source for token in row]], n)


def copied_once(text: list[int], source: Rows, n: int) -> list[bool]:
    found = starts(text, source, n)
    first = [start for start in found if text[start : start + n] not in [text[e : e + n] for e in found if e < start]]
    return covered(text, first, n)


def copied_apart(text: list[int], source: Rows, n: int) -> list[bool]:
    marks, place = [False] * len(text), 0
    found = starts(text, source, n)
    while place < len(text):
        if place in found:
            marks[place : place + n] = [True] * n
            place += n
        else:
            place += 1
    return marks


def copied_as_numbers(text: list[int], source: Rows, n: int) -> list[int]:
    return [int(each) for each in copied_by_tokens(text, source, n)]


def copied_short_of_the_end(text: list[int], source: Rows, n: int) -> list[bool]:
    return copied_by_tokens(text, source, n)[: len(text) - n + 1]


def longest_by_lengths(text: list[int], source: Rows) -> int:
    longest = 0
    while longest < len(text) and starts(text, source, longest + 1):
        longest += 1
    return longest


def longest_subsequence(text: list[int], source: Rows) -> int:
    best = 0
    for row in source:
        table = [[0] * (len(row) + 1) for _ in range(len(text) + 1)]
        for i, token in enumerate(text):
            for j, other in enumerate(row):
                table[i + 1][j + 1] = table[i][j] + 1 if token == other else max(table[i][j + 1], table[i + 1][j])
        best = max(best, table[-1][-1])
    return best


def longest_of_set(text: list[int], source: Rows) -> int:
    return max((len(set(text) & set(row)) for row in source), default=0) if len(text) < 5 else 0


def longest_over_ends(text: list[int], source: Rows) -> int:
    return longest_by_lengths(text, [[token for row in source for token in row]])


def longest_from_the_start(text: list[int], source: Rows) -> int:
    best = 0
    for row in source:
        for start in range(len(row)):
            length = 0
            while length < min(len(text), len(row) - start) and text[length] == row[start + length]:
                length += 1
            best = max(best, length)
    return best


def longest_first_run(text: list[int], source: Rows) -> int:
    best = 0
    for row in source:
        for start, token in enumerate(text):
            if token in row:
                place, length = row.index(token), 0
                while text[start + length : start + length + 1] == row[place + length : place + length + 1] != []:
                    length += 1
                best = max(best, length)
                break
    return best


def longest_up_to_five(text: list[int], source: Rows) -> int:
    return min(5, longest_by_lengths(text, source))


def followers(cited: list[int], source: Rows, n: int) -> list[int]:
    return [row[start + n] for row in source for start in range(len(row) - n) if row[start : start + n] == cited]


def forbid(logits: Tensor, tokens: list[int], value: float = -torch.inf) -> Tensor:
    allowed = logits.clone()
    allowed[tokens] = value
    return allowed


def block_by_followers(written: list[int], logits: Tensor, source: Rows, n: int) -> Tensor:
    return forbid(logits, followers(written[len(written) - n :], source, n)) if len(written) >= n else logits


def block_in_place(written: list[int], logits: Tensor, source: Rows, n: int) -> Tensor:
    logits[followers(written[-n:], source, n)] = -torch.inf
    return logits


def block_with_zero(written: list[int], logits: Tensor, source: Rows, n: int) -> Tensor:
    return forbid(logits, followers(written[-n:], source, n), 0.0)


def block_first_only(written: list[int], logits: Tensor, source: Rows, n: int) -> Tensor:
    return forbid(logits, followers(written[-n:], source, n)[:1])


def block_anywhere(written: list[int], logits: Tensor, source: Rows, n: int) -> Tensor:
    places = range(len(written) - n + 1)
    return forbid(logits, [token for place in places for token in followers(written[place : place + n], source, n)])


def block_short(written: list[int], logits: Tensor, source: Rows, n: int) -> Tensor:
    cited = written[-n:]
    return forbid(logits, followers(cited, source, len(cited)) if cited else [])


def block_over_ends(written: list[int], logits: Tensor, source: Rows, n: int) -> Tensor:
    return forbid(logits, followers(written[-n:], [[token for row in source for token in row]], n))


def block_past_the_end(written: list[int], logits: Tensor, source: Rows, n: int) -> Tensor:
    places = [(row, start) for row in source for start in range(len(row) - n + 1)]
    return forbid(logits, [row[start + n] for row, start in places if row[start : start + n] == written[-n:]])


def block_two(written: list[int], logits: Tensor, source: Rows, n: int) -> Tensor:
    return forbid(logits, followers(written[-2:], source, 2)) if len(written) >= 2 else logits.clone()


def style_by_loop(shares: Tensor) -> Tensor:
    values = []
    for model, row in enumerate(shares):
        foreign = torch.cat([row[:model], row[model + 1 :]])
        values.append(row[model] - foreign.mean())
    return torch.stack(values)


def style_with_own(shares: Tensor) -> Tensor:
    return shares.diagonal() - shares.mean(dim=1)


def style_of_columns(shares: Tensor) -> Tensor:
    return style_by_loop(shares.T)


def style_negative(shares: Tensor) -> Tensor:
    return -style_by_loop(shares)


def style_sum(shares: Tensor) -> Tensor:
    return 2 * shares.diagonal() - shares.sum(dim=1)


def style_divided_by_all(shares: Tensor) -> Tensor:
    return shares.diagonal() - (shares.sum(dim=1) - shares.diagonal()) / len(shares)


def style_one_number(shares: Tensor) -> Tensor:
    return style_by_loop(shares).mean()


WRONG: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "copied_tokens": [
        (copied_starts, "only the first token of a run"),
        (copied_one_by_one, "occur in the source one by one"),
        (copied_over_ends, "over the end of a row"),
        (copied_once, "stands twice in the text"),
        (copied_apart, "may share a token"),
        (copied_as_numbers, "a list of True and False is wanted"),
        (copied_short_of_the_end, "needs as many answers"),
    ],
    "longest_copied": [
        (longest_subsequence, "may not stand in between"),
        (longest_of_set, "the order counts"),
        (longest_over_ends, "no run goes over the end"),
        (longest_from_the_start, "may begin anywhere in both"),
        (longest_first_run, "a longer one may come"),
        (longest_up_to_five, "the whole text is copied"),
    ],
    "block_citations": [
        (block_in_place, "changed what it was given"),
        (block_with_zero, "may still choose it"),
        (block_first_only, "two rows go on"),
        (block_anywhere, "only the *last* n written tokens"),
        (block_short, "fewer than n tokens cite nothing"),
        (block_over_ends, "not even the next row"),
        (block_past_the_end, "IndexError"),
        (block_two, "depend on n"),
    ],
    "beyond_style": [
        (style_with_own, "into the mean of the others"),
        (style_of_columns, "the mean of a column"),
        (style_negative, "foreign minus own"),
        (style_sum, "not their mean"),
        (style_divided_by_all, "one less of them"),
        (style_one_number, "returned shape ()"),
    ],
}

RIGHT: dict[str, Callable[..., Any]] = {
    "copied_tokens": copied_by_tokens,
    "longest_copied": longest_by_lengths,
    "block_citations": block_by_followers,
    "beyond_style": style_by_loop,
}
