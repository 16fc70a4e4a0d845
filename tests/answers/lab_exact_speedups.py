"""Answers to the exercises of the lab on exact speed-ups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor, Tensor, Tensor]


def without_weight(x: Tensor, dy: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Gradients:
    inner = scale * (dy @ b)
    return inner @ a, inner.T @ x, scale * dy.T @ (x @ a.T)


def without_adapter(x: Tensor, dy: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Gradients:
    return dy @ weight, scale * (dy @ b).T @ x, scale * dy.T @ (x @ a.T)


def unscaled_input(x: Tensor, dy: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Gradients:
    return dy @ weight + dy @ b @ a, scale * (dy @ b).T @ x, scale * dy.T @ (x @ a.T)


def all_scaled(x: Tensor, dy: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Gradients:
    return scale * (dy @ weight + dy @ b @ a), scale * (dy @ b).T @ x, scale * dy.T @ (x @ a.T)


def scaled_once(x: Tensor, dy: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Gradients:
    inner = scale * (dy @ b)
    return dy @ weight + inner @ a, inner.T @ x, dy.T @ (x @ a.T)


def scaled_twice(x: Tensor, dy: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Gradients:
    inner = scale * (dy @ b)
    return dy @ weight + inner @ a, scale * inner.T @ x, scale * dy.T @ (x @ a.T)


def transposed(x: Tensor, dy: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Gradients:
    inner = scale * (dy @ b)
    return dy @ weight + inner @ a, x.T @ inner, scale * dy.T @ (x @ a.T)


def through_the_whole_gradient(x: Tensor, dy: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Gradients:
    whole = dy.T @ x
    return dy @ weight + scale * (dy @ b) @ a, scale * b.T @ whole, scale * whole @ a.T


def by_small_gradients(x: Tensor, dy: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Gradients:
    z = torch.einsum("tm,rm->tr", x, a)
    dz = torch.einsum("tn,nr->tr", dy, scale * b)
    dx = torch.einsum("tn,nm->tm", dy, weight) + torch.einsum("tr,rm->tm", dz, a)
    return dx, torch.einsum("tr,tm->rm", dz, x), torch.einsum("tn,tr->nr", dy, scale * z)


def count_weight_gradients(depth: int, trained: int, block: int, adapter: int, head: int, cached: bool) -> int:
    return 3 * ((trained if cached else depth) * block + trained * adapter + head)


def count_without_adapters(depth: int, trained: int, block: int, adapter: int, head: int, cached: bool) -> int:
    return (trained if cached else depth) * block + trained * block + 2 * head


def count_adapters_forward(depth: int, trained: int, block: int, adapter: int, head: int, cached: bool) -> int:
    return (trained if cached else depth) * block + trained * block + trained * adapter + 2 * head


def count_adapters_twice(depth: int, trained: int, block: int, adapter: int, head: int, cached: bool) -> int:
    return (trained if cached else depth) * block + trained * block + 2 * trained * adapter + 2 * head


def count_all_backward(depth: int, trained: int, block: int, adapter: int, head: int, cached: bool) -> int:
    return 2 * (trained if cached else depth) * block + 3 * trained * adapter + 2 * head


def count_head_once(depth: int, trained: int, block: int, adapter: int, head: int, cached: bool) -> int:
    return (trained if cached else depth) * block + trained * block + 3 * trained * adapter + head


def count_without_store(depth: int, trained: int, block: int, adapter: int, head: int, cached: bool) -> int:
    return (depth + trained) * block + 3 * trained * adapter + 2 * head


def count_by_parts(depth: int, trained: int, block: int, adapter: int, head: int, cached: bool) -> int:
    learns = trained * (2 * block + 3 * adapter)
    frozen = 0 if cached else (depth - trained) * block
    return learns + frozen + head + head


WRONG: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "lora_backward": [
        (without_weight, "hands its gradient on"),
        (without_adapter, "enters the adapter as well"),
        (unscaled_input, "right for a scale of 1"),
        (all_scaled, "frozen part is scaled"),
        (scaled_once, "db lacks the factor"),
        (scaled_twice, "factor of y twice"),
        (transposed, "da has the shape"),
        (through_the_whole_gradient, "there is a second large product"),
    ],
    "products_per_token": [
        (count_weight_gradients, "does not learn needs none"),
        (count_without_adapters, "leaves the adapters out"),
        (count_adapters_forward, "forward only"),
        (count_adapters_twice, "two products for the adapters"),
        (count_all_backward, "nothing learns"),
        (count_head_once, "counts the head once"),
        (count_without_store, "do not run any more"),
    ],
    "times_cheaper": [
        (lambda whole, stored, epochs: whole / stored, "came for nothing"),
        (lambda whole, stored, epochs: epochs * whole / (whole + epochs * stored), "a whole epoch"),
        (
            lambda whole, stored, epochs: (whole - stored + epochs * stored) / (epochs * whole),
            "as a share of the cost without",
        ),
    ],
}

RIGHT: dict[str, Callable[..., Any]] = {
    "lora_backward": by_small_gradients,
    "products_per_token": count_by_parts,
    "times_cheaper": lambda whole, stored, epochs: whole / (stored + (whole - stored) / epochs),
}
