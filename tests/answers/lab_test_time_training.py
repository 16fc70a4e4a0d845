"""Answers to the exercises of the lab on test-time training."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import torch
from torch import Tensor


def slope(weights: Tensor, losses: Tensor, graph: bool = True) -> Tensor:
    return torch.autograd.grad(losses.sum(), weights, create_graph=graph, retain_graph=True)[0]


def clip(gradient: Tensor, axes: tuple[int, ...] = (1, 2)) -> Tensor:
    return gradient / gradient.square().sum(axes, keepdim=True).sqrt().clamp(min=1)


def step_first_order(weights: Tensor, losses: Tensor, rate: float) -> Tensor:
    return weights - rate * clip(slope(weights, losses, graph=False))


def step_detached(weights: Tensor, losses: Tensor, rate: float) -> Tensor:
    return (weights - rate * clip(slope(weights, losses))).detach()


def step_in_place(weights: Tensor, losses: Tensor, rate: float) -> Tensor:
    gradient = clip(slope(weights, losses))
    weights.data -= rate * gradient.detach()
    return weights


def step_one_length(weights: Tensor, losses: Tensor, rate: float) -> Tensor:
    return weights - rate * clip(slope(weights, losses), (0, 1, 2))


def step_mean(weights: Tensor, losses: Tensor, rate: float) -> Tensor:
    return weights - rate * clip(slope(weights, losses.mean()))


def step_unclipped(weights: Tensor, losses: Tensor, rate: float) -> Tensor:
    return weights - rate * slope(weights, losses)


def step_normalised(weights: Tensor, losses: Tensor, rate: float) -> Tensor:
    gradient = slope(weights, losses)
    return weights - rate * gradient / gradient.square().sum((1, 2), keepdim=True).sqrt()


def step_uphill(weights: Tensor, losses: Tensor, rate: float) -> Tensor:
    return weights + rate * clip(slope(weights, losses))


def step_by_documents(weights: Tensor, losses: Tensor, rate: float) -> Tensor:
    moved = []
    for number, loss in enumerate(losses):
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=True, retain_graph=True)
        length = torch.linalg.vector_norm(gradient[number])
        moved.append(weights[number] - rate * gradient[number] / torch.where(length > 1, length, 1.0))
    return torch.stack(moved)


Reading = Callable[[Any, Any], Any]


def read_after_step(weights: Any, chunks: list[Any], loss: Reading, step: Reading) -> list[Any]:
    losses = []
    for chunk in chunks:
        weights = step(weights, chunk)
        losses.append(loss(weights, chunk))
    return losses


def read_without_memory(weights: Any, chunks: list[Any], loss: Reading, step: Reading) -> list[Any]:
    losses = []
    for chunk in chunks:
        losses.append(loss(weights, chunk))
        step(weights, chunk)
    return losses


def read_a_step_too_many(weights: Any, chunks: list[Any], loss: Reading, step: Reading) -> list[Any]:
    losses = []
    for chunk in chunks:
        losses.append(loss(weights, chunk))
        weights = step(weights, chunk)
    return losses


def read_mean(weights: Any, chunks: list[Any], loss: Reading, step: Reading) -> Any:
    losses = read_a_step_too_many(weights, chunks, loss, step)
    return sum(losses) / len(losses)


def read_recursively(weights: Any, chunks: list[Any], loss: Reading, step: Reading) -> list[Any]:
    first, *rest = chunks
    now = [loss(weights, first)]
    return now + read_recursively(step(weights, first), rest, loss, step) if rest else now


def entropy(*parts: tuple[int, float]) -> float:
    return -sum(count * p * log(p) for count, p in parts if p > 0)


def floor_without_image(symbols: int, keep: float) -> float:
    return entropy((1, keep), (symbols - 1, (1 - keep) / (symbols - 1)))


def floor_right(symbols: int, keep: float) -> float:
    probabilities = [(1 - keep) / symbols] * symbols
    probabilities[0] += keep
    return entropy(*((1, p) for p in probabilities))


WRONG: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "inner_step": [
        (step_first_order, "keep its graph"),
        (step_detached, "without detach()"),
        (step_in_place, "changed the weights that it was given"),
        (step_one_length, "clip each by its own length"),
        (step_mean, "take the sum over documents"),
        (step_unclipped, "clip its length to 1"),
        (step_normalised, "leaves others alone"),
        (step_uphill, "goes uphill"),
    ],
    "read_document": [
        (read_after_step, "before the step that learns it"),
        (read_without_memory, "that the earlier ones have made"),
        (read_a_step_too_many, "none is needed after the last chunk"),
        (read_mean, "one loss a chunk"),
    ],
    "floor": [
        (floor_without_image, "may draw the image too"),
        (lambda symbols, keep: floor_right(symbols, keep) / log(2), "in bits"),
        (lambda symbols, keep: -log(keep + (1 - keep) / symbols), "cost more"),
        (lambda symbols, keep: (1 - keep) * log(symbols), "not known in advance"),
    ],
}

RIGHT: dict[str, Callable[..., Any]] = {
    "inner_step": step_by_documents,
    "read_document": read_recursively,
    "floor": floor_right,
}
