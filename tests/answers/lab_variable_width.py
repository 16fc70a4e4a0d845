"""Answers to the exercises of the lab on variable width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor
from torch.nn import functional


def padded(state: Tensor, width: int) -> Tensor:
    return functional.pad(state[:width], (0, max(0, width - len(state))))


def grow_zeros(state: Tensor, width: int, earlier: list[Tensor]) -> Tensor:
    return padded(state, width)


def grow_newest_only(state: Tensor, width: int, earlier: list[Tensor]) -> Tensor:
    both = torch.cat([state, *(each[len(state) :] for each in earlier[:1])])
    return padded(both, width)


def grow_wide_enough(state: Tensor, width: int, earlier: list[Tensor]) -> Tensor:
    wide = [each for each in earlier if len(each) >= width] or earlier
    return padded(torch.cat([state, wide[0][len(state) :]]), width)


def grow_oldest(state: Tensor, width: int, earlier: list[Tensor]) -> Tensor:
    return grow_right(state, width, earlier[::-1])


def grow_front(state: Tensor, width: int, earlier: list[Tensor]) -> Tensor:
    return padded(torch.cat([state, *earlier]), width)


def grow_replaced(state: Tensor, width: int, earlier: list[Tensor]) -> Tensor:
    return padded(state, width) if width <= len(state) else padded(earlier[0], width)


def grow_never_cut(state: Tensor, width: int, earlier: list[Tensor]) -> Tensor:
    return state[-width:] if width < len(state) else grow_right(state, width, earlier)


def grow_right(state: Tensor, width: int, earlier: list[Tensor]) -> Tensor:
    result = torch.zeros(width)
    for each in (*reversed(earlier), state):  # the newest overwrites
        result[: len(each)] = each[:width]
    return result


def profile(layers: int, turn: int, share: float) -> list[float]:
    down = [share ** (number / (turn - 1)) for number in range(turn)]
    up = [share ** (1 - number / (layers - turn)) for number in range(1, layers - turn + 1)]
    return down + up


def scaled(shape: list[float], width: float, power: int) -> list[float]:
    size = width * (len(shape) / sum(each**power for each in shape)) ** (1 / power)
    return [size * each for each in shape]


def solved(layers: int, width: float, turn: int, bottleneck: float, power: int = 2) -> list[float]:
    def least(share: float) -> float:
        return min(scaled(profile(layers, turn, share), width, power)) - bottleneck * width

    return scaled(profile(layers, turn, float(brentq(least, 1e-9, 1, xtol=1e-14))), width, power)


def widths_first_fixed(layers: int, width: float, turn: int, bottleneck: float) -> list[float]:
    return [width * each for each in profile(layers, turn, bottleneck)]


def widths_equal_sum(layers: int, width: float, turn: int, bottleneck: float) -> list[float]:
    return solved(layers, width, turn, bottleneck, power=1)


def widths_turn_from_zero(layers: int, width: float, turn: int, bottleneck: float) -> list[float]:
    return solved(layers, width, turn + 1, bottleneck) if turn + 1 < layers else solved(layers, width, 2, bottleneck)


def widths_share_of_first(layers: int, width: float, turn: int, bottleneck: float) -> list[float]:
    return scaled(profile(layers, turn, bottleneck), width, 2)


def widths_linear(layers: int, width: float, turn: int, bottleneck: float) -> list[float]:
    down = [1 - (1 - bottleneck) * number / (turn - 1) for number in range(turn)]
    up = [bottleneck + (1 - bottleneck) * number / (layers - turn) for number in range(1, layers - turn + 1)]
    return scaled(down + up, width, 2)


def widths_one_factor(layers: int, width: float, turn: int, bottleneck: float) -> list[float]:
    factor = bottleneck ** (1 / (turn - 1))
    shape = [factor ** abs(number - turn) / factor**turn for number in range(1, layers + 1)]
    return scaled([1 / each for each in shape], width, 2)


def widths_rounded(layers: int, width: float, turn: int, bottleneck: float) -> list[int]:
    return [round(each) for each in solved(layers, width, turn, bottleneck)]


def counted(widths: list[int], head: int, mixing: int, factor: int = 2, matrices: int = 16) -> int:
    return factor * (matrices * sum(each**2 for each in widths) + head + mixing)


Costs = Callable[[list[int], int, int, int], tuple[int, int]]


def costs_with(head: int = 1, mixing: int = 2, factor: int = 2, matrices: int = 16, kept: int = 2) -> Costs:
    def costs(widths: list[int], embedding: int, vocabulary: int, context: int) -> tuple[int, int]:
        flops = counted(widths, head * embedding * vocabulary, mixing * context * sum(widths), factor, matrices)
        return flops, kept * sum(widths)

    return costs


def costs_of_context(widths: list[int], embedding: int, vocabulary: int, context: int) -> tuple[int, int]:
    flops, cache = costs_with()(widths, embedding, vocabulary, context)
    return context * flops, cache


def cache_of_context(widths: list[int], embedding: int, vocabulary: int, context: int) -> tuple[int, int]:
    flops, cache = costs_with()(widths, embedding, vocabulary, context)
    return flops, context * cache


def costs_by_block(widths: list[int], embedding: int, vocabulary: int, context: int) -> tuple[int, int]:
    flops, cache = 2 * embedding * vocabulary, 0
    for width in widths:
        flops += 2 * width * (4 * width + 3 * 4 * width) + 2 * context * (width + width)
        cache += width + width
    return flops, cache


WRONG: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "grow": [
        (grow_zeros, "so it is not 0"),
        (grow_newest_only, "the next one is asked for the rest"),
        (grow_wide_enough, "too narrow for all"),
        (grow_oldest, "the newest state that has a coordinate"),
        (grow_front, "third coordinate is the third one"),
        (grow_replaced, "what the state has itself stays"),
        (grow_never_cut, "keeps its first ones"),
    ],
    "x_widths": [
        (widths_first_fixed, "has fewer parameters"),
        (widths_equal_sum, "equal cache"),
        (widths_turn_from_zero, "counted from 1"),
        (widths_share_of_first, "of the *reference* width"),
        (widths_linear, "change by one factor"),
        (widths_one_factor, "as wide as the first"),
        (widths_rounded, "a list of Python floats"),
    ],
    "costs": [
        (costs_with(head=2), "is looked up"),
        (costs_with(head=0), "the head is missing"),
        (costs_with(mixing=0), "with keys and values are missing"),
        (costs_with(mixing=1), "twice for each earlier token"),
        (costs_with(factor=1), "are two operations"),
        (costs_with(matrices=12), "attention has four"),
        (costs_with(matrices=4), "the MLP is missing"),
        (costs_of_context, "one token is wanted"),
        (costs_with(kept=1), "which makes two"),
        (cache_of_context, "that is the whole context"),
    ],
}

RIGHT: dict[str, Callable[..., Any]] = {
    "grow": grow_right,
    "x_widths": solved,
    "costs": costs_by_block,
}
