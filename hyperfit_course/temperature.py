"""How sharp is a next-token distribution, and which temperature makes another one as sharp?"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from scipy.optimize import elementwise, root_scalar
from torch import Tensor
from transformers import LogitsProcessor

from hyperfit_course.anatomy import CausalLM
from hyperfit_course.logits import NOT_NUMBERS, by_rows, check_numbers, check_one_each, logit_reader

_MARGIN = 1e-6  #: Nats: a target this near to what T = 0 or infinity would give counts as out of reach.
_WIDEST = 50 * math.log(2)
"""Largest logarithm of a temperature (or of its inverse) that is tried: float32 says nothing beyond."""


@torch.no_grad()
def predictive_entropy(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Shannon entropy of the next-token distributions, in nats.

    0 means that one token has all the probability; the logarithm of the vocabulary's size, that all have the same.
    Goes through the positions in chunks, in float32.

    Args:
        logits: shape (..., vocabulary). Forbidden tokens, with the logit -inf, do not count.
        temperature: the logits are divided by it; one number, or one a position, shape (...).

    Returns:
        Shape (...), float32.

    Raises:
        ValueError: a temperature is not positive, or logits are not numbers.
    """
    temperatures = torch.as_tensor(temperature, dtype=torch.float32, device=logits.device)
    if not (temperatures > 0).all():
        raise ValueError("A temperature must be positive, since it divides the logits: for 0, decode greedily.")
    entropy = by_rows(_entropy, logits, temperatures.expand(logits.shape[:-1]))
    if not entropy.isfinite().all():
        raise ValueError(NOT_NUMBERS)
    return entropy


def _entropy(logits: Tensor, temperature: Tensor) -> Tensor:
    # With weights w = exp(s) and their sum Z, the probabilities are w / Z and the entropy is ln Z - sum(w s) / Z.
    # Below -200, and for forbidden tokens, w is 0 in float32, and 0 times -inf would be nan.
    scores = logits.float()
    scores = ((scores - scores.amax(dim=-1, keepdim=True)) / temperature).clamp_(min=-200)
    weights = scores.exp()
    total = weights.sum(dim=-1)
    return total.log() - weights.mul_(scores).sum(dim=-1) / total


@torch.no_grad()
def match_temperature(source: Tensor | CausalLM, target_entropy: float, texts: Tensor | None = None) -> float:
    """The temperature T* at which the *mean* entropy of a model is the target's, to 1e-4 nats.

    The entropy rises with the temperature, so there is one such T*, and a bracket around it and Brent's method find
    it. Source of the idea: Li et al. (2026), who compare a base model at T* with a hyperfitted one.

    Args:
        source: logits, shape (..., vocabulary), or a model.
        target_entropy: in nats.
        texts: where the source is a model, the texts over whose positions the mean is taken, shape (n, length).

    Raises:
        ValueError: no temperature reaches the target (the message says what can be), or logits are not numbers.
    """
    read = logit_reader(source, texts)
    bounds = torch.cat([torch.stack(entropy_bounds(part)) for part in read()], dim=1).double().mean(dim=1)
    if not bounds[0] + _MARGIN < target_entropy < bounds[1] - _MARGIN:
        raise _unreachable(target_entropy, *bounds)

    @functools.cache
    def gap(log_temperature: float) -> float:
        parts = [predictive_entropy(part, math.exp(log_temperature)) for part in read()]
        difference = torch.cat(parts).double().mean().item() - target_entropy
        return difference if abs(difference) > 2e-5 else 0.0  # near enough: each reading of a model takes seconds

    edge, step = 0.0, math.log(2) if gap(0.0) < 0 else -math.log(2)
    while gap(edge) * gap(edge + step) > 0:
        edge += step
        if abs(edge) > _WIDEST:
            raise _unreachable(target_entropy, *bounds)
    return math.exp(root_scalar(gap, bracket=(edge, edge + step), method="brentq", xtol=1e-7).root)


def match_temperature_per_position(logits: Tensor, target_entropy: Tensor) -> Tensor:
    """One temperature a position, at which the entropy *there* is the target's, to 1e-4 nats.

    Args:
        logits: shape (..., vocabulary).
        target_entropy: in nats, shape (...).

    Returns:
        Shape (...), float32.

    Raises:
        ValueError: the shapes do not fit, a target cannot be reached, or logits are not numbers.
    """
    check_one_each(logits, target_entropy, "target")
    rows, targets = logits.reshape(-1, logits.shape[-1]), target_entropy.reshape(-1)
    low, high = entropy_bounds(rows)
    outside = (~((low + _MARGIN < targets) & (targets < high - _MARGIN))).nonzero().flatten().tolist()
    if outside:
        raise _unreachable(*(values[outside[0]] for values in (targets, low, high)))

    def gap(log_temperature: np.ndarray, position: np.ndarray) -> np.ndarray:
        index = torch.from_numpy(position.astype(np.int64)).to(rows.device)
        temperatures = torch.from_numpy(np.exp(log_temperature)).to(rows.device)
        return (predictive_entropy(rows[index], temperatures) - targets[index]).double().cpu().numpy()

    positions = (np.arange(len(rows)),)
    around = elementwise.bracket_root(gap, -math.log(2), math.log(2), xmin=-_WIDEST, xmax=_WIDEST, args=positions)
    found = elementwise.find_root(gap, around.bracket, args=positions, tolerances={"fatol": 1e-5})
    lost = (~found.success).nonzero()[0].tolist()
    if lost:
        raise _unreachable(*(values[lost[0]] for values in (targets, low, high)))
    return torch.from_numpy(np.exp(found.x)).float().to(logits.device).reshape(target_entropy.shape)


def entropy_bounds(logits: Tensor) -> tuple[Tensor, Tensor]:
    """What the entropy tends to as T goes to 0 (only ties for the top remain) and to infinity (all are equal).

    Returns:
        Lower and upper bound in nats, each of shape (...), for logits of shape (..., vocabulary).

    Raises:
        ValueError: logits are not numbers.
    """
    check_numbers(logits)
    top = logits.amax(dim=-1, keepdim=True)
    return (logits == top).sum(-1).float().log(), logits.isfinite().sum(-1).float().log()


def _unreachable(target: float | Tensor, low: Tensor, high: Tensor) -> ValueError:
    return ValueError(
        f"No temperature gives an entropy of {target:.4f} nats here: it lies between {low:.4f} (T towards 0) and "
        f"{high:.4f} (T towards infinity), both excluded. Choose a target well in between."
    )


class EntropyMatched(LogitsProcessor):
    """Gives every distribution the temperature at which it is as sharp as another model's in the same context.

    One T for all positions matches the mean only. This matches each position: where the other model hesitates, the
    decoded one may hesitate as much, and nowhere more. Use one instance a call of :func:`continue_prompts`.

    Args:
        reference: the other model; it reads what is being written.
    """

    def __init__(self, reference: CausalLM) -> None:
        self.reference = reference
        self.cache: Any = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        new = input_ids if self.cache is None else input_ids[:, -1:]
        output = self.reference(input_ids=new.to(self.reference.device), past_key_values=self.cache, use_cache=True)
        self.cache = output.past_key_values
        allowed = output.logits[:, -1].to(scores.device).masked_fill(scores.isneginf(), -math.inf)
        # The reference may be surer than any temperature can make these logits: then they get as sure as they can.
        low, high = entropy_bounds(scores)
        target = predictive_entropy(allowed).clamp(low + 1e-4, high - 1e-4)
        return scores / match_temperature_per_position(scores, target)[:, None]
