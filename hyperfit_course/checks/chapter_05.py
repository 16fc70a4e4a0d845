"""Checks of the exercises on chapter 05: where does it happen?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from hyperfit_course.checks.core import Answer, Wrong, exercise, need, show, spot


def _states(n: int, variances: list[float], seed: int = 0) -> Tensor:
    """States of mean 0 whose covariance has exactly these eigenvalues, turned to a random direction, shape (n, d)."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(n, len(variances), generator=generator, dtype=torch.float64)
    whitened = torch.linalg.qr(raw - raw.mean(dim=0)).Q * n**0.5
    turn = torch.linalg.qr(torch.randn(len(variances), len(variances), generator=generator, dtype=torch.float64)).Q
    return (whitened * torch.tensor(variances, dtype=torch.float64).sqrt() @ turn).float()


@exercise(
    points=2,
    notice="Shift all states by a constant, then scale one dimension by 100. Which of the two changes the result?",
)
def participation_ratio(answer: Answer) -> None:
    """Whether a function gives the participation ratio of a cloud of states from the eigenvalues of its covariance."""
    states = _states(200, [4.0, 2.0, 1.0, 1.0])
    found = answer.number(states)
    given = "a cloud whose covariance has the eigenvalues 4, 2, 1, 1"
    roots, sides = torch.tensor([2.0, 2**0.5, 1.0, 1.0]), states.var(dim=0)
    alike = torch.linalg.eigvalsh(torch.corrcoef(states.T))
    spot(
        found,
        given,
        {
            22 / 64: "the fraction is upside down.",
            8 / 22: "the sum above the line is squared.",
            64.0: "what stands below the line is missing, the sum of the squared eigenvalues.",
            1.0: "the sum below the line is of squares: each eigenvalue is squared before they are added.",
            (
                sides.sum() ** 2 / (sides**2).sum()
            ).item(): "the variances of the dimensions are not the eigenvalues of the "
            "covariance: the dimensions vary together.",
            (alike.sum() ** 2 / (alike**2).sum()).item(): "each dimension is divided by its standard deviation first. "
            "Take the states as they are.",
            (roots.sum() ** 2 / (roots**2).sum()).item(): "singular values are not eigenvalues. Their squares are.",
            (16 + 4 + 1 + 1) ** 2
            / (256 + 16 + 1 + 1): "the eigenvalues are squared once too often. Are they those of the "
            "covariance, and not of its square?",
        },
        tolerance=0.005,
    )
    shifted = answer.number(states + 10)
    need(
        abs(shifted - found) < 0.02 * found,
        f"When every state is shifted by the same vector, the result changes from {found:.2f} to {shifted:.2f}: "
        "centre the states first, by subtracting their mean.",
    )
    shifted = answer.number(states + torch.tensor([10.0, -5.0, 3.0, 0.0]))
    need(
        abs(shifted - found) < 0.02 * found,
        f"When (10, -5, 3, 0) is added to every state, the result changes from {found:.2f} to {shifted:.2f}: centre "
        "each dimension by its own mean.",
    )
    scaled = answer.number(3 * states)
    need(
        abs(scaled - found) < 0.01 * found,
        f"When all states are multiplied by 3, the result changes from {found:.2f} to {scaled:.2f}: it has no unit.",
    )
    need(
        abs(found - 64 / 22) < 0.02,
        f"For {given} it gives {found:.3f}, and 64 / 22 = 2.909 is wanted: is the mean taken over the "
        "states, and not over the dimensions?",
    )
    wide = _states(400, [1.0] * 30, seed=1)
    need(
        abs(answer.number(wide) - 30) < 0.3,
        f"For 400 states with equal variance in 30 directions it gives {answer.number(wide):.2f}: 30 is wanted.",
    )


@contextlib.contextmanager
def _without_decompositions() -> Iterator[None]:
    """Make every eigenvalue or singular value decomposition of torch say that it is not wanted."""

    def refuse(*_: Any, **__: Any) -> None:
        raise Wrong("It computes eigenvalues or singular values: find the two sums without them.")

    with contextlib.ExitStack() as stack:
        for name in ("eig", "eigh", "eigvals", "eigvalsh", "svd", "svdvals"):
            stack.enter_context(mock.patch.object(torch.linalg, name, refuse))
        for name in ("eigh", "eigvals", "eigvalsh", "eig", "svd"):
            stack.enter_context(mock.patch.object(np.linalg, name, refuse))
        for name in ("svd", "pca_lowrank", "svd_lowrank"):
            stack.enter_context(mock.patch.object(torch, name, refuse))
        yield


@exercise(
    points=2,
    notice="Time both of your functions on a covariance of 576 dimensions. Which is faster, and by how much?",
)
def pr_by_traces(answer: Answer) -> None:
    """Whether a function gives the participation ratio of a covariance matrix without its eigenvalues."""
    generator = torch.Generator().manual_seed(5)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator)).Q
    covariance = turn @ torch.diag(torch.tensor([4.0, 2.0, 1.0, 1.0])) @ turn.T
    diagonal = covariance.diagonal()
    with _without_decompositions():
        found = answer.number(covariance)
        given = "a covariance with the eigenvalues 4, 2, 1, 1"
        spot(
            found,
            given,
            {
                (
                    diagonal.sum() ** 2 / diagonal.square().sum()
                ).item(): "the squares of the diagonal are not enough. The "
                "trace of C C has the entries beside the diagonal in it, too.",
                (
                    covariance.sum() ** 2 / covariance.square().sum()
                ).item(): "a trace is the sum of the diagonal only, not of all entries.",
                22 / 64: "the fraction is upside down.",
                8 / 22: "the trace above the line is squared.",
            },
        )
        need(abs(found - 64 / 22) < 1e-3, f"For {given} it gives {found:.4f}, and 64 / 22 = 2.9091 is wanted.")
        one = answer.number(torch.eye(7))
        need(abs(one - 7) < 1e-3, f"For the identity of 7 dimensions it gives {one:.3f}, and 7 is wanted.")
        thin = torch.outer(torch.arange(1.0, 6.0), torch.arange(1.0, 6.0))
        need(
            abs(answer.number(thin) - 1) < 1e-3,
            f"For a covariance with a single direction it gives {answer.number(thin):.3f}, and 1 is wanted.",
        )


@exercise(
    points=2,
    notice="Find these dimensions in the base model after block 15, with and without the first position of each text.",
)
def outlier_dimensions(answer: Answer) -> None:
    """Whether a function finds the fewest dimensions that hold a given share of the variance."""
    generator = torch.Generator().manual_seed(6)
    noise = torch.randn(300, 8, generator=generator)
    noise = (noise - noise.mean(dim=0)) / noise.std(dim=0)
    scale = torch.tensor([1.0, 4.0, 1.0, 6.0, 1.0, 1.0, 2.0, 1.0])
    mean = torch.tensor([0.0, 0.0, 50.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    states = noise * scale + mean  # variances 1, 16, 1, 36, 1, 1, 4, 1 of 61
    for share, wanted in ((0.5, [3]), (0.8, [3, 1]), (0.9, [3, 1, 6])):
        found = answer.whole_numbers(states, share)
        given = f"For variances of 1, 16, 1, 36, 1, 1, 4 and 1 and a share of {share}"
        need(
            all(0 <= number < 8 for number in found),
            f"{given} it gives {show(found)}, and there are 8 dimensions: the variance is taken over the states.",
        )
        need(len(found) < 8, f"{given} it gives all dimensions: begin with the one that varies most.")
        need(
            2 not in found,
            f"{given} it gives {found}. Dimension 2 has a mean of 50 and a small variance: only the variance counts.",
        )
        need(
            found != wanted[:-1],
            f"{given} it gives {found}: these hold less than the share. The one that reaches it belongs to them.",
        )
        need(
            not (len(found) > len(wanted) and found[: len(wanted)] == wanted),
            f"{given} it gives {found}, and fewer are enough. Are variances compared, or standard deviations?",
        )
        need(
            found == wanted or sorted(found) != sorted(wanted),
            f"{given} it gives {found}: these are the right dimensions, but the largest variance comes first.",
        )
        need(found == wanted, f"{given} it gives {found}, and {wanted} is wanted.")
    cross = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    need(
        len(answer.whole_numbers(cross, 0.5)) == 1,
        "Of two dimensions with equal variance it takes both for a share of 0.5: one of them has that share already.",
    )
