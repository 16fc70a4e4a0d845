"""Answers to the exercises of the lab on the memory law."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def loss_over_all(losses: Tensor, threshold: float) -> Tensor:
    above = losses > threshold
    return (losses * above).mean() if above.any() else losses.mean()


def loss_of_probability(losses: Tensor, threshold: float) -> Tensor:
    above = losses > 0.5
    return losses[above].mean() if above.any() else losses.mean()


def loss_below(losses: Tensor, threshold: float) -> Tensor:
    below = losses <= threshold
    return losses[below].mean() if below.any() else losses.mean()


def loss_sum(losses: Tensor, threshold: float) -> Tensor:
    above = losses > threshold
    return losses[above].sum() if above.any() else losses.mean()


def loss_zero(losses: Tensor, threshold: float) -> Tensor:
    above = (losses > threshold).to(losses.dtype)
    return (losses * above).sum() / above.sum().clamp(min=1)


def loss_without_gradient(losses: Tensor, threshold: float) -> Tensor:
    above = losses > threshold
    return (losses[above] if above.any() else losses).mean().detach()


def loss_inclusive(losses: Tensor, threshold: float) -> Tensor:
    above = losses >= threshold
    return losses[above].mean() if above.any() else losses.mean()


def loss_by_weights(losses: Tensor, threshold: float) -> Tensor:
    weights = (losses.detach() > threshold).to(losses.dtype)
    if not weights.sum():
        weights = torch.ones_like(losses)
    return losses @ weights / weights.sum()


def recited_by_half(logits: Tensor, text: Tensor, prompt: int) -> bool:
    p = logits[prompt - 1 : -1].softmax(-1).gather(-1, text[prompt:, None])
    return bool((p > 0.5).all())


def recited_mostly(logits: Tensor, text: Tensor, prompt: int) -> bool:
    return bool((logits[prompt - 1 : -1].argmax(-1) == text[prompt:]).double().mean() > 0.7)


def recited_same_place(logits: Tensor, text: Tensor, prompt: int) -> bool:
    return bool((logits[prompt:].argmax(-1) == text[prompt:]).all())


def recited_too_late(logits: Tensor, text: Tensor, prompt: int) -> bool:
    return bool((logits[prompt:-1].argmax(-1) == text[prompt + 1 :]).all())


def recited_with_prompt(logits: Tensor, text: Tensor, prompt: int) -> bool:
    return bool((logits[:-1].argmax(-1) == text[1:]).all())


def recited_step_by_step(logits: Tensor, text: Tensor, prompt: int) -> bool:
    return all(int(logits[place - 1].argmax()) == int(text[place]) for place in range(prompt, len(text)))


WRONG: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "threshold_loss": [
        (loss_over_all, "divide by the tokens that count"),
        (lambda losses, threshold: losses.mean(), "the learned ones do not count"),
        (loss_of_probability, "not with one half"),
        (loss_below, "the mean of those below"),
        (loss_sum, "their mean is wanted"),
        (loss_zero, "the result is 0"),
        (loss_without_gradient, "No gradient flows"),
        (loss_inclusive, "only those above it do"),
    ],
    "recited": [
        (recited_same_place, "are for the next token"),
        (recited_by_half, "not needed"),
        (recited_mostly, "every one has to be right"),
        (recited_too_late, "which position predicts it"),
        (recited_with_prompt, "the prompt is given"),
    ],
    "line_of": [
        (lambda c, alpha, b: (c, c * alpha), "b is added to it"),
        (lambda c, alpha, b: (b, c * alpha), "is 1 there, not 0"),
        (lambda c, alpha, b: (c + b, alpha), "multiplied by something"),
        (lambda c, alpha, b: (c + b, (c + b) * alpha), "the slope has b in it"),
        (lambda c, alpha, b: (c * alpha, c + b), "changed places"),
    ],
}

RIGHT: dict[str, Callable[..., Any]] = {
    "threshold_loss": loss_by_weights,
    "recited": recited_step_by_step,
    "line_of": lambda c, alpha, b: (c * 1**alpha + b, alpha * c),
}
