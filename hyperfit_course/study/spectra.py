"""Which map gives a cloud of states another shape? The spectrum of another model's cloud, or a random one as strong.

The maps are for :func:`~hyperfit_course.study.interventions.mapped_output`. States have here the shape (n, d). Leave
out the first position of each text: its state is often so large that it would be the whole spectrum.
"""

from __future__ import annotations

import math

import torch
from scipy.optimize import root_scalar
from torch import Tensor

from hyperfit_course.anatomy import CausalLM
from hyperfit_course.study.controls import kl_from
from hyperfit_course.study.interventions import AffineMap, InterventionError, mapped_output

WEAKEST, STRONGEST = 0.01, 4.0  #: Exponents of the gains of a random map that are tried.
NOTHING = 1e-6  #: Nats: a smaller divergence is rounding.


def rescaled_spectrum(states: Tensor, like: Tensor) -> AffineMap:
    """The map that gives a cloud of states the spectrum of another cloud, around its own mean.

    The directions (eigenvectors of the covariance) and the total variance stay. The eigenvalues become those of
    ``like``, up to a factor, the largest in place of the largest. So the participation ratio becomes that of ``like``.

    *When:* to take an expansion away from a trained model (``like``: the base model's states), or to give it to a base
    model (``like``: the trained model's). If the shape makes the effect, the first loses it and the second has it.

    Args:
        states: shape (n, d), n above d.
        like: of another model after the same block, shape (m, d), m above d.

    Raises:
        InterventionError: the widths differ, or there are too few states.
    """
    directions, variances = _spectrum(states)
    _, wanted = _spectrum(like)
    if len(wanted) != len(variances):
        raise InterventionError(
            f"States of width {states.shape[1]} cannot take the spectrum of states of width {like.shape[1]}: "
            "compare a model with a tuned copy of itself."
        )
    gains = (wanted / wanted.sum() * variances.sum() / variances).sqrt()
    return _stretch(states, directions, gains)


def turned_spectrum(
    states: Tensor, change: AffineMap, reference: CausalLM, model: CausalLM, block: int, texts: Tensor, seed: int
) -> AffineMap:
    """A map with the gains of another one, in random directions, and with the same effect on the predictions.

    *When:* as the control of :func:`rescaled_spectrum`: as far from the unchanged model, without its shape. If both do
    the same, it was the size of the change and not the shape.

    Args:
        states: those on which ``change`` was fitted, shape (n, d).
        change: a symmetric map, from :func:`rescaled_spectrum`.
        reference: a copy of the model, which stays unchanged.
        model: it is changed while the divergence is measured.
        block: the block whose output is mapped.
        texts: token ids, shape (n, length), on which both maps diverge equally from the reference (to 2 %).
        seed: of the directions.

    Raises:
        InterventionError: no strength of the gains gives the divergence.
    """

    def divergence(candidate: AffineMap) -> float:
        with mapped_output(model, block, candidate):
            return kl_from(reference, model, texts)

    wanted = divergence(change)
    gains = torch.linalg.eigvalsh(change.matrix.double()).clamp(min=1e-6)
    draw = torch.Generator().manual_seed(seed)
    random = torch.randn(len(gains), len(gains), generator=draw, dtype=torch.double)
    directions = torch.linalg.qr(random).Q

    def candidate(strength: float) -> AffineMap:
        return _stretch(states, directions, gains**strength)

    def gap(strength: float) -> float:
        difference = math.log(divergence(candidate(strength)) / wanted)
        return difference if abs(difference) > 0.02 else 0.0  # near enough: each reading takes seconds

    if wanted < NOTHING or gap(WEAKEST) > 0 or gap(STRONGEST) < 0:
        raise InterventionError("No random map diverges as much as this one: fit it on states with more variance.")
    return candidate(root_scalar(gap, bracket=(WEAKEST, STRONGEST), method="brentq", xtol=1e-3).root)


def _spectrum(states: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors of the covariance as columns, and their eigenvalues, the smallest first, in double precision."""
    if states.ndim != 2 or len(states) <= states.shape[1]:
        raise InterventionError(
            f"A spectrum needs states of shape (n, d) with n above d, not {tuple(states.shape)}: give more texts."
        )
    variances, directions = torch.linalg.eigh(torch.cov(states.T.double(), correction=0))
    return directions, variances.clamp(min=variances[-1] * 1e-9)  # rounding makes the smallest ones negative


def _stretch(states: Tensor, directions: Tensor, gains: Tensor) -> AffineMap:
    return AffineMap(states.mean(dim=0), ((directions * gains) @ directions.T).float())
