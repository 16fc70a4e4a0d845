from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hyperfit_course.study.recitation import SPAN, Recited, recited, recited_tokens

SOURCE = [[1, 2, 3, 4, 5, 6], [20, 21, 22, 23, 24, 25, 26, 27]]


@pytest.mark.parametrize(
    ("text", "share", "longest"),
    [
        ([1, 2, 3, 4, 5, 6], 1, 6),
        ([90, 91, 92, 93, 94, 95], 0, 0),
        ([2, 3, 4, 5, 6, 90, 91, 92, 93, 94], 1 / 2, 5),
        ([90, 20, 21, 22, 23, 24, 25, 91], 6 / 8, 6),
        ([1, 2, 3, 4, 90, 20, 21, 22, 23], 0, 4),
        ([1, 2, 3, 4, 5, 90, 20, 21, 22, 23, 24, 90], 10 / 12, 5),
        ([1, 2, 3, 4, 5, 1, 2, 3, 4, 5], 1, 5),
        ([1, 3, 5, 2, 4, 6], 0, 1),
    ],
    ids=["whole", "nothing", "half", "inside", "too short", "two runs", "one run twice", "no run"],
)
def test_tokens_in_long_runs_that_the_source_has_are_recited(text: list[int], share: float, longest: int) -> None:
    assert recited(text, SOURCE) == Recited(pytest.approx(share), longest)


def test_tokens_in_two_overlapping_runs_count_once() -> None:
    source = [[1, 2, 3, 4, 5], [3, 4, 5, 6, 7]]
    assert recited([1, 2, 3, 4, 5, 6, 7, 90], source) == Recited(7 / 8, 5)


def test_each_token_is_known_to_be_recited_or_not() -> None:
    text = [90, 20, 21, 22, 23, 24, 91, 1, 2]
    assert recited_tokens(text, SOURCE) == [False, *[True] * 5, False, False, False]
    assert recited_tokens(torch.tensor(text), torch.tensor(SOURCE[:1]), span=2) == [*[False] * 7, True, True]
    assert recited_tokens([], SOURCE) == []


def test_no_run_goes_over_the_end_of_a_text_of_the_source() -> None:
    assert recited([1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]) == Recited(0, 3)


def test_text_shorter_than_a_run_is_not_recited_and_has_a_longest_run() -> None:
    assert SPAN == 5
    assert recited([1, 2, 3, 4], SOURCE) == Recited(0, 4)


def test_source_shorter_than_a_run_recites_nothing() -> None:
    assert recited([1, 2, 3, 4, 5, 6], [[], [3], [4, 5]]) == Recited(0, 2)
    assert recited([1, 2, 3], []) == Recited(0, 0)


def test_span_decides_what_is_copied_and_not_the_longest_run() -> None:
    text = [1, 2, 90, 3, 4, 5, 90, 90]
    assert [recited(text, SOURCE, span) for span in (1, 2, 3, 4)] == [
        Recited(5 / 8, 3),
        Recited(5 / 8, 3),
        Recited(3 / 8, 3),
        Recited(0, 3),
    ]


def test_tensors_are_read_as_lists_are() -> None:
    text, source = [7, 1, 2, 3, 4, 5, 6, 9], [[0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 6, 0]]
    expected = Recited(6 / 8, 5)
    assert recited(text, source) == expected
    assert recited(torch.tensor(text), torch.tensor(source)) == expected
    assert recited(torch.tensor(text), [torch.tensor(row) for row in source]) == expected


@pytest.mark.parametrize("text", [[], torch.zeros(0, dtype=torch.long)], ids=["list", "tensor"])
def test_text_without_tokens_is_refused(text: list[int] | Tensor) -> None:
    with pytest.raises(ValueError, match="A text without tokens"):
        recited(text, SOURCE)


SYMBOLS = st.integers(0, 2)


@given(
    st.lists(SYMBOLS, min_size=1, max_size=12), st.lists(st.lists(SYMBOLS, max_size=10), max_size=3), st.integers(1, 4)
)
def test_agrees_with_looking_for_every_piece_of_the_text(text: list[int], source: list[list[int]], span: int) -> None:
    rows = ["".join(map(str, row)) for row in source]
    pieces = [(start, end) for start in range(len(text)) for end in range(start + 1, len(text) + 1)]
    found = [(start, end) for start, end in pieces if any("".join(map(str, text[start:end])) in row for row in rows)]
    copied = {index for start, end in found if end - start >= span for index in range(start, end)}
    longest = max((end - start for start, end in found), default=0)
    assert recited(text, source, span) == Recited(pytest.approx(len(copied) / len(text)), longest)
