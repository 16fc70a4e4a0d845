"""Checks of the exercises on chapter 03: is it only temperature?"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hyperfit_course.checks.core import Answer, exercise, need, spot


def _entropy(logits: Tensor) -> Tensor:
    return torch.distributions.Categorical(logits=logits.double()).entropy()


def _random_logits(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@exercise(
    points=2,
    notice="Softmax forgets a constant that is added to all logits. Which step of your function makes use of that?",
)
def entropy(answer: Answer) -> None:
    """Whether a function gives the entropy of the distributions behind logits, in nats, whatever their size."""
    four = torch.tensor([0.0, 0.0, 0.0, 0.0])
    found = answer.tensor(four, shape=()).item()
    spot(
        found,
        "four equal logits",
        {
            2.0: "that is the entropy in bits. In nats the logarithm is the natural one.",
            -math.log(4): "an entropy is not negative. Look at the sign of p ln p.",
            math.log(4) / 4: "that is the mean over the tokens, and the sum is wanted.",
            0.0: "that is the entropy of a certain choice. Are the logits turned into probabilities first?",
        },
    )
    need(abs(found - math.log(4)) < 1e-4, f"For four equal logits it gives {found:.4f}, and ln 4 = 1.3863 is wanted.")
    logits = _random_logits(2, 3, 7)
    plain = answer.tensor(logits, shape=(2, 3))
    need(
        torch.allclose(plain, _entropy(logits).float(), atol=1e-4),
        "For logits of shape (2, 3, 7) the numbers are not those of its six distributions: is softmax taken over the "
        "last dimension?",
    )
    large = answer.tensor(
        logits + 1000, shape=(2, 3), nan="exp(1000) is infinite. Take the logarithm of softmax as one step"
    )
    need(
        torch.allclose(large, plain, atol=1e-3),
        "When 1000 is added to all logits, the probabilities are the same, and your entropy changes.",
    )
    sharp = answer.tensor(
        torch.tensor([0.0, 300.0]),
        shape=(),
        nan="a probability that rounds to 0 has an infinite logarithm, and 0 * inf is NaN",
    )
    need(0 <= sharp.item() < 1e-4, f"For the logits 0 and 300 the choice is certain, and it gives {sharp.item():.4g}.")
    forbidden = answer.tensor(
        torch.tensor([1.0, 1.0, -math.inf]), shape=(), nan="a token with the logit -inf has p = 0, and adds nothing"
    )
    need(
        abs(forbidden.item() - math.log(2)) < 1e-4,
        "For the logits 1, 1 and -inf two tokens are equally likely and one is forbidden: ln 2 = 0.6931 is wanted, and "
        f"it gives {forbidden.item():.4f}.",
    )


@exercise(
    points=2,
    notice="Which target entropies can no temperature reach? What should a careful function do with them?",
)
def match_temperature(answer: Answer) -> None:
    """Whether a function finds the temperature at which the mean entropy of distributions has a given value."""
    logits = _random_logits(50, seed=4) + 0.25 * _random_logits(40, 50)  # positions have much in common
    for share in (0.5, 0.2, 0.9):
        wanted = _temperature_of(logits, target := share * math.log(50))
        found = answer.number(logits, target)
        goal = f"For a target of {target:.3f} nats"
        need(found > 0, f"{goal} it gives T = {found:.4g}: a temperature is positive.")
        at_found = _entropy(logits / found).mean().item()
        need(
            abs(_entropy(logits * found).mean().item() - target) > 1e-3 or abs(at_found - target) < 1e-3,
            f"{goal} it gives T = {found:.4g}, which is one over the right one: logits are divided by T.",
        )
        of_mean = _entropy(torch.softmax(logits / found, dim=-1).mean(dim=0).log()).item()
        need(
            abs(of_mean - target) > 1e-3 or abs(at_found - target) < 1e-3,
            f"{goal} the entropy of the *mean distribution* is right at your T = {found:.4g}. The mean of the "
            "entropies is wanted: take the entropy of each position first.",
        )
        close = abs(math.log(found / wanted)) < 0.2
        need(
            abs(at_found - target) < 1e-3 or not close,
            f"{goal} it gives T = {found:.4f}, where the mean entropy is {at_found:.4f}: near, but not within 0.001. "
            "Halve the interval more often.",
        )
        need(
            abs(at_found - target) < 1e-3 or wanted <= 1 or found > 1.01,
            f"{goal} T has to be above 1, and it gives {found:.4g}: how far does your interval reach?",
        )
        need(
            abs(at_found - target) < 1e-3,
            f"{goal} it gives T = {found:.4g}, where the mean entropy is {at_found:.3f}. A higher temperature gives a "
            "higher entropy: which half of the interval is kept? Are the logits divided by T, is it the entropy of "
            "the whole distribution, and is its mean over all positions compared?",
        )


def _temperature_of(logits: Tensor, target: float) -> float:
    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _entropy(logits / middle).mean() < target else (low, middle)
    return middle


@exercise(
    points=1,
    notice="Greedy decoding needs less than the whole order. What exactly? Can a change break the order, and not that?",
)
def keeps_order(answer: Answer) -> None:
    """Whether a function tells if a change of logits keeps the order of all tokens at every position."""
    logits = _random_logits(4, 9, seed=1)
    bias = _random_logits(9, seed=2)
    top = logits.argmax(dim=-1, keepdim=True)

    def expect(change: Callable[[Tensor], Tensor], wanted: bool, what: str, hint: str) -> None:
        found = answer(change, logits)
        found = found.item() if isinstance(found, Tensor) and found.numel() == 1 else found
        need(isinstance(found, bool), f"It returned {type(found).__name__}: True or False is wanted.")
        need(found == wanted, f"{what}, it says {found}. {hint}")

    expect(lambda z: z / 0.3, True, "For the temperature 0.3", "Every logit is divided by the same number.")
    expect(lambda z: -z, False, "For the change to -z", "The first token becomes the last.")
    expect(
        lambda z: z + 5 * bias,
        False,
        "For a bias of each token",
        "Tokens overtake one another.",
    )
    expect(
        lambda z: z * torch.tensor([[1.0], [2.0], [0.5], [3.0]]),
        True,
        "When every position has a temperature of its own",
        "Inside each position the order stays. Positions are not compared with each other.",
    )
    expect(
        lambda z: z.scatter(-1, top, 1e3),
        True,
        "When only the first token's logit is raised",
        "It was the first before. Compare orders, and not values or differences.",
    )
    expect(
        lambda z: _swapped(z, 7, 8),
        False,
        "When the two last tokens change places",
        "The first token stays, but the order of all tokens is asked for.",
    )
    expect(
        lambda z: torch.cat([z[:-1], _swapped(z[-1:], 0, 1)]),
        False,
        "When only the last position's order changes",
        "Every position counts.",
    )


def _swapped(logits: Tensor, one: int, other: int) -> Tensor:
    """Logits in which, at every position, the tokens of two ranks have changed their logits."""
    order = logits.argsort(dim=-1, descending=True)
    first, second = order[:, [one]], order[:, [other]]
    return logits.scatter(-1, first, logits.gather(-1, second)).scatter(-1, second, logits.gather(-1, first))
