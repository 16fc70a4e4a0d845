"""Checks of the exercises of the lab on variable width."""

from __future__ import annotations

import math
from itertools import pairwise

import torch

from hyperfit_course.checks.core import Answer, exercise, need, show

OLD = [float(1000 + place) for place in range(1, 7)]
NEWER, NEWEST = [101.0, 102.0, 103.0, 104.0], [11.0, 12.0, 13.0]


@exercise(
    points=2,
    notice="What was missing is old. Which block of an X reads the oldest coordinates, and who wrote them?",
)
def grow(answer: Answer) -> None:
    """Whether a function cuts or grows a state as the authors do."""

    def grown(width: int, *earlier: list[float]) -> list[float]:
        found = answer.tensor(torch.tensor([1.0, 2.0]), width, [torch.tensor(each) for each in earlier], shape=(width,))
        return [float(each) for each in found]

    def given(width: int, *earlier: list[float]) -> str:
        return f"For the state [1, 2], the earlier states {show(list(earlier))} and the width {width}"

    need(grown(2, NEWEST) == [1, 2], f"{given(2, NEWEST)} nothing is missing, and the result is not the state.")
    need(grown(1, NEWEST) == [1], f"{given(1, NEWEST)} the result is not [1]: a wider state keeps its first ones.")
    found, where = grown(3, NEWEST), given(3, NEWEST)
    need(found != [1, 2, 0], f"{where} it gives {found}: an earlier state has what is missing, so it is not 0.")
    need(found != [1, 2, 11], f"{where} it gives {found}: a third coordinate is the third one of another state.")
    need(found != NEWEST, f"{where} it gives {found}: what the state has itself stays.")
    need(found == [1, 2, 13], f"{where} it gives {found}, which is wrong.")
    found, where = grown(5, NEWEST), given(5, NEWEST)
    need(found == [1, 2, 13, 0, 0], f"{where} it gives {found}: what no state has is 0, and what one has is taken.")
    found, where = grown(4, NEWEST, NEWER, OLD), given(4, NEWEST, NEWER, OLD)
    need(found != [1, 2, 1003, 1004], f"{where} it gives {found}: the newest state that has a coordinate gives it.")
    need(
        found != [1, 2, 103, 104],
        f"{where} it gives {found}: the newest state is too narrow for all, but it has the third coordinate.",
    )
    need(
        found != [1, 2, 13, 0],
        f"{where} it gives {found}: after the newest earlier state, the next one is asked for the rest.",
    )
    need(found == [1, 2, 13, 104], f"{where} it gives {found}, which is wrong.")
    found, where = grown(7, NEWEST, OLD, NEWER), given(7, NEWEST, OLD, NEWER)
    need(
        found == [1, 2, 13, 1004, 1005, 1006, 0],
        f"{where} it gives {found}: a later state of the list has nothing to add, once its coordinates are there.",
    )


@exercise(
    points=3,
    notice="The sum of the squares is that of the uniform model. What is then true of the sum itself, and why?",
)
def x_widths(answer: Answer) -> None:
    """Whether a function finds the widths of an X with the parameters of a uniform model."""
    for layers, width, turn, bottleneck in ((6, 88.0, 4, 0.3), (9, 10.0, 3, 0.5), (4, 1.0, 2, 0.8)):
        given = f"For {layers} layers, width {width:g}, turn {turn} and bottleneck {bottleneck}"
        found = answer(layers, width, turn, bottleneck)
        need(
            isinstance(found, list) and all(isinstance(each, float) and math.isfinite(each) for each in found),
            f"{given} it returned {show(found)}: a list of Python floats is wanted.",
        )
        need(len(found) == layers, f"{given} it gives {len(found)} widths, and there are {layers} blocks.")
        shown = "[" + ", ".join(f"{each:.4g}" for each in found) + "]"
        need(min(found) > 0, f"{given} it gives {shown}: a width is above 0.")
        lowest = found.index(min(found)) + 1
        need(
            lowest == turn,
            f"{given} the narrowest block of {shown} is number {lowest}: blocks are counted from 1.",
        )
        need(
            math.isclose(found[0], found[-1], rel_tol=1e-4),
            f"{given} it gives {shown}: the last block is as wide as the first.",
        )
        factors = [after / before for before, after in pairwise(found)]
        for side in (factors[: turn - 1], factors[turn - 1 :]):
            need(
                all(math.isclose(each, side[0], rel_tol=1e-4) for each in side),
                f"{given} it gives {shown}: on each side of the turn, all widths change by one factor.",
            )
        need(
            not math.isclose(found[0], width, rel_tol=1e-4),
            f"{given} the first block is {found[0]:.4g} wide: with ends as wide as the reference, the whole has fewer "
            "parameters.",
        )
        need(
            not math.isclose(sum(found), layers * width, rel_tol=1e-4),
            f"{given} it gives {shown}, with the mean {width:g}: that is an equal cache, and equal parameters are "
            "wanted. How do they grow with the width?",
        )
        need(
            math.isclose(sum(each**2 for each in found), layers * width**2, rel_tol=1e-4),
            f"{given} it gives {shown}: their squares do not add up to those of {layers} blocks of width {width:g}.",
        )
        need(
            math.isclose(min(found), bottleneck * width, rel_tol=1e-4),
            f"{given} the narrowest block is {min(found):.4g} wide: it has {bottleneck} of the *reference* width.",
        )


@exercise(points=1, notice="Two models have equal parameters. At which context does attention make half of the cost?")
def costs(answer: Answer) -> None:
    """Whether a function counts operations and cache of a token."""
    for widths, embedding, vocabulary, context in (([88, 88], 88, 300, 128), ([30, 10, 20], 25, 7, 1000)):
        given = f"For widths {widths}, embedding {embedding}, vocabulary {vocabulary} and context {context}"
        flops, cache = answer.pair(widths, embedding, vocabulary, context, wanted="(flops, cache)", given=given)
        blocks, total = 16 * sum(each**2 for each in widths), sum(widths)
        head, mixing = embedding * vocabulary, 2 * context * total
        right = 2 * (blocks + head + mixing)
        faults = {
            right + 2 * head: "the embedding is looked up, and nothing is multiplied there",
            right - 2 * head: "the head is missing",
            right - 2 * mixing: "the products of attention with keys and values are missing",
            right - mixing: "attention multiplies twice for each earlier token: with its key, and with its value",
            right // 2: "a product and a sum are two operations",
            2 * (4 * blocks // 16 + head + mixing): "the MLP is missing",
            2 * (12 * blocks // 16 + head + mixing): "an MLP has three matrices, and attention has four",
            right * context: "that is a whole context, and one token is wanted",
        }
        for value, message in faults.items():
            need(flops != value, f"{given} it gives {flops:g} operations: {message}.")
        need(flops == right, f"{given} it gives {flops:g} operations, which is wrong.")
        need(cache != total, f"{given} it gives a cache of {cache:g}: keys and values are kept, which makes two.")
        need(cache != 2 * total * context, f"{given} it gives a cache of {cache:g}: that is the whole context.")
        need(cache == 2 * total, f"{given} it gives a cache of {cache:g}, which is wrong.")
