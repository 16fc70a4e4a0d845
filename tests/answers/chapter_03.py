"""Answers to the exercises on chapter 03."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def entropy_bits(logits: Tensor) -> Tensor:
    p = torch.softmax(logits, dim=-1)
    return -(p * p.log2()).sum(-1)


def entropy_negative(logits: Tensor) -> Tensor:
    p = torch.softmax(logits, dim=-1)
    return (p * p.log()).sum(-1)


def entropy_mean(logits: Tensor) -> Tensor:
    p = torch.softmax(logits, dim=-1)
    return -(p * p.log()).mean(-1)


def entropy_of_first_dimension(logits: Tensor) -> Tensor:
    p = torch.softmax(logits, dim=0)
    return -(p * p.log()).sum(-1)


def entropy_overflows(logits: Tensor) -> Tensor:
    p = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return -(p * p.clamp_min(1e-30).log()).sum(-1)


def entropy_log_of_softmax(logits: Tensor) -> Tensor:
    p = torch.softmax(logits, dim=-1)
    return -(p * p.log()).sum(-1)


def entropy_forgets_masked(logits: Tensor) -> Tensor:
    log_p = torch.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(-1)


def entropy_everything(logits: Tensor) -> Tensor:
    log_p = torch.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum()


def entropy_by_torch(logits: Tensor) -> Tensor:
    return torch.special.entr(torch.softmax(logits, dim=-1)).sum(-1)


def mean_entropy(logits: Tensor) -> float:
    return entropy_by_torch(logits.double()).mean().item()


def bisect(measure: Callable[[float], float], target: float, high: float = 1000.0, steps: int = 60) -> float:
    low = 1e-3
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if measure(middle) < target else (low, middle)
    return (low + high) / 2


def match_multiplies(logits: Tensor, target: float) -> float:
    return 1 / bisect(lambda t: mean_entropy(logits / t), target)


def match_wrong_half(logits: Tensor, target: float) -> float:
    return bisect(lambda t: -mean_entropy(logits / t), -target)


def match_few_steps(logits: Tensor, target: float) -> float:
    return bisect(lambda t: mean_entropy(logits / t), target, high=10.0, steps=9)


def match_up_to_one(logits: Tensor, target: float) -> float:
    return bisect(lambda t: mean_entropy(logits / t), target, high=1.0)


def match_mean_distribution(logits: Tensor, target: float) -> float:
    def measure(temperature: float) -> float:
        p = torch.softmax(logits.double() / temperature, dim=-1).mean(0)
        return -(p * p.log()).sum().item()

    return bisect(measure, target)


def match_by_secant(logits: Tensor, target: float) -> float:
    low, high = math.log(0.01), math.log(100.0)
    f_low, f_high = (mean_entropy(logits / math.exp(x)) - target for x in (low, high))
    for _ in range(200):
        middle = low - f_low * (high - low) / (f_high - f_low)
        middle = (middle + (low + high) / 2) / 2
        f_middle = mean_entropy(logits / math.exp(middle)) - target
        if f_middle < 0:
            low, f_low = middle, f_middle
        else:
            high, f_high = middle, f_middle
    return math.exp(middle)


Change = Callable[[Tensor], Tensor]


def order_of_first(change: Change, logits: Tensor) -> bool:
    return torch.equal(logits.argmax(-1), change(logits).argmax(-1))


def order_of_first_position(change: Change, logits: Tensor) -> bool:
    return torch.equal(logits[0].argsort(), change(logits)[0].argsort())


def order_of_all_positions_together(change: Change, logits: Tensor) -> bool:
    return torch.equal(logits.flatten().argsort(), change(logits).flatten().argsort())


def order_by_ratio(change: Change, logits: Tensor) -> bool:
    ratio = change(logits) / logits
    return bool(ratio.min() > 0 and (ratio - ratio[:, :1]).abs().max() < 1e-4)


def order_as_tensor(change: Change, logits: Tensor) -> Tensor:
    return (logits.argsort(-1) == change(logits).argsort(-1)).all(-1)


def order_by_pairs(change: Change, logits: Tensor) -> bool:
    changed = change(logits)
    before = logits.unsqueeze(-1) > logits.unsqueeze(-2)
    after = changed.unsqueeze(-1) > changed.unsqueeze(-2)
    return bool((before == after).all())


WRONG: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "entropy": [
        (entropy_bits, "entropy in bits"),
        (entropy_negative, "not negative"),
        (entropy_mean, "the mean over the tokens"),
        (entropy_of_first_dimension, "over the last dimension"),
        (entropy_overflows, "exp(1000) is infinite"),
        (entropy_log_of_softmax, "has an infinite logarithm"),
        (entropy_forgets_masked, "a token with the logit -inf has p = 0"),
        (entropy_everything, "returned shape ()"),
    ],
    "match_temperature": [
        (match_multiplies, "logits are divided by T"),
        (match_wrong_half, "which half of the interval is kept"),
        (match_few_steps, "Halve the interval more often"),
        (match_up_to_one, "how far does your interval reach"),
        (match_mean_distribution, "The mean of the entropies is wanted"),
    ],
    "keeps_order": [
        (order_of_first, "the order of all tokens is asked for"),
        (order_of_first_position, "Every position counts"),
        (order_of_all_positions_together, "Positions are not compared"),
        (order_by_ratio, "Compare orders, and not values"),
        (order_as_tensor, "True or False is wanted"),
    ],
}

RIGHT: dict[str, Callable[..., Any]] = {
    "entropy": entropy_by_torch,
    "match_temperature": match_by_secant,
    "keeps_order": order_by_pairs,
}
