"""Can a network write into its own weights while it reads? Test-time training on documents with a secret each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hyperfit_course.labs.tiny import Conv, Tiny, TinyConfig
from hyperfit_course.labs.tiny_training import Training, train_tiny
from hyperfit_course.study.recording import Row, Task

LENGTH = 128  #: Predicted tokens of a document.
CHUNK = 16  #: Tokens between two steps of the inner loop.
WINDOW = 16  #: Positions that windowed attention sees.
KEEP = 0.8  #: Share of steps that follow the permutation.
INNER_RATE = 1.0  #: Of the inner loop, where a model is trained with it.
INNER_RATES = (0.1, 0.3, 1.0, 3.0)  #: Among which one is chosen for models that were trained without it.
STEPS, RATE = 300, 4e-3
SEEDS = (0, 1, 2, 3, 4)
HELD_OUT, VALIDATION = 10**6, 10**6 + 1  #: Seeds of the documents for results, and for the choice of a rate.
WRITES = ("never", "first order", "second order")
"""How the outer loss knows of the inner loop: not at all, as if the inner gradients were constants, or in full."""


@dataclass(frozen=True)
class Documents:
    """Noisy walks, each on a secret permutation of the symbols: the next one is the image of the present one with
    probability ``KEEP``, and else any symbol. How a model is trained on them is said by ``writes``, of ``WRITES``."""

    symbols: int = 16
    writes: str = "never"
    batch: int = 16

    def __post_init__(self) -> None:
        if self.symbols < 2:
            raise ValueError("A secret permutation needs 2 symbols at least.")
        if self.writes not in WRITES:
            raise ValueError(f"A model cannot be trained with writes={self.writes!r}: choose from {', '.join(WRITES)}.")

    def documents(self, count: int, generator: torch.Generator) -> Tensor:
        """Tokens, shape (count, LENGTH + 1)."""
        image = torch.rand(count, self.symbols, generator=generator).argsort(1)
        anything = torch.randint(self.symbols, (count, LENGTH + 1), generator=generator)
        follows = torch.rand(count, LENGTH, generator=generator) < KEEP
        tokens = [anything[:, 0]]
        for step in range(LENGTH):
            secret = image.gather(1, tokens[-1][:, None])[:, 0]
            tokens.append(torch.where(follows[:, step], secret, anything[:, step + 1]))
        return torch.stack(tokens, 1)

    def batches(self, seed: int) -> Iterator[tuple[Tensor, ...]]:
        """Batches without end, the same for one seed."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield (self.documents(self.batch, generator),)

    def loss(self, model: Tiny, *batch: Tensor) -> Tensor:
        """Mean loss of a batch, in nats a token."""
        rate = 0.0 if self.writes == "never" else INNER_RATE
        return read(model, batch[0], rate, second_order=self.writes == "second order").mean()

    def measure(self, model: Tiny) -> Mapping[str, float]:
        """Nothing: :func:`run` measures the trained model."""
        return {}


def floor(symbols: int, keep: float = KEEP) -> float:
    """Entropy of the next symbol for who knows the permutation, in nats."""
    other = (1 - keep) / symbols
    image = keep + other
    return -image * math.log(image) - ((symbols - 1) * other * math.log(other) if other else 0.0)


def read(model: Tiny, tokens: Tensor, rate: float, chunk: int = CHUNK, second_order: bool = True) -> Tensor:
    """Read documents chunk by chunk. After each chunk, a gradient step on its loss changes the prime MLP (Tandon et al.
    2025), of which every document has its own copy.

    A chunk's loss is taken before its step. No key or value depends on the prime MLP, since it comes after the last
    attention: so all attention is computed at once.

    Args:
        model: with a prime MLP, and with blocks of one width.
        tokens: shape (documents, length + 1).
        rate: of the steps; 0 takes none.
        chunk: tokens between two steps, which divides the length.
        second_order: whether gradients flow through the inner gradients.

    Returns:
        The loss of every token, in nats, shape (documents, length).

    Raises:
        ValueError: the chunk does not divide the length, or a window is smaller than it, so that tokens would be seen
            neither by attention nor by the weights.
    """
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    if chunk < 1 or inputs.shape[1] % chunk:
        raise ValueError(f"Chunks of {chunk} tokens do not divide a document of {inputs.shape[1]}.")
    if (window := model.config.window) is not None and rate and window < chunk < inputs.shape[1]:
        raise ValueError(f"A window of {window} forgets tokens before a chunk of {chunk} is written: make it as large.")
    blocks: list[Any] = list(model.blocks)
    *before, last = blocks
    states = model.embedding(inputs)
    for block in before:
        states = block(states)
    states = last.attention(states)
    weights = tuple(each.expand(len(tokens), -1, -1) for each in last.prime.weights())
    losses = []
    for part, wanted in zip(states.split(chunk, 1), targets.split(chunk, 1), strict=True):
        logits = model.read([last.feed(part, weights)])
        losses.append(functional.cross_entropy(logits.mT, wanted, reduction="none"))
        if rate and len(losses) * chunk < inputs.shape[1]:
            weights = inner_step(weights, losses[-1].mean(1), rate, second_order)
    return torch.cat(losses, 1)


def inner_step(weights: tuple[Tensor, ...], losses: Tensor, rate: float, second_order: bool) -> tuple[Tensor, ...]:
    """One step of gradient descent for each document, its gradient clipped to length 1.

    Args:
        weights: each of shape (documents, out, in).
        losses: one a document, shape (documents,).
    """
    gradients = torch.autograd.grad(losses.sum(), weights, create_graph=second_order, retain_graph=True)
    length = torch.stack([each.square().sum((1, 2)) for each in gradients]).sum(0).sqrt()
    scale = (rate / length.clamp(min=1.0))[:, None, None]
    return tuple(weight - scale * each for weight, each in zip(weights, gradients, strict=True))


def measured(model: Tiny, tokens: Tensor, rate: float) -> Tensor:
    """The losses of :func:`read`, for a trained model: a graph is made for the inner steps only."""
    return torch.cat([read(model, some, rate, second_order=False).detach() for some in tokens.split(64)])


def sightings(tokens: Tensor, window: int = WINDOW) -> Tensor:
    """How often the present symbol was seen before, beyond the window, shape (documents, length); -1 where the window
    holds an earlier sighting."""
    inputs = tokens[:, :-1]
    same = (inputs[:, :, None] == inputs[:, None, :]).tril(-1)
    within = same.triu(-window + 1).any(-1)
    return same.tril(-window).sum(-1).masked_fill(within, -1)


@dataclass(frozen=True)
class Arm:
    """One way to build and train the model."""

    name: str
    writes: str = "never"
    window: int | None = WINDOW
    taps: int = 0  #: Of a fixed convolution on queries, keys and values; 0 for none.

    def model(self, symbols: int, seed: int) -> Tiny:
        """The model before it is trained. A convolution starts as the mean of two neighbours, nearly."""
        conv = Conv(self.taps) if self.taps else None
        shape = TinyConfig(symbols, LENGTH, 48, (48, 48), 3, 2.0, window=self.window, conv=conv, prime=True)
        model = Tiny(shape, seed)
        for name, parameter in model.named_parameters():
            if name.endswith("static"):
                parameter.data.mul_(0.1).add_(torch.tensor([[-0.5], [0.5]]))
        return model


WINDOWED, E2E = Arm("window"), Arm("E2E", writes="second order")
SHIFTED = Arm("full attention + convolution", window=None, taps=2)
ARMS: dict[int, tuple[Arm, ...]] = {16: (WINDOWED, E2E, SHIFTED)}
"""Arms that are recorded first, by the number of symbols."""
FURTHER: dict[int, tuple[Arm, ...]] = {
    16: (
        Arm("first order", writes="first order"),
        Arm("full attention", window=None),
        Arm("window + convolution", taps=2),
    ),
    64: (E2E, SHIFTED),  # each symbol comes about twice
}
"""Those that are recorded after them."""


def run(arm: Arm, symbols: int, seed: int) -> Iterator[Row]:
    """Train one model and measure it with the inner loop off and on."""
    problem, model = Documents(symbols, arm.writes), arm.model(symbols, seed)
    history = train_tiny(model, problem, Training(STEPS, RATE, seed=seed))
    held_out, validation = (
        problem.documents(count, torch.Generator().manual_seed(number))
        for count, number in ((256, HELD_OUT), (128, VALIDATION))
    )
    rates = INNER_RATES if arm.writes == "never" else (INNER_RATE,)
    rate = min(rates, key=lambda each: measured(model, validation, each)[:, CHUNK:].mean().item())
    off, on = (measured(model, held_out, each) for each in (0.0, rate))
    row: Row = {
        "arm": arm.name,
        "symbols": symbols,
        "seed": seed,
        "parameters": sum(each.numel() for each in model.parameters()),
        "seconds": round(history["seconds"].iloc[-1], 2),
        "inner_rate": rate,
    }
    seen = sightings(held_out)
    for name, losses in (("off", off), ("on", on)):
        row[name] = round(losses[:, CHUNK:].mean().item(), 4)
        row[f"{name}_by_chunk"] = [round(part.mean().item(), 4) for part in losses.split(CHUNK, 1)]
        row[f"{name}_by_sightings"] = [round(losses[seen == count].mean().item(), 4) for count in range(4)]
    yield row


def tasks() -> list[Task]:
    """What is recorded: one seed after the other."""
    return [
        Task(
            f"{symbols} symbols, {arm.name}, seed {seed}",
            {
                "documents": asdict(Documents(symbols)),
                "arm": asdict(arm),
                "steps": STEPS,
                "learning_rate": RATE,
                "length": LENGTH,
                "chunk": CHUNK,
                "seed": seed,
            },
            partial(run, arm, symbols, seed),
        )
        for group in (ARMS, FURTHER)
        for seed in SEEDS
        for symbols, arms in group.items()
        for arm in arms
    ]
