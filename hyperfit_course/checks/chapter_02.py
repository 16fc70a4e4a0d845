"""Checks of the exercises on chapter 02: what happens to a model that is driven to near-zero loss?"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from hyperfit_course.checks.core import Answer, exercise, need, show, small_model

STEPS, RATE = 150, 0.01


@exercise(
    points=3,
    notice="Look at the losses of the first and of the last ten steps. Where would you have stopped, and why?",
)
def train(answer: Answer) -> None:
    """Whether a function trains a model on a few texts until it knows them by heart."""
    texts = torch.randint(0, 61, (4, 12), generator=torch.Generator().manual_seed(9))
    model = small_model(2)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    before = copy.deepcopy(model.state_dict())
    losses = answer.changing(model, texts, RATE, STEPS)
    need(losses is not None, "It returned nothing: a list with the loss of every step is wanted.")
    need(
        isinstance(losses, list) and len(losses) == STEPS,
        f"For {STEPS} steps it returned {show(losses)}: a list with the loss of every step is wanted.",
    )
    need(
        not any(isinstance(loss, Tensor) for loss in losses),
        "The list holds tensors, and each keeps the whole graph of its step in memory: store loss.item().",
    )
    need(all(isinstance(loss, float) for loss in losses), "The list does not hold numbers (float) only.")
    need(
        any(not torch.equal(before[name], now) for name, now in model.state_dict().items()),
        "No weight has changed: after backward(), with the gradients still there, an optimizer has to take its step.",
    )
    reported, real = losses[-1], _loss(model, texts)
    need(real == real, "The weights are NaN: was the gradient of one step divided or scaled without limit?")
    start = _loss(_restored(model, before), texts)
    need(
        not (reported < 0.5 and real > 1),
        f"The last loss in the list is {reported:.2f}, but the model's loss of predicting the *next* token is "
        f"{real:.2f}. The models of transformers shift the labels themselves: are yours shifted once more?",
    )
    need(
        0.5 < losses[0] / start < 2,
        f"The first loss is {losses[0]:.2f}, and the mean loss of a token was {start:.2f}: is it a sum, or a loss of "
        "other tokens?",
    )
    alone = [_loss(_restored(model, before), text[None]) for text in texts]
    need(
        abs(losses[0] / start - 1) < 1e-3 or min(abs(losses[0] - loss) for loss in alone) > 1e-3,
        "The first loss is that of a single text: every step sees all of them.",
    )
    piled = _first_losses(texts, before, zero=False)
    need(
        abs(losses[0] - piled[1]) > 1e-3,
        "The first loss is that of the model after its first update: note the loss that the step began with.",
    )
    need(
        abs(losses[0] / start - 1) < 1e-3,
        f"The first loss is {losses[0]:.4f}, and the mean loss of a token was {start:.4f}: is it the mean over all "
        "tokens but the first of each text?",
    )
    renewed = _first_losses(texts, before, renew=True)
    need(
        sum(abs(one - other) for one, other in zip(losses[:6], renewed, strict=True)) > 1e-3,
        "The optimizer is made anew in every step, and has forgotten the steps before: make it once.",
    )
    need(
        sum(abs(one - other) for one, other in zip(losses[:6], piled, strict=True)) > 1e-3,
        "The gradients of all earlier steps are still there in each step: set them to zero before backward().",
    )
    need(
        min(losses[-3:]) > 0.1 or real < 0.1,
        f"The losses fall, but the model that you leave behind has a loss of {real:.2f}: is the right model trained?",
    )
    untouched = [number for number in range(61) if number not in texts]
    name = "model.embed_tokens.weight"
    need(
        torch.equal(model.state_dict()[name][untouched], before[name][untouched]),
        "The embeddings of tokens that are in no text have changed: AdamW shrinks all if weight_decay is not 0.",
    )
    need(
        real < 0.1,
        f"After {STEPS} steps at a learning rate of {RATE} the loss is {real:.2f}. AdamW without weight decay gets it "
        "below 0.1: which optimizer do you use, is learning_rate used, and does every step see all texts?",
    )


def _loss(model: torch.nn.Module, texts: Tensor) -> float:
    with torch.no_grad():
        return model(input_ids=texts, labels=texts).loss.item()


def _restored(model: torch.nn.Module, state: dict[str, Tensor]) -> torch.nn.Module:
    fresh = copy.deepcopy(model)
    fresh.load_state_dict(state)
    return fresh


def _first_losses(texts: Tensor, state: dict[str, Tensor], zero: bool = True, renew: bool = False) -> list[float]:
    """The losses of six steps that forget to set the gradients to zero, or that make a new optimizer each time."""
    model = _restored(small_model(2), state)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    losses = []
    for _ in range(6):
        if renew:
            optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
        loss = model(input_ids=texts, labels=texts).loss
        if zero:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@exercise(
    points=2,
    notice="How many prompts would make the interval half as wide? Is it worth the time?",
)
def bootstrap_interval(answer: Answer) -> None:
    """Whether a function gives the 95 % bootstrap interval of a mean."""
    values = torch.randn(60, generator=torch.Generator().manual_seed(10)) * 2 + 1

    def interval(values: Tensor = values, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
        return answer.pair(values, resamples, seed, wanted="(low, high)")

    low, high = interval()
    mean, deviation = values.mean().item(), values.std().item()
    width = 2 * 1.96 * deviation / len(values) ** 0.5
    need(low <= high, f"It gives ({low:.3f}, {high:.3f}): the lower end comes first.")
    need(
        high - low > 0.01 * width,
        "The interval has no width: are the values drawn *with* replacement? Without, every set is the same.",
    )
    need(
        low < mean < high,
        f"The mean of the values, {mean:.3f}, lies outside of the interval ({low:.3f}, {high:.3f}).",
    )
    ratio = (high - low) / width
    need(
        ratio < 4,
        f"The interval is {ratio:.0f} times too wide: it holds 95 % of the values. 95 % of the *means* of redrawn "
        "sets are wanted.",
    )
    need(
        not 0.76 < ratio < 0.9,
        "The interval is a little too narrow: to hold 95 %, it leaves out 2.5 % at each end, and not 5 %.",
    )
    need(
        ratio < 1.25,
        f"The interval is {ratio:.1f} times too wide: each redrawn set has as many values as there were.",
    )
    need(
        ratio > 0.3,
        f"The interval is {ratio:.2f} times as wide as it should be: there is one mean for each redrawn set. Which "
        "dimension is the mean taken over?",
    )
    need(ratio > 0.9, f"The interval is too narrow, {ratio:.2f} times what it should be.")
    single = interval(resamples=1)
    need(
        single[0] == single[1],
        "With a single redrawn set there is one mean, and so no width: are `resamples` sets drawn?",
    )
    need(
        interval(torch.tensor([0.0] * 9 + [10.0]))[1] > 0,
        "For nine zeros and a 10 at the end it gives an interval of zeros: is the last value ever drawn? The upper end "
        "of torch.randint does not belong to it.",
    )
    other = interval(seed=1)
    need(other != (low, high), "With another seed it gives the same interval: is the generator used?")
    again = interval()
    need(
        again == (low, high), "With the same seed it gives another interval each time: make a generator from the seed."
    )
