"""Checks of the exercises on chapter 09: read-out, copying, damage or recitation?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyperfit_course.checks.core import Answer, exercise, need, show, small_model, spot


@exercise(
    points=1,
    notice="Multiply all probabilities of the first copy by one half. What happens to the score, and has the model "
    "changed its copying?",
)
def copy_score(answer: Answer) -> None:
    """Whether a function gives the copy score from the log-probabilities of a text."""
    log_p = torch.tensor([-9.0, -8.0, -6.0, -5.0, -4.0, -3.0, -3.0, -1.0, -1.0, -0.5, -0.5])
    given = "a start of 3 tokens and 3 copies of 3 tokens"
    found = answer.number(log_p, 3, 3)
    spot(
        found,
        given,
        {
            -13 / 3: "the last copy is taken off the first one, and not the other way round.",
            13.0: "the sums of the copies are compared. How long a passage is must not count.",
            5 / 3: "the last copy is compared with the one before it. The first one is wanted.",
            5.5: "the last token is compared with the first. Each copy has three.",
            7 / 3: "the first copy is taken off the mean of all copies.",
        },
        tolerance=1e-4,
    )
    need(
        abs(found - 13 / 3) < 1e-4,
        f"For {given} it gives {found:.3f}, and 4.333 is wanted: the first log-probability belongs to the second token "
        "of the text.",
    )
    shorter = torch.tensor([-4.0, -2.0, -1.0, 0.0])
    need(
        abs(answer.number(shorter, 1, 2) - 2.5) < 1e-4,
        f"For a start of 1 token and 2 copies of 2 it gives {answer.number(shorter, 1, 2):.3f}, and 2.5 is wanted. "
        "What is left out at the beginning has to depend on the length of the start.",
    )
    long = torch.cat([torch.full((4,), -7.0), torch.arange(-40.0, 0.0)])
    need(
        abs(answer.number(long, 5, 8) - 35) < 1e-4,
        f"For a start of 5 tokens and 8 copies of 5 it gives {answer.number(long, 5, 8):.3f}, and 35 is wanted: "
        "does it know how long the passage is?",
    )


@exercise(
    points=2,
    notice="Call it with a loop of chapter 01, and with a tale. How large is the share of positions in each?",
)
def copying_positions(answer: Answer) -> None:
    """Whether a function lists the positions at which a text copies itself."""

    def found(tokens: list[int], span: int = 3) -> list[int]:
        return answer.whole_numbers(tokens, span)

    text = [7, 1, 2, 3, 8, 1, 2, 3, 4]
    given = f"For {show(text)} and a span of 3 it gives {show(found(text))}"
    need(found(text) != [5, 6, 7], f"{given}: only where all three tokens have been met does a position count.")
    need(found(text) != [5], f"{given}: that is where the three tokens begin. The last of them is wanted.")
    need(found(text) != [3, 7], f"{given}: the first time, nothing stands *earlier* in the text.")
    need(found(text) != [8], f"{given}: that is the position after the three tokens. Positions are counted from 0.")
    need(found(text) == [7], f"{given}, and [7] is wanted.")
    loop = [5, 5, 5, 5, 5]
    need(
        found(loop) == [3, 4],
        f"For {show(loop)} it gives {show(found(loop))}, and [3, 4] is wanted: the earlier place may overlap.",
    )
    other_order = [1, 2, 3, 9, 3, 2, 1, 9, 2, 1, 3]
    need(
        found(other_order) == [],
        f"For {show(other_order)} it gives {show(found(other_order))}: the same tokens in another order are no copy.",
    )
    turns = [1, 2, 3, 4] * 3
    need(
        found(turns) == list(range(6, 12)),
        f"For three turns of 1, 2, 3, 4 it gives {show(found(turns))}: from position 6 on, every position copies.",
    )
    need(
        found([4, 4, 6, 4, 4, 6], 2) == [4, 5],
        f"For {show([4, 4, 6, 4, 4, 6])} and a span of 2 it gives {show(found([4, 4, 6, 4, 4, 6], 2))}, and [4, 5] is "
        "wanted: does it use the span that it is given?",
    )
    need(
        found([1, 2]) == [],
        "A text that is shorter than the span has no such position: an empty list is wanted.",
    )


def _cloud(seed: int = 0) -> Tensor:
    """A long cloud in five dimensions around a mean, shape (300, 5)."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    lengths = torch.tensor([6.0, 3.0, 2.0, 1.0, 0.5])
    return torch.randn(300, 5, generator=generator) * lengths @ turn.T + 4 * torch.randn(5, generator=generator)


@exercise(
    points=2,
    notice="Give a cloud its own shares. What does your function return, and why is that a good test?",
)
def with_spectrum(answer: Answer) -> None:
    """Whether a function gives a cloud other shares of its variance on its axes."""
    states, shares = _cloud(), torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
    after = answer.tensor(states, shares, shape=(300, 5))
    before_axes = torch.linalg.eigh(torch.cov(states.T, correction=0))
    covariance = torch.cov(after.T, correction=0)
    need(
        torch.allclose(after.mean(dim=0), states.mean(dim=0), atol=1e-2),
        "The mean of the cloud has moved: stretch around the mean, and put it back at the end.",
    )
    total, wanted_total = covariance.trace().item(), before_axes.eigenvalues.sum().item()
    need(
        abs(total - 1) > 0.01,
        "The total variance is 1 now. The shares say how it is divided; how much there is to divide must stay.",
    )
    on_axes = torch.diagonal(before_axes.eigenvectors.T @ covariance @ before_axes.eigenvectors)
    upside_down = torch.allclose(on_axes / on_axes.sum(), shares, atol=1e-2)
    need(
        not upside_down,
        "The largest share is on the shortest axis: one of your two lists begins with the largest, the other does not.",
    )
    need(
        abs(total / wanted_total - 1) < 0.01,
        f"The total variance was {wanted_total:.1f} and is {total:.1f} now. By which power of a factor does a variance "
        "grow?",
    )
    off_axes = before_axes.eigenvectors.T @ covariance @ before_axes.eigenvectors - torch.diag(on_axes)
    need(
        off_axes.abs().max() < 1e-2 * total,
        "The cloud has other axes than before. Did you turn it back after the stretching, with the right matrix?",
    )
    need(
        torch.allclose((on_axes / total).flip(0), shares, atol=1e-2),
        f"The shares on the axes, the longest first, are {show((on_axes / total).flip(0))}, and {show(shares)} is "
        "wanted.",
    )
    own = (before_axes.eigenvalues / wanted_total).flip(0)
    need(
        torch.allclose(answer.tensor(states, own, shape=(300, 5)), states, atol=1e-2),
        "With its own shares the cloud should stay as it is, each state of it.",
    )


@exercise(
    points=3,
    notice="Patch all positions of the last block. Whose logits come out, and why is that no experiment?",
)
def patched_logits(answer: Answer) -> None:
    """Whether a function puts a donor's states after a block into a model, at some positions."""
    model: Any = small_model()
    donor: Any = small_model()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for number in (1, 2, 3):
            weight = donor.model.layers[number].mlp.down_proj.weight
            weight.add_(torch.randn(weight.shape, generator=generator))
    texts = torch.randint(0, 61, (2, 9), generator=generator)
    some = torch.zeros(2, 9, dtype=torch.bool)
    some[0, 4:6] = some[1, 2] = True
    with torch.no_grad():
        own, theirs = model(input_ids=texts).logits, donor(input_ids=texts).logits
        expected = {block: _expected(model, donor, texts, block, some) for block in (1, 2, 3)}
        elsewhere = _expected(model, donor, texts, 2, ~some)
        reversed_roles = _expected(donor, model, texts, 2, some)

    def found(block: int, positions: Tensor) -> Tensor:
        return answer.tensor(model, donor, texts, block, positions, shape=(2, 9, 61))

    after = found(2, some)
    need(not after.requires_grad, "The logits carry a graph for gradients: compute them under torch.no_grad().")
    need(not torch.allclose(after, own, atol=1e-4), "The logits are those of the model: nothing is patched.")
    need(
        not torch.allclose(found(3, some), theirs, atol=1e-4),
        "The logits are those of the donor: only some positions are to be patched, and the model runs on from there.",
    )
    need(
        not torch.allclose(after, elsewhere, atol=1e-4),
        "The donor's states stand where `positions` is False: which of the two does torch.where take first?",
    )
    need(
        not torch.allclose(after, reversed_roles, atol=1e-4),
        "The donor runs with states of the model. It should be the other way round.",
    )
    need(
        not torch.allclose(after, expected[1], atol=1e-4),
        "For block 2 the output of block 1 is replaced: is it the input of the block that you change?",
    )
    need(
        not torch.allclose(after, expected[3], atol=1e-4),
        "For block 2 the output of block 3 is replaced: blocks are counted from 0.",
    )
    need(torch.allclose(after, expected[2], atol=1e-4), "For block 2 the logits are not those of the patched model.")
    none, every = torch.zeros_like(some), torch.ones_like(some)
    need(
        torch.allclose(found(3, none), own, atol=1e-4),
        "Where no position is patched, the logits should be those of the model.",
    )
    need(
        torch.allclose(found(3, every), theirs, atol=1e-4),
        "All later blocks are equal in both models here. So with every position patched the donor's logits are wanted.",
    )
    before = _hooks(model), _hooks(donor)
    for _ in range(2):
        again = answer.changing(model, donor, texts, 2, some)
    need(
        (_hooks(model), _hooks(donor)) == before,
        "It leaves a hook on a model: keep what `register_forward_hook` returns, and call its method `remove`.",
    )
    need(
        torch.allclose(again, expected[2], atol=1e-4),
        "Called a second time with the same models it gives other logits: what is left from the first call?",
    )


def _hooks(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def _expected(model: Any, donor: Any, texts: Tensor, block: int, positions: Tensor) -> Tensor:
    """What is wanted, by running the blocks after ``block`` on the mixed states."""
    ours, theirs = (each(input_ids=texts, output_hidden_states=True).hidden_states for each in (model, donor))
    mixed = torch.where(positions[..., None], theirs[block + 1], ours[block + 1])
    replaced = model.model.layers[block].register_forward_hook(lambda module, inputs, output: mixed)
    logits: Tensor = model(input_ids=texts).logits
    replaced.remove()
    return logits
