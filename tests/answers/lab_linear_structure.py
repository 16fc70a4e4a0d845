"""Answers to the exercises of the lab on local linear structure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity


def captured_right(updates: Tensor, displacement: Tensor) -> float:
    factors = torch.linalg.lstsq(updates.T.double(), displacement[:, None].double(), driver="gelsd").solution
    part = updates.T.double() @ factors
    return float(part.square().sum() / displacement.double().square().sum())


def captured_sum(updates: Tensor, displacement: Tensor) -> float:
    return float(cosine_similarity(updates.sum(0), displacement, dim=0) ** 2)


def captured_cosines(updates: Tensor, displacement: Tensor) -> float:
    return float(cosine_similarity(updates, displacement, dim=-1).square().sum())


def captured_length(updates: Tensor, displacement: Tensor) -> float:
    return captured_right(updates, displacement) ** 0.5


def captured_products(updates: Tensor, displacement: Tensor) -> float:
    return float((updates @ displacement).square().sum() / displacement.square().sum())


def captured_qr(updates: Tensor, displacement: Tensor) -> float:
    basis = torch.linalg.qr(updates.T)[0]
    return float((basis.T @ displacement).square().sum() / displacement.square().sum())


def captured_sizes(updates: Tensor, displacement: Tensor) -> float:
    return float(updates.sum(0).square().sum() / displacement.square().sum())


def to_come_whole(updates: Tensor, k: int) -> float:
    return captured_right(updates[:k], updates.sum(0))


def to_come_early(updates: Tensor, k: int) -> float:
    return captured_right(updates[:k], updates[k - 1 :].sum(0))


def to_come_late(updates: Tensor, k: int) -> float:
    return captured_right(updates[:k], updates[k + 1 :].sum(0))


def to_come_reversed(updates: Tensor, k: int) -> float:
    return captured_right(updates[k:], updates[:k].sum(0))


def to_come_right(updates: Tensor, k: int) -> float:
    way, basis = updates[k:].sum(0), torch.linalg.qr(updates[:k].T)[0]
    return float((basis.T @ way).square().sum() / way.square().sum())


def cosines_of_mean(shifts: Tensor, vector: Tensor, signs: Tensor) -> Tensor:
    return signs @ cosine_similarity(shifts, vector, dim=-1) / len(shifts)


def cosines_by_hand(shifts: Tensor, vector: Tensor, signs: Tensor) -> Tensor:
    mixed = [(row[:, None] * shifts).mean(0) for row in signs]
    return torch.stack([each @ vector / (each.norm() * vector.norm()) for each in mixed])


WRONG: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "captured": [
        (captured_sum, "they span a plane"),
        (captured_cosines, "counted twice"),
        (captured_length, "that of their squares is wanted"),
        (captured_products, "only directions count"),
        (captured_qr, "a line and not a plane"),
        (captured_sizes, "project the way first"),
    ],
    "still_to_come": [
        (to_come_whole, "a part of that themselves"),
        (to_come_early, "one update too early"),
        (to_come_late, "one update too late"),
        (to_come_reversed, "the other way round"),
    ],
    "shuffled_cosines": [
        (cosines_of_mean, "the mean of the cosines"),
        (lambda shifts, vector, signs: cosines_by_hand(shifts, vector, signs).abs(), "the signs of the cosines"),
        (lambda shifts, vector, signs: signs @ shifts @ vector, "an inner product"),
        (
            lambda shifts, vector, signs: cosines_by_hand(shifts, vector, signs) * vector.norm(),
            "not by that of the vector",
        ),
        (
            lambda shifts, vector, signs: cosines_by_hand(shifts, vector, torch.ones_like(signs)),
            "the signs were not used",
        ),
    ],
}

RIGHT: dict[str, Callable[..., Any]] = {
    "captured": captured_right,
    "still_to_come": to_come_right,
    "shuffled_cosines": cosines_by_hand,
}
