"""Checks of the exercises of the lab on test-time training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyperfit_course.checks.core import Answer, exercise, need

SHAPE = (2, 3, 4)  # documents, out, in


def loss_of(weights: Tensor, inputs: Tensor) -> Tensor:
    """A loss that is no straight line, one a document."""
    return ((inputs[:, None] @ weights.mT).tanh()[:, 0] - 0.5).square().sum(1)


@exercise(
    points=3,
    notice="The first-order variant leaves out the gradient of the gradient. For which problems would you expect it to "
    "fail?",
)
def inner_step(answer: Answer) -> None:
    """Whether a function takes one clipped gradient step a document, through which gradients flow."""
    generator = torch.Generator().manual_seed(5)
    start = torch.randn(SHAPE[1:], generator=generator, dtype=torch.double)
    inputs = torch.randn(2, 4, generator=generator, dtype=torch.double)
    later = torch.randn(2, 4, generator=generator, dtype=torch.double)

    def stepped(start: Tensor, scale: Tensor, rate: float = 0.5) -> Tensor:
        weights = start.expand(SHAPE).clone()
        before = weights.detach().clone()
        found = answer.changing(weights, scale * loss_of(weights, inputs), rate)
        need(
            torch.equal(weights, before),
            "It changed the weights that it was given: make new ones, since the old ones are needed for the outer "
            "gradient.",
        )
        need(isinstance(found, Tensor), "A tensor of new weights is wanted.")
        need(found.shape == SHAPE, f"New weights of shape {SHAPE} are wanted, one matrix a document.")
        return found

    start.requires_grad_()
    small, large = torch.full((2,), 0.01).double(), torch.tensor([0.01, 100.0]).double()
    slope = torch.autograd.grad(loss_of(weights := start.expand(SHAPE).clone(), inputs).sum(), weights)[0].detach()
    moved = (start - stepped(start, small)).detach()
    need(bool((moved * slope).sum() > 0), "The step goes uphill: the loss is to fall.")
    need(
        not torch.allclose(moved, 0.0025 * slope, rtol=1e-3),
        "With two documents the step is half as long: each has a loss of its own, so take the sum over documents, and "
        "not the mean.",
    )
    need(
        not (moved.square().sum((1, 2)).sqrt() > 0.49).any(),
        "A short gradient became longer: clipping shortens gradients of a length above 1, and leaves others alone.",
    )
    need(torch.allclose(moved, 0.005 * slope, rtol=1e-3), "For short gradients the step is not rate times gradient.")
    both = (start - stepped(start, large)).detach()
    lengths = both.square().sum((1, 2)).sqrt()
    need(
        lengths[1].item() < 0.51,
        f"A long gradient gave a step of length {lengths[1]:.3g} with rate 0.5: clip its length to 1 before the step.",
    )
    need(
        torch.allclose(both[0], 0.005 * slope[0], rtol=1e-3),
        "The long gradient of one document changed the step of another: clip each by its own length.",
    )
    need(abs(lengths[1].item() - 0.5) < 1e-3, "A clipped gradient has the length 1, over all numbers of its matrix.")
    one = torch.ones(2).double()
    new = stepped(start, one)
    need(
        new.requires_grad,
        "The new weights carry no gradient to those before: without detach() and without no_grad(), please.",
    )
    (found,) = torch.autograd.grad(loss_of(new, later).sum(), start)
    expected = torch.zeros_like(start)
    for where in torch.cartesian_prod(torch.arange(3), torch.arange(4)).tolist():
        sides = []
        for shift in (1e-5, -1e-5):
            near = start.detach().clone()
            near[where[0], where[1]] += shift
            near.requires_grad_()
            sides.append(loss_of(stepped(near, one), later).sum().item())
        expected[where[0], where[1]] = (sides[0] - sides[1]) / 2e-5
    need(
        torch.allclose(found, expected, atol=1e-4),
        "The gradient through the step is not that of finite differences: does the inner gradient keep its graph?",
    )


@exercise(
    points=2, notice="Which loss would a step before the loss make look better: that of copied text, or of noise?"
)
def read_document(answer: Answer) -> None:
    """Whether a function reads and writes in the right order."""
    for start, chunks in ((0.0, [4.0, 4.0, 8.0]), (2.0, [1.0, 5.0]), (1.0, [3.0])):
        steps: list[float] = []

        def step(weights: float, chunk: float, steps: list[float] = steps) -> float:
            steps.append(chunk)
            return (weights + chunk) / 2

        def loss(weights: float, chunk: float) -> float:
            return abs(weights - chunk)

        found = answer.changing(start, chunks, loss, step)
        taken = len(steps)
        given = f"For weights {start}, chunks {chunks}, the distance as the loss, and steps to the middle"
        need(
            isinstance(found, list) and len(found) == len(chunks),
            f"{given} it returned {found}: a list with one loss a chunk is wanted.",
        )
        weights, expected, leaked = start, [], []
        for chunk in chunks:
            expected.append(loss(weights, chunk))
            weights = step(weights, chunk)
            leaked.append(loss(weights, chunk))
        need(found != leaked, f"{given} it gives {found}: the loss of a chunk is taken before the step that learns it.")
        need(
            len(chunks) == 1 or found != [loss(start, chunk) for chunk in chunks],
            f"{given} it gives {found}: later chunks are read with the weights that the earlier ones have made.",
        )
        need(found == expected, f"{given} it gives {found}, which is wrong.")
        need(taken == len(chunks) - 1, f"{given} it takes {taken} steps: none is needed after the last chunk.")


@exercise(points=1, notice="At which noise is the floor half of the way from 0 to chance?")
def floor(answer: Answer) -> None:
    """Whether a function gives the lowest possible loss."""
    for symbols, keep in ((16, 0.8), (2, 0.5), (64, 0.8), (10, 0.0), (7, 1.0)):
        given = f"{symbols} symbols and keep = {keep}"
        found = answer.number(symbols, keep)
        other = (1 - keep) / symbols
        image = keep + other

        def entropy(image: float, other: float, symbols: int = symbols) -> float:
            return -sum(count * p * math.log(p) for count, p in ((1, image), (symbols - 1, other)) if p)

        right = entropy(image, other)
        faults = {
            entropy(keep, (1 - keep) / (symbols - 1)): "noise may draw the image too",
            right / math.log(2): "that is in bits, and nats are wanted",
            -math.log(image): "the other symbols come too, and cost more",
            (1 - keep) * math.log(symbols): "whether a step follows the permutation is not known in advance either",
        }
        for value, message in faults.items():
            need(
                abs(value - right) < 1e-6 or abs(found - value) > 1e-6, f"For {given} it gives {found:.4g}: {message}."
            )
        need(abs(found - right) < 1e-6, f"For {given} it gives {found:.4g}, which is wrong.")
