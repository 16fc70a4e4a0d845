"""Checks of the exercises of the lab on dynamic short convolutions."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfit_course.checks.core import Answer, exercise, need


def reference(x: Tensor, z: Tensor, p: Tensor, u: Tensor, s: Tensor) -> Tensor:
    """The convolution, position by position."""
    y = x.clone()
    for t in range(len(x)):
        filters = (z[t] @ p @ u).view_as(s) + s
        for j in range(min(len(s), t + 1)):
            y[t] += filters[j] * x[t - j]
    return y


@exercise(
    points=3,
    notice="With U = 0 and S = 0 the layer is the identity. Which of the two would you start at zero in a model that "
    "is trained already?",
)
def dynamic_conv(answer: Answer) -> None:
    """Whether a function computes a dynamic short convolution."""
    generator = torch.Generator().manual_seed(11)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x, z, p, u, s = draw(7, 5), draw(7, 6), draw(6, 2), draw(2, 15), draw(3, 5)
    none, still = torch.zeros(2, 15), torch.zeros(3, 5)

    def out(z: Tensor = z, u: Tensor = u, s: Tensor = s, x: Tensor = x) -> Tensor:
        return answer.tensor(x, z, p, u, s, shape=tuple(x.shape))

    def close(one: Tensor, other: Tensor) -> bool:
        return torch.allclose(one, other, atol=1e-4)

    identity = out(u=none, s=still)
    need(
        not close(identity, torch.zeros_like(x)),
        "With U = 0 and S = 0 the result is 0, and it should be x: y begins with x itself.",
    )
    need(close(identity, x), "With U = 0 and S = 0 the result is not x.")
    impulse = torch.zeros(7, 5)
    impulse[3] = 1
    static = out(u=none, x=impulse)
    need(
        not static[:3].any(),
        "An x that is 0 but at position 3 changes the result before position 3: a filter may not look ahead.",
    )
    last = torch.zeros(7, 5)
    last[6] = 1
    need(
        not out(u=none, x=last)[:6].any(),
        "What x has at its last position comes back at the first ones: x is 0 before its beginning, and does not go "
        "round.",
    )
    need(
        not close(static, impulse),
        "With U = 0 nothing is left of the filter: S is a part of it at every position.",
    )
    need(
        close(static, reference(impulse, z, p, none, s)),
        "With U = 0 the result is not x plus the fixed filter S: tap j belongs to position t - j.",
    )
    found = out()
    swapped = u.view(2, 5, 3).transpose(1, 2).reshape(2, 15)
    need(
        not close(found, reference(x, z, p, swapped, s)),
        "The numbers of z P U are read channel by channel: the first 5 of the 15 are tap 0, and so on.",
    )
    other = draw(7, 6)
    need(
        not close(out(z=other), found),
        "Another z gives the same result: the filters are made from z.",
    )
    moved = z.clone()
    moved[4] += 1
    need(
        not (out(z=moved)[[0, 1, 2, 3, 5, 6]] - found[[0, 1, 2, 3, 5, 6]]).abs().max() > 1e-4,
        "Changing z at position 4 changes y at other positions: position t uses its own filter, made from z at t, for "
        "all taps.",
    )
    need(close(found, reference(x, z, p, u, s)), "For random numbers of all five, the result is wrong.")


@exercise(
    points=1,
    notice="At which width does one convolution of rank 15 with 4 taps cost a tenth of its projection?",
)
def conv_share(answer: Answer) -> None:
    """Whether a function gives the price of a dynamic convolution, as a share of a square projection."""
    for width, rank, taps in ((64, 15, 4), (2048, 15, 4), (100, 1, 2), (48, 7, 3)):
        given = f"width {width}, rank {rank} and {taps} taps"
        found = answer.number(width, rank, taps)
        right = (rank * (1 + taps) + taps) / width
        faults = {
            rank * (1 + taps) / width: "the static part S has numbers too",
            (rank * taps + taps) / width: "P is missing, which reads the token",
            (rank + taps) / width: "U makes a filter for each channel: how many numbers does it have?",
            right * width: "that is a share of the width; the projection has width times width numbers",
            right * width**2: "that is the number of parameters; a share of the projection's is wanted",
            3 * right: "one convolution is asked for, and not one for each of q, k and v",
        }
        for value, message in faults.items():
            need(abs(found - value) > 1e-9 * value, f"For {given} it gives {found:.4g}: {message}.")
        need(abs(found - right) < 1e-9, f"For {given} it gives {found:.4g}, which is wrong.")
