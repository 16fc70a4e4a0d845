"""Answers to the exercises on chapter 02."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def loop(
    model: Any,
    texts: Tensor,
    rate: float,
    steps: int,
    *,
    zero: bool = True,
    step: bool = True,
    shift: bool = False,
    item: bool = True,
    scale: float = 1.0,
    sgd: bool = False,
) -> list:
    kind = torch.optim.SGD if sgd else torch.optim.AdamW
    optimizer = kind(model.parameters(), lr=rate, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        inputs, labels = (texts[:, :-1], texts[:, 1:]) if shift else (texts, texts)
        loss = scale * model(input_ids=inputs, labels=labels).loss
        if zero:
            optimizer.zero_grad()
        loss.backward()
        if step:
            optimizer.step()
        losses.append(loss.item() if item else loss)
    return losses


def train_piles(model: Any, texts: Tensor, rate: float, steps: int) -> list:
    return loop(model, texts, rate, steps, zero=False)


def train_without_step(model: Any, texts: Tensor, rate: float, steps: int) -> list:
    return loop(model, texts, rate, steps, step=False)


def train_shifted_twice(model: Any, texts: Tensor, rate: float, steps: int) -> list:
    return loop(model, texts, rate, steps, shift=True)


def train_keeps_tensors(model: Any, texts: Tensor, rate: float, steps: int) -> list:
    return loop(model, texts, rate, steps, item=False)


def train_sums(model: Any, texts: Tensor, rate: float, steps: int) -> list:
    return loop(model, texts, rate, steps, scale=float(texts[:, 1:].numel()))


def train_by_sgd(model: Any, texts: Tensor, rate: float, steps: int) -> list:
    return loop(model, texts, rate, steps, sgd=True)


def train_last_loss(model: Any, texts: Tensor, rate: float, steps: int) -> float:
    return loop(model, texts, rate, steps)[-1]


def train_with_own_loss(model: Any, texts: Tensor, rate: float, steps: int) -> list:
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        logits = model(input_ids=texts).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), texts[:, 1:].flatten())
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss))
    return losses


Ends = tuple[float, float]


def redrawn(values: Tensor, resamples: int, seed: int, size: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return values[torch.randint(0, len(values), (resamples, size or len(values)), generator=generator)]


def ends(numbers: Tensor, outside: float = 0.025) -> Ends:
    low, high = numbers.quantile(torch.tensor([outside, 1 - outside])).tolist()
    return low, high


def interval_without_replacement(values: Tensor, resamples: int, seed: int) -> Ends:
    generator = torch.Generator().manual_seed(seed)
    return ends(torch.stack([values[torch.randperm(len(values), generator=generator)].mean() for _ in range(200)]))


def interval_of_values(values: Tensor, resamples: int, seed: int) -> Ends:
    return ends(redrawn(values, resamples, seed).flatten()[:10_000])


def interval_of_90(values: Tensor, resamples: int, seed: int) -> Ends:
    return ends(redrawn(values, resamples, seed).mean(1), 0.05)


def interval_of_small_sets(values: Tensor, resamples: int, seed: int) -> Ends:
    return ends(redrawn(values, resamples, seed, size=20).mean(1))


def interval_reversed(values: Tensor, resamples: int, seed: int) -> Ends:
    low, high = ends(redrawn(values, resamples, seed).mean(1))
    return high, low


def interval_unseeded(values: Tensor, resamples: int, seed: int) -> Ends:
    return ends(values[torch.randint(0, len(values), (resamples, len(values)))].mean(1))


def interval_by_sorting(values: Tensor, resamples: int, seed: int) -> Ends:
    means = sorted(row.mean().item() for row in redrawn(values, resamples, seed))
    return means[int(0.025 * resamples)], means[int(0.975 * resamples) - 1]


def train_with_new_optimizers(model: Any, texts: Tensor, rate: float, steps: int) -> list:
    return [loop(model, texts, rate, 1)[0] for _ in range(steps)]


def train_one_text_a_step(model: Any, texts: Tensor, rate: float, steps: int) -> list:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    losses = []
    for step in range(steps):
        text = texts[[step % len(texts)]]
        loss = model(input_ids=text, labels=text).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def train_notes_later(model: Any, texts: Tensor, rate: float, steps: int) -> list:
    losses = loop(model, texts, rate, steps)
    return [*losses[1:], losses[-1]]


def interval_of_columns(values: Tensor, resamples: int, seed: int) -> Ends:
    return ends(redrawn(values, resamples, seed).mean(0))


def interval_without_last(values: Tensor, resamples: int, seed: int) -> Ends:
    generator = torch.Generator().manual_seed(seed)
    return ends(values[torch.randint(0, len(values) - 1, (resamples, len(values)), generator=generator)].mean(1))


WRONG: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "train": [
        (train_piles, "set them to zero"),
        (train_without_step, "No weight has changed: after backward()"),
        (train_shifted_twice, "shift the labels themselves"),
        (train_keeps_tensors, "store loss.item()"),
        (train_sums, "is it a sum"),
        (train_by_sgd, "which optimizer do you use"),
        (train_last_loss, "a list with the loss of every step"),
        (train_with_new_optimizers, "make it once"),
        (train_one_text_a_step, "that of a single text"),
        (train_notes_later, "after its first update"),
    ],
    "bootstrap_interval": [
        (interval_without_replacement, "*with* replacement"),
        (interval_of_values, "of the *means*"),
        (interval_of_90, "2.5 % at each end"),
        (interval_of_small_sets, "as many values as there were"),
        (interval_reversed, "the lower end comes first"),
        (interval_unseeded, "make a generator from the seed"),
        (interval_of_columns, "Which dimension is the mean taken over"),
        (interval_without_last, "is the last value ever drawn"),
    ],
}

RIGHT: dict[str, Callable[..., Any]] = {
    "train": train_with_own_loss,
    "bootstrap_interval": interval_by_sorting,
}
