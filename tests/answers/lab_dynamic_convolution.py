"""Answers to the exercises of the lab on dynamic short convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def conv(x: Tensor, filters: Tensor, shift: Callable[[Tensor, int], Tensor], residual: bool = True) -> Tensor:
    y = x.clone() if residual else torch.zeros_like(x)
    for j in range(filters.shape[1]):
        y += filters[:, j] * shift(x, j)
    return y


def back(x: Tensor, j: int) -> Tensor:
    return functional.pad(x, (0, 0, j, 0))[: len(x)]


def ahead(x: Tensor, j: int) -> Tensor:
    return functional.pad(x, (0, 0, 0, j))[j:]


def made(z: Tensor, p: Tensor, u: Tensor, s: Tensor) -> Tensor:
    return (z @ p @ u).view(len(z), *s.shape) + s


def conv_ahead(x: Tensor, z: Tensor, p: Tensor, u: Tensor, s: Tensor) -> Tensor:
    return conv(x, made(z, p, u, s), ahead)


def conv_rolled(x: Tensor, z: Tensor, p: Tensor, u: Tensor, s: Tensor) -> Tensor:
    return conv(x, made(z, p, u, s), lambda x, j: x.roll(j, 0))


def conv_of_x(x: Tensor, z: Tensor, p: Tensor, u: Tensor, s: Tensor) -> Tensor:
    return conv(x, made(functional.pad(x, (0, 1)), p, u, s), back)


def conv_without_residual(x: Tensor, z: Tensor, p: Tensor, u: Tensor, s: Tensor) -> Tensor:
    return conv(x, made(z, p, u, s), back, residual=False)


def conv_by_channel(x: Tensor, z: Tensor, p: Tensor, u: Tensor, s: Tensor) -> Tensor:
    return conv(x, (z @ p @ u).view(len(z), *s.T.shape).mT + s, back)


def conv_dynamic_only(x: Tensor, z: Tensor, p: Tensor, u: Tensor, s: Tensor) -> Tensor:
    return conv(x, made(z, p, u, torch.zeros_like(s)), back)


def conv_shifted_filters(x: Tensor, z: Tensor, p: Tensor, u: Tensor, s: Tensor) -> Tensor:
    y = x.clone()
    for j, filters in enumerate(made(z, p, u, s).unbind(1)):
        y += back(filters * x, j)
    return y


def conv_by_windows(x: Tensor, z: Tensor, p: Tensor, u: Tensor, s: Tensor) -> Tensor:
    taps = len(s)
    windows = functional.pad(x, (0, 0, taps - 1, 0)).unfold(0, taps, 1).flip(-1)
    return x + torch.einsum("tjd,tdj->td", made(z, p, u, s), windows)


WRONG: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "dynamic_conv": [
        (conv_ahead, "may not look ahead"),
        (conv_rolled, "does not go round"),
        (conv_of_x, "the filters are made from z"),
        (conv_without_residual, "y begins with x itself"),
        (conv_by_channel, "read channel by channel"),
        (conv_dynamic_only, "S is a part of it"),
        (conv_shifted_filters, "uses its own filter"),
    ],
    "conv_share": [
        (lambda width, rank, taps: rank * (1 + taps) / width, "the static part S"),
        (lambda width, rank, taps: taps * (rank + 1) / width, "P is missing"),
        (lambda width, rank, taps: (rank + taps) / width, "a filter for each channel"),
        (lambda width, rank, taps: rank * (1 + taps) + taps, "width times width"),
        (lambda width, rank, taps: 3 * (rank * (1 + taps) + taps) / width, "not one for each of"),
    ],
}

RIGHT: dict[str, Callable[..., Any]] = {
    "dynamic_conv": conv_by_windows,
    "conv_share": lambda width, rank, taps: (width * rank + rank * taps * width + taps * width) / width**2,
}
