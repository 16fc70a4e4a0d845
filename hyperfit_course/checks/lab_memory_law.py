"""Checks of the exercises of the lab on the memory law."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyperfit_course.checks.core import Answer, exercise, need

HALF = math.log(2)


@exercise(
    points=2,
    notice="What happens to the size of a step when only one token of a long text is left?",
)
def threshold_loss(answer: Answer) -> None:
    """Whether a function gives the mean loss of the tokens above a threshold."""

    def of(values: list[float], threshold: float) -> tuple[float, list[float]]:
        losses = torch.tensor(values, dtype=torch.double, requires_grad=True)
        found = answer.changing(losses.clone(), threshold)  # a copy without its history would cut the gradient
        need(isinstance(found, Tensor) and found.shape == (), "A tensor of shape () is wanted: one number.")
        need(
            found.requires_grad,
            "No gradient flows through the result: compute it from `losses`, and let it stay a tensor.",
        )
        need(not found.isnan(), "The result is NaN: the mean of no tokens is no number.")
        (gradient,) = torch.autograd.grad(found, losses)
        return found.item(), gradient.tolist()

    values = [0.1, 0.6, 2.0, 0.65, 4.0]
    found, gradient = of(values, HALF)
    given = "For losses of 0.1, 0.6, 2, 0.65 and 4 with a threshold of ln 2"
    need(abs(found - 6 / 5) > 1e-9, f"{given} it gives 1.2: divide by the tokens that count, and not by all.")
    need(abs(found - 7.35 / 5) > 1e-9, f"{given} it gives 1.47, the mean of all tokens: the learned ones do not count.")
    need(
        abs(found - 7.25 / 4) > 1e-9,
        f"{given} it gives the mean of four tokens: 0.6 and 0.65 are losses, so compare them with the threshold and "
        "not with one half.",
    )
    need(
        abs(found - 1.35 / 3) > 1e-9,
        f"{given} it gives the mean of those below: they are learned, and the others are not.",
    )
    need(abs(found - 6) > 1e-9, f"{given} it gives the sum of the tokens that count: their mean is wanted.")
    need(abs(found - 3) < 1e-9, f"{given} it gives {found:.4g}, which is wrong.")
    need(
        all(abs(one - other) < 1e-9 for one, other in zip(gradient, [0, 0, 0.5, 0, 0.5], strict=True)),
        "The value is right and the gradient is not: the mask is a constant, and each of the two tokens that count has "
        "a gradient of one half.",
    )
    found, gradient = of([0.1, 0.2, 0.6], HALF)
    need(found != 0, "Where all tokens are below the threshold the result is 0: the mean of all tokens is wanted.")
    need(
        abs(found - 0.3) < 1e-9 and min(gradient) > 0.3,
        "Where all tokens are below the threshold, the mean of all tokens is wanted.",
    )
    found, _ = of([1.0, 2.0], 1.5)
    need(abs(found - 2) < 1e-9, "With another threshold the result is wrong: use the one that is given.")
    found, _ = of([1.0, 2.0], 1.0)
    need(abs(found - 2) < 1e-9, "A token whose loss is equal to the threshold counts: only those above it do.")


@exercise(
    points=2,
    notice="A text is read once, and all positions are judged. Why does this say what greedy decoding would write?",
)
def recited(answer: Answer) -> None:
    """Whether a function tells a recited text from one that is not."""

    def logits_of(choices: list[int], height: float) -> Tensor:
        logits = torch.zeros(len(choices), 6)
        logits[torch.arange(len(choices)), torch.tensor(choices)] = height
        return logits

    text = torch.tensor([3, 1, 4, 1, 5, 2])

    def says(choices: list[int], prompt: int, height: float = 9.0) -> bool:
        found = answer(logits_of(choices, height), text, prompt)
        need(bool(found == True) or bool(found == False), "True or false is wanted.")  # noqa: E712
        return bool(found)

    right = [1, 4, 1, 5, 2, 0]
    need(
        not says([3, 1, 4, 1, 5, 2], 2),
        "A model that repeats at every position the token that it has just read counts as reciting: the logits at a "
        "position are for the next token.",
    )
    need(says(right, 2), "A text that is right at every position after the prompt counts as not recited.")
    need(
        says(right, 2, height=1.0),
        "A text whose tokens are all the first choice, each with a probability of 0.35, counts as not recited: one "
        "half is enough, and not needed.",
    )
    need(
        not says([1, 4, 1, 0, 2, 0], 2),
        "With one wrong token among those after the prompt the text counts as recited: every one has to be right.",
    )
    need(
        not says([1, 0, 1, 5, 2, 0], 2),
        "With only the first token after the prompt wrong, the text counts as recited: which position predicts it?",
    )
    need(
        says([0, 4, 1, 5, 2, 0], 2),
        "A prediction inside of the prompt was wrong, and the text counts as not recited: the prompt is given.",
    )
    need(
        not says([1, 4, 1, 5, 0, 0], 2),
        "With only the last token wrong, the text counts as recited.",
    )


@exercise(
    points=2,
    notice="Try C = 11,364, alpha = 0.0002 and b = -11,347. How far apart are curve and line at r = 8?",
)
def line_of(answer: Answer) -> None:
    """Whether a function gives the line that a power law with a tiny exponent is."""
    for c, alpha, b in ((3.0, 0.5, 1.0), (1000.0, 0.002, -990.0), (-3.0, 0.1, 20.0)):
        value, slope = answer.pair(c, alpha, b, wanted="(value, slope)")
        given = f"For C = {c:g}, alpha = {alpha:g} and b = {b:g}"
        need(
            abs(value - c) > 1e-9,
            f"{given} the value at r = 1 is given as C: b is added to it.",
        )
        need(
            abs(value - b) > 1e-9, f"{given} the value at r = 1 is given as b: r to the power alpha is 1 there, not 0."
        )
        need(
            not (abs(value - c * alpha) < 1e-9 and abs(slope - (c + b)) < 1e-9),
            f"{given} value and slope have changed places.",
        )
        need(abs(value - (c + b)) < 1e-9, f"{given} the value at r = 1 is wrong.")
        need(abs(slope - alpha) > 1e-9, f"{given} the slope is given as alpha: it is multiplied by something.")
        need(abs(slope - (c + b) * alpha) > 1e-9, f"{given} the slope has b in it: b does not depend on r.")
        need(abs(slope - c * alpha) < 1e-9, f"{given} the slope is wrong.")
