"""What is a cloud of states made of? Its mean and what lies around it, more texts, and what the head reads of a change.

States have here the shape (texts, positions, d), or (..., texts, positions, d) for several layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperfit_course.anatomy import TEXTS_AT_ONCE, CausalLM, anatomy, hidden_state, unwrapped
from hyperfit_course.geometry import participation_ratio
from hyperfit_course.stream import stream_states

OUTLIER = 10.0  #: How many times as large as usual a number is that counts as an outlier of the first position.


def all_states(model: CausalLM, texts: Tensor, layers: Sequence[int] | None = None) -> Tensor:
    """The states at every layer (:func:`~hyperfit_course.stream.layer_names`), or at some, after every token.

    Returns:
        Shape (layers, texts, positions, d), float32 on the CPU: for the embedded model 9 MB a text with all layers.
    """
    read = [
        torch.stack(states if layers is None else [states[i] for i in layers]) for states in stream_states(model, texts)
    ]
    return torch.stack(read, dim=1)


@torch.no_grad()
def block_output(model: CausalLM, number: int, states: Tensor) -> Tensor:
    """What one block of a model puts out for given states, such as those of another model.

    Args:
        model: whose block it is; it calls the block once for a text of this length, which gives the block's other
            arguments (positions, mask).
        number: of the block.
        states: its input, shape (texts, positions, d).

    Returns:
        Shape of the states, float32 on the CPU.
    """
    parts, device = anatomy(model), unwrapped(model).device
    block, calls = parts.blocks[number], []
    with block.register_forward_pre_hook(lambda m, *call: calls.append(call), with_kwargs=True):
        parts.body(input_ids=torch.zeros(1, states.shape[1], dtype=torch.long, device=device), use_cache=False)
    ((_, *rest), named) = calls[0]
    outputs = [hidden_state(block(batch.to(device), *rest, **named)) for batch in states.split(TEXTS_AT_ONCE)]
    return torch.cat(outputs).float().cpu()


def second_moments(states: Tensor, centred: bool = True) -> Tensor:
    """Mean of ``(x - m)(x - m)^T`` over all states, shape (..., d, d): m is their mean, or 0 if not ``centred``."""
    points = states.flatten(-3, -2)
    if centred:
        points = points - points.mean(dim=-2, keepdim=True)
    return points.mT @ points / points.shape[-2]


def mean_share(states: Tensor) -> Tensor:
    """Share of the mean in the second moment: ``|m|^2 / mean of |x|^2``, shape (...), in [0, 1].

    The participation ratio around zero never exceeds ``1 / share^2``. Proof: let S be the second moments around zero,
    with trace T. Its norm is at least its size along the mean, ``m^T S m / |m|^2 >= |m|^2``, and ``T^2 / |S|^2`` is the
    ratio.
    """
    points = states.flatten(-3, -2)
    return points.mean(dim=-2).square().sum(dim=-1) / points.square().sum(dim=-1).mean(dim=-1)


def cosines(before: Tensor, after: Tensor, centred: bool = True) -> Tensor:
    """Mean cosine between the states of two models at the same places of the texts, shape (..., texts).

    Centred, each model's mean over all texts and positions is taken off first: two clouds that share a long mean have a
    high cosine without it, whatever their points do.
    """
    if centred:
        before, after = (states - states.mean(dim=(-3, -2), keepdim=True) for states in (before, after))
    return F.cosine_similarity(before, after, dim=-1).mean(dim=-1)


def ratio_over_texts(states: Tensor, numbers: Sequence[int]) -> pd.DataFrame:
    """The participation ratio from so many texts, and what it would be with endless ones.

    Few texts fill few directions. Of n independent draws, 1 / PR exceeds its true value by about 1 / (n - 1). Here the
    draws are texts, whose positions are alike to an unknown degree; so the factor before 1 / (n - 1) is fitted. For
    each number the texts are cut into as many groups as they fill, and 1 / PR is averaged over these.

    Args:
        states: shape (texts, positions, d).
        numbers: of texts, at least two different ones, none larger than ``texts``.

    Returns:
        One row a number, ``texts`` and ``ratio``, and a last one with ``texts`` infinite, from the straight line.

    Raises:
        ValueError: the numbers are not such.
    """
    if len(set(numbers)) < 2 or not 2 <= min(numbers) <= max(numbers) <= len(states):
        raise ValueError(f"Two different numbers of texts are needed, from 2 to {len(states)}: change {list(numbers)}.")
    inverse = [
        np.mean(
            [
                1 / participation_ratio(second_moments(group)).item()
                for group in states.split(number)
                if len(group) == number
            ]
        )
        for number in numbers
    ]
    _, endless = np.polyfit(1 / (np.array(numbers) - 1), inverse, 1)
    return pd.DataFrame({"texts": [*numbers, np.inf], "ratio": 1 / np.array([*inverse, endless])})


def without_outliers(states: Tensor, times: float = OUTLIER) -> Tensor:
    """The states without the massive activations of the first position, which itself stays; shape of the states.

    A number at the first position that is more than ``times`` as large as the root mean square of all numbers at the
    others is replaced by the mean of its dimension over these (Sun et al., 2024, call such numbers massive).
    """
    others = states[..., 1:, :]
    usual = others.square().mean(dim=(-3, -2, -1), keepdim=True).sqrt()
    first = torch.where(
        states[..., :1, :].abs() > times * usual, others.mean(dim=(-3, -2), keepdim=True), states[..., :1, :]
    )
    return torch.cat([first, others], dim=-2)


class Reading(NamedTuple):
    """How strongly the head reads each direction of the stream before the final norm."""

    strengths: Tensor  #: Singular values, the smallest first, shape (d,).
    directions: Tensor  #: Right singular vectors as columns in that order, shape (d, d).

    def share_of_weakest(self, states: Tensor) -> Tensor:
        """Share of the squared length of states, shape (..., d), in the k weakest directions, for k = 1 to d."""
        squares = (states.reshape(-1, states.shape[-1]) @ self.directions).square().sum(dim=0)
        return squares.cumsum(dim=0) / squares.sum()

    def weakest(self, states: Tensor, k: int) -> Tensor:
        """The part of states that lies in the k directions that are read most weakly; shape of the states."""
        chosen = self.directions[:, :k]
        return states @ chosen @ chosen.T


def reading(head: Tensor, norm: Tensor) -> Reading:
    """Which directions the head reads: singular vectors of the unembedding times the final norm's weight.

    The norm divides a state by its length and multiplies it with ``norm``, shape (d,); then ``head``, shape
    (vocabulary, d), gives the logits. What is equal in all logits changes no probability, so the mean over the
    vocabulary is taken off first. Along a direction of (nearly) no strength a state can change without moving the
    logits against each other, but not without changing its length, and with it the scale of all logits (Stolfo et al.,
    2024, on entropy neurons).
    """
    read = (head - head.mean(dim=0)).double() * norm.double()
    squares, directions = torch.linalg.eigh(read.T @ read)
    return Reading(squares.clamp(min=0).sqrt().float(), directions.float())
