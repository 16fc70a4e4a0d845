"""Is a gradient step a steering vector? How it moves the states, against the difference of two kinds of prompts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hyperfit_course.anatomy import blocks_of, hidden_state
from hyperfit_course.models import EMBEDDED, load_model
from hyperfit_course.study.recording import Row, Task

TEMPLATE = "The film was {}. In short, the review is"
ANSWERS = (" positive", " negative")
GOOD = ["great", "good", "wonderful", "excellent", "amazing", "perfect", "lovely", "nice"]
BAD = ["terrible", "bad", "awful", "horrible", "boring", "poor", "dull", "sad"]
HELD_OUT = 4  #: Of each kind, the last ones: no step is made for them.
WANTED = 1.0  #: Nats: by how much a step shall raise the log-odds of the first answer.
SMALL = 0.1  #: Nats: the same for the step of which the parts are added.
STEERED = (9, 19, 27)  #: Blocks after which a direction is added.
LARGEST = 3  #: Dimensions that are left out of the second cosine.
DRAWS = 200
TRIES = 20


class Prompts(NamedTuple):
    """Prompts of equal length and the two answers to them."""

    ids: Tensor  #: Token ids, shape (n, length).
    good: Tensor  #: Whether the word is a good one, shape (n,).
    answers: tuple[int, int]  #: Token ids.


def course_prompts(tokenizer: PreTrainedTokenizerBase) -> Prompts:
    """The prompts of the lab: good words, then bad ones.

    Raises:
        ValueError: an answer has several tokens, or the prompts have different lengths.
    """
    rows = [tokenizer(TEMPLATE.format(word))["input_ids"] for word in (*GOOD, *BAD)]
    answers = [tokenizer(answer)["input_ids"] for answer in ANSWERS]
    if {len(answer) for answer in answers} != {1} or len({len(row) for row in rows}) != 1:
        raise ValueError("Choose answers of one token, and words that make prompts of one length.")
    good = torch.arange(len(rows)) < len(GOOD)
    return Prompts(torch.tensor(rows), good, (answers[0][0], answers[1][0]))


def log_odds(model: PreTrainedModel, prompts: Prompts) -> Tensor:
    """How much more probable the first answer is than the second, in nats, shape (n,)."""
    logits = model(input_ids=prompts.ids, use_cache=False).logits[:, -1]
    return logits[:, prompts.answers[0]] - logits[:, prompts.answers[1]]


@torch.no_grad()
def last_states(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """The residual stream after every block at the last token of each prompt, shape (n, blocks, d)."""
    seen: list[Tensor] = []
    with contextlib.ExitStack() as hooks:
        for block in blocks_of(model):
            hooks.enter_context(
                block.register_forward_hook(lambda module, inputs, output: seen.append(hidden_state(output)[:, -1]))
            )
        model(input_ids=ids, use_cache=False)
    return torch.stack(seen, 1)


def label_contrast(states: Tensor, good: Tensor) -> Tensor:
    """Mean of the states with the first label minus that with the second, shape (blocks, d).

    Args:
        states: shape (n, blocks, d).
        good: the labels, shape (n,).

    Raises:
        ValueError: a label is missing.
    """
    if good.all() or not good.any():
        raise ValueError("A contrast needs prompts with both labels, and all of these have the same one.")
    return states[good].mean(0) - states[~good].mean(0)


def answer_contrast(model: PreTrainedModel, prompts: Prompts) -> Tensor:
    """Mean state at the first answer minus that at the second, after the same prompts (Rimsky et al. 2024), shape
    (blocks, d)."""
    first, second = (
        last_states(model, torch.cat([prompts.ids, torch.full((len(prompts.ids), 1), answer)], 1))
        for answer in prompts.answers
    )
    return (first - second).mean(0)


def gradient(model: PreTrainedModel, prompts: Prompts) -> list[Tensor]:
    """Of the mean log-odds of some prompts, for the weights of all blocks."""
    return list(torch.autograd.grad(log_odds(model, prompts).mean(), list(blocks_of(model).parameters())))


@contextlib.contextmanager
def stepped(model: PreTrainedModel, direction: Sequence[Tensor], size: float) -> Iterator[None]:
    """The model with ``size`` times a direction added to the weights of its blocks, which come back exactly."""
    weights: list[Tensor] = list(blocks_of(model).parameters())
    kept = [each.detach().clone() for each in weights]
    with torch.no_grad():
        torch._foreach_add_(weights, list(direction), alpha=size)
        try:
            yield
        finally:
            torch._foreach_copy_(weights, kept)


@torch.no_grad()
def step_size(model: PreTrainedModel, prompts: Prompts, direction: Sequence[Tensor], wanted: float) -> float:
    """The length of a step that raises the mean log-odds by so many nats, up to a tenth, found by trying.

    Raises:
        ValueError: none is found.
    """
    slope = sum(each.square().sum().item() for each in direction)
    size, before = wanted / slope, log_odds(model, prompts).mean()
    for _ in range(TRIES):
        with stepped(model, direction, size):
            change = (log_odds(model, prompts).mean() - before).item()
        if abs(change - wanted) <= 0.1 * wanted:
            return size
        size *= min(2.0, max(0.5, wanted / change)) if change > 0 else 0.5
    raise ValueError(f"No step along this gradient raises the log-odds by {wanted} nats: ask for less.")


@contextlib.contextmanager
def added(model: PreTrainedModel, block: int, vector: Tensor) -> Iterator[None]:
    """The model with a vector, shape (d,), added to the stream after a block, at the last token."""

    def add(module: object, inputs: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        state = hidden_state(output).clone()
        state[:, -1] += vector
        return state if isinstance(output, Tensor) else (state, *output[1:])

    handle = blocks_of(model)[block].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def part(prompts: Prompts, which: Tensor) -> Prompts:
    """Some of the prompts, by their numbers or a mask."""
    return prompts._replace(ids=prompts.ids[which], good=prompts.good[which])


def balanced_signs(count: int, draws: int = DRAWS) -> Tensor:
    """Shuffled labels: rows of as many 1 as -1, shape (draws, count)."""
    ones = torch.cat([torch.ones(count // 2), -torch.ones(count - count // 2)])
    generator = torch.Generator().manual_seed(0)
    return torch.stack([ones[torch.randperm(count, generator=generator)] for _ in range(draws)])


def without_largest(states: Tensor) -> Tensor:
    """For each block whether a dimension is kept: all but the :data:`LARGEST` with the largest mean absolute state,
    shape (blocks, d), from states of shape (n, blocks, d)."""
    size = states.abs().mean(0)
    return torch.ones_like(size).scatter(-1, size.topk(LARGEST).indices, 0.0)


def run() -> Iterator[Row]:
    """Compare the shift by gradient steps with two contrasts: a row a block, and one for each direction added."""
    model, tokenizer = load_model(device="cpu")
    prompts = course_prompts(tokenizer)
    position = torch.cat([torch.arange(len(GOOD)), torch.arange(len(BAD))])
    held = position >= len(GOOD) - HELD_OUT
    training, testing = part(prompts, ~held), part(prompts, held)
    states = last_states(model, prompts.ids)
    before = states[held]
    contrasts = {"label": label_contrast(states[~held], training.good), "answer": answer_contrast(model, training)}
    whole = gradient(model, training)
    with torch.no_grad():
        small = step_size(model, testing, whole, SMALL)
        with stepped(model, whole, small):
            together = last_states(model, testing.ids) - before
    parts = []
    for number in range(len(training.ids)):
        alone = gradient(model, part(training, torch.tensor([number])))
        with stepped(model, alone, small / len(training.ids)):
            parts.append(last_states(model, testing.ids) - before)
    shifts = torch.stack(parts)  # (training prompts, held-out prompts, blocks, d)
    shuffled = torch.einsum("si,ijbd->sjbd", balanced_signs(len(shifts)), shifts)
    masks = {"all dimensions": torch.ones_like(before[0]), "without the largest": without_largest(states)}
    for contrast, vector in contrasts.items():
        for kind, mask in masks.items():
            cosines = functional.cosine_similarity(together * mask, vector * mask, dim=-1)
            null = functional.cosine_similarity(shuffled * mask, vector * mask, dim=-1)
            for block in range(len(vector)):
                yield {
                    "contrast": contrast,
                    "dimensions": kind,
                    "block": block,
                    "cosines": [round(each, 4) for each in cosines[:, block].tolist()],
                    "null": [round(null[:, :, block].quantile(q).item(), 4) for q in (0.025, 0.5, 0.975)],
                }
    yield from _steered(model, testing, whole, contrasts)
    sum_of_parts = functional.cosine_similarity(shifts.sum(0), together, dim=-1)
    yield {"check": "cosine of the added parts with the whole step", "smallest": sum_of_parts.min().item()}


@torch.no_grad()
def _steered(
    model: PreTrainedModel, testing: Prompts, whole: list[Tensor], contrasts: dict[str, Tensor]
) -> Iterator[Row]:
    """What a step does to the log-odds, and what directions of the length of its shift do, added after a block."""
    odds, before = log_odds(model, testing), last_states(model, testing.ids)
    with stepped(model, whole, step_size(model, testing, whole, WANTED)):
        change, shift = log_odds(model, testing) - odds, (last_states(model, testing.ids) - before).mean(0)
    yield {"added": "the step itself", "change": [round(each, 4) for each in change.tolist()]}
    noise = torch.randn(shift.shape, generator=torch.Generator().manual_seed(0))
    for block in STEERED:
        for name, direction in {"shift": shift, **contrasts, "random": noise}.items():
            vector = functional.normalize(direction[block], dim=0) * shift[block].norm()
            with added(model, block, vector):
                change = log_odds(model, testing) - odds
            row = {"added": name, "block": block, "length": shift[block].norm().item()}
            yield row | {"change": [round(each, 4) for each in change.tolist()]}


def tasks() -> list[Task]:
    """What is recorded."""
    words = {"template": TEMPLATE, "answers": list(ANSWERS), "good": GOOD, "bad": BAD, "held_out": HELD_OUT}
    numbers = {"small": SMALL, "wanted": WANTED, "steered": list(STEERED), "draws": DRAWS}
    return [Task("one gradient step", {"model": EMBEDDED, **words, **numbers}, partial(run))]
