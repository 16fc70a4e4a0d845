"""Checks of the exercises of the lab on exact speed-ups."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hyperfit_course.checks.core import Answer, exercise, need

NAMES = ("dx", "da", "db")


def random(*shapes: tuple[int, int]) -> list[Tensor]:
    """Random matrices in float64, the same each time."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.double) for shape in shapes]


@exercise(
    points=3,
    notice="How many operations does your function need for W, A and B? And if W were to learn as well?",
)
def lora_backward(answer: Answer) -> None:
    """Whether a function gives the gradients of an adapted map, without forming that of its weight."""
    x, dy, weight, a, b = random((7, 5), (7, 6), (6, 5), (2, 5), (6, 2))
    for scale in (0.5, 3.0):
        learns = [each.clone().requires_grad_() for each in (x, a, b)]
        y = learns[0] @ weight.T + scale * learns[0] @ learns[1].T @ learns[2].T
        wanted = torch.autograd.grad(y, learns, dy)
        found = answer(x, dy, weight, a, b, scale)
        need(
            isinstance(found, tuple) and len(found) == 3 and all(isinstance(each, Tensor) for each in found),
            "Three tensors are wanted: (dx, da, db).",
        )
        for name, one, other in zip(NAMES, found, wanted, strict=True):
            need(
                one.shape == other.shape,
                f"{name} has the shape {tuple(one.shape)}: a gradient has the shape of what it belongs to, "
                f"{tuple(other.shape)}.",
            )
        dx = found[0]
        whole, inner = dy @ weight, dy @ b @ a
        need(
            not torch.allclose(dx, scale * inner),
            "dx has only the part that goes through the adapter: the frozen map hands its gradient on, too.",
        )
        need(not torch.allclose(dx, whole), "dx has only the part of the frozen map: x enters the adapter as well.")
        need(
            not torch.allclose(dx, whole + inner),
            f"dx is right for a scale of 1, and wrong for {scale}: y has a factor in front of its second part.",
        )
        need(
            not torch.allclose(dx, scale * (whole + inner)),
            "In dx the frozen part is scaled: in y the factor stands before the adapter only.",
        )
        for name, one, other in zip(NAMES[1:], found[1:], wanted[1:], strict=True):
            need(
                not torch.allclose(one * scale, other),
                f"{name} lacks the factor of y: it reaches each factor of the adapter, and not one of the two.",
            )
            need(not torch.allclose(one, other * scale), f"{name} has the factor of y twice.")
        for name, one, other in zip(NAMES, found, wanted, strict=True):
            need(torch.allclose(one, other), f"{name} is wrong for random matrices and a scale of {scale}.")
    inputs = random((64, 40), (64, 48), (48, 40), (2, 40), (48, 2))
    with FlopCounterMode(display=False) as counter:
        answer(*inputs, 0.5)
    least = 2 * 64 * 40 * 48
    need(
        counter.get_total_flops() < 1.8 * least,
        f"All is right, and it takes {counter.get_total_flops() / least:.1f} times the operations of one product with "
        "the frozen weight: there is a second large product. Is a matrix of the size of the weight formed on the way, "
        "or the output computed again? Three matrices can be multiplied in two orders.",
    )


@exercise(
    points=2,
    notice="Give it 30 blocks of 3,538,944, five of them trained with 122,112 numbers in adapters each, and a head of "
    "28,311,552. Which part is left when the prefix is stored?",
)
def products_per_token(answer: Answer) -> None:
    """Whether a function counts the products of a training step."""
    for depth, trained, block, adapter, head in ((10, 3, 1000, 10, 700), (4, 4, 50, 6, 30)):
        given = f"For {depth} blocks of {block}, {trained} trained, {adapter} in the adapters of each, a head of {head}"
        small = 3 * trained * adapter
        right = {
            cached: (trained if cached else depth) * block + trained * block + small + 2 * head
            for cached in (False, True)
        }
        found = {cached: answer.number(depth, trained, block, adapter, head, cached) for cached in (False, True)}
        plain = found[False]
        need(
            plain != right[False] + trained * block and plain != 3 * (depth * block + trained * adapter + head),
            f"{given} it counts a gradient for frozen weights: a weight that does not learn needs none.",
        )
        need(plain != right[False] - small, f"{given} it leaves the adapters out.")
        need(
            plain != right[False] - small + trained * adapter,
            f"{given} it counts the adapters forward only: they learn, so they have three products.",
        )
        need(
            plain != right[False] - small + 2 * trained * adapter,
            f"{given} it counts two products for the adapters: their own gradient is the third.",
        )
        need(
            depth == trained or plain != right[False] + (depth - trained) * block,
            f"{given} it runs all blocks backward: before the first trained block nothing learns.",
        )
        need(
            plain != right[False] - head,
            f"{given} it counts the head once: the gradient has to come back through it.",
        )
        need(plain == right[False], f"{given} and nothing stored, it gives {plain:.0f}, which is wrong.")
        need(
            depth == trained or found[True] != plain,
            f"{given} it gives the same with a stored prefix: which blocks do not run any more?",
        )
        need(found[True] == right[True], f"{given} and a stored prefix, it gives {found[True]:.0f}, which is wrong.")


@exercise(
    points=1,
    notice="After how many epochs is nine tenths of the limit reached, if the limit is 2?",
)
def times_cheaper(answer: Answer) -> None:
    """Whether a function counts the one pass that fills the store."""
    for whole, stored, epochs in ((10.0, 4.0, 1), (10.0, 4.0, 3), (182.0, 93.0, 12)):
        right = epochs * whole / (whole - stored + epochs * stored)
        found = answer.number(whole, stored, epochs)
        given = f"For {whole:g} and {stored:g} an epoch and {epochs} epoch{'s'[: epochs > 1]}"
        near = 1e-9
        need(
            abs(found - whole / stored) > near,
            f"{given} it gives {found:.3f}, as if the store came for nothing: the frozen blocks run once.",
        )
        need(
            abs(found - epochs * whole / (whole + epochs * stored)) > near,
            f"{given} it pays for a whole epoch to fill the store: only the frozen blocks run for that.",
        )
        need(
            epochs == 1 or abs(found * right - 1) > near,
            f"{given} it gives {found:.3f}: that is the cost with the store as a share of the cost without.",
        )
        need(abs(found - right) < near, f"{given} it gives {found:.3f}, which is wrong.")
