"""How much of a saving is arithmetic? Decoders that are wide at both ends, what they cost, and fair rivals for them."""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from scipy.optimize import brentq
from torch import Tensor
from torch.nn import functional

from hyperfit_course.corpora import load_corpus
from hyperfit_course.labs.tiny import Tiny, TinyConfig
from hyperfit_course.labs.tiny_training import Training, train_tiny
from hyperfit_course.study.recording import Row, Task

MLP = 4.0  #: Hidden width of an MLP, as a multiple of the width of its block.
LAYERS, REFERENCE, HEADS, CONTEXT = 6, 88, 4, 128
UNIT = 2 * HEADS  #: What rotary heads can have as a width.
SEEDS = (0, 1, 2, 3, 4)
STEPS, RATE = 180, 3e-3
WINDOWS = 256  #: Pieces of held-out text.
ELSEWHERE = 1000  #: Added to the seed of the first weights, where a model is to start elsewhere.


def x_widths(
    layers: int, reference: int, unit: int, turn: int | None = None, bottleneck: float = 0.3, mlp: float = MLP
) -> tuple[int, ...]:
    """Widths that fall to a narrow block and rise again, for the parameters of a uniform model (Wu et al. 2026,
    ``solve_hparams.py`` of their code).

    They fall by one factor from block to block, and rise by another one, so that the last is as wide as the first.

    Args:
        reference: width of the uniform model; embedding and head keep it.
        unit: widths are rounded to its multiples.
        turn: the narrowest block, counted from 1; at three quarters of the depth if ``None``.
        bottleneck: its width, as a share of the reference.
        mlp: hidden width of an MLP, as a multiple of the width of its block.

    Raises:
        ValueError: the turn is an end, the bottleneck is no share, or a block would have no width.
    """
    turn = 3 * layers // 4 if turn is None else turn
    if not 1 < turn < layers:
        raise ValueError(f"Widths turn between the first and the last of {layers} blocks, and {turn} is not between.")
    if not 0 < bottleneck < 1:
        raise ValueError(f"A bottleneck is narrower than the reference: give a share of it below 1, not {bottleneck}.")
    down = [min((block - 1) / (turn - 1), (layers - block) / (layers - turn)) for block in range(1, layers + 1)]

    def widths(least: float) -> list[float]:
        shape = [least**share for share in down]
        first = first_width(shape, mlp)
        return [first * each for each in shape]

    least = brentq(lambda least: min(widths(least)) - bottleneck, 0, 1, xtol=1e-12)
    found = tuple(unit * round(reference * width / unit) for width in widths(least))
    if not min(found):
        raise ValueError(f"The narrowest block would be less than half of {unit} wide: give a larger reference.")
    return found


def first_width(shape: Sequence[float], mlp: float = MLP) -> float:
    """The width of the first block, in units of the reference, with which the counted weights are those of a uniform
    model. Not counted are :attr:`Ledger.idle` and :attr:`Ledger.cut`.

    Args:
        shape: widths of all blocks, in units of the first; the last is as wide.
        mlp: hidden width of an MLP, as a multiple of the width of its block.
    """
    uncounted = 3 + mlp  # times (w - 1) w, where w is the width of both ends
    squares = (4 + 3 * mlp) * sum(each**2 for each in shape) - uncounted
    wanted = (4 + 3 * mlp) * len(shape)
    return (math.sqrt(uncounted**2 + 4 * squares * wanted) - uncounted) / (2 * squares)


@dataclass(frozen=True)
class Ledger:
    """What a decoder costs. Norms, rotations and softmax are left out, as in the authors' count."""

    embedding: int  #: Numbers that are looked up and never multiplied.
    matrices: int  #: Weights of the blocks and of the head; each is multiplied once a token.
    idle: int  #: Those of the first queries, keys and values that read coordinates which the embedding does not have.
    cut: int  #: Those of the last MLP that make coordinates which the head does not read; the norm before it does.
    mixing: int  #: Products of queries with keys and of attention with values, a token, for a context without a mask.
    cache: int  #: Numbers that keys and values keep for a token.

    @property
    def parameters(self) -> int:
        """All stored weights."""
        return self.embedding + self.matrices

    def flops(self, left_out: int = 0) -> int:
        """Floating-point operations a token: a product and a sum for each weight, but for those that are left out."""
        return 2 * (self.matrices - left_out + self.mixing)


def ledger(config: TinyConfig) -> Ledger:
    """What a plain decoder with full attention costs at its full context.

    Raises:
        ValueError: it has a window, a convolution or a second MLP, which are not counted here.
    """
    if config.window or config.conv or config.prime:
        raise ValueError("The ledger counts plain decoders: leave out window, convolution and prime MLP.")
    first, last, head = config.widths[0], config.widths[-1], config.embedding
    blocks = sum(4 * width**2 + 3 * width * round(config.mlp * width) for width in config.widths)
    return Ledger(
        embedding=config.vocabulary * head,
        matrices=blocks + config.vocabulary * head,
        idle=3 * first * max(0, first - head),
        cut=round(config.mlp * last) * max(0, last - head),
        mixing=2 * config.context * sum(config.widths),
        cache=2 * sum(config.widths),
    )


def diamond(widths: Sequence[int]) -> tuple[int, ...]:
    """The same widths, narrow at both ends and wide in the middle."""
    ordered = sorted(widths)
    return (*ordered[::2], *reversed(ordered[1::2]))


def shuffled(widths: Sequence[int], seed: int) -> tuple[int, ...]:
    """The same widths between the same two ends, in another order; each of the first seeds gives one of its own.

    Raises:
        ValueError: there is no other order.
    """
    first, *inner, last = widths
    orders = [order for order in sorted(set(itertools.permutations(inner))) if list(order) != inner]
    if not orders:
        raise ValueError("Widths that are all alike have no other order.")
    random.Random(0).shuffle(orders)
    return (first, *orders[seed % len(orders)], last)


@functools.cache
def text(split: str) -> Tensor:
    """The bytes of the encyclopedia and of the news, shape (bytes,)."""
    texts = [each for corpus in ("wiki", "news") for each in load_corpus(corpus)[split]]
    return torch.frombuffer(bytearray("\n\n".join(texts).encode()), dtype=torch.uint8).long()


@dataclass(frozen=True)
class Bytes:
    """Predict the next byte of a text."""

    batch: int = 8

    def windows(self, split: str, starts: Tensor) -> Tensor:
        """Pieces of a text, shape (starts, CONTEXT + 1)."""
        return text(split)[starts[:, None] + torch.arange(CONTEXT + 1)]

    def batches(self, seed: int) -> Iterator[tuple[Tensor, ...]]:
        """Batches without end, the same for one seed."""
        generator, last = torch.Generator().manual_seed(seed), len(text("train")) - CONTEXT
        while True:
            yield (self.windows("train", torch.randint(last, (self.batch,), generator=generator)),)

    def loss(self, model: Tiny, *batch: Tensor) -> Tensor:
        """Mean loss of a batch, in nats a byte."""
        (tokens,) = batch
        return functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    @torch.no_grad()
    def measure(self, model: Tiny) -> Mapping[str, float]:
        """The mean loss on ``WINDOWS`` pieces, evenly spread over texts that are not trained on."""
        starts = torch.linspace(0, len(text("validation")) - CONTEXT - 1, WINDOWS).long()
        parts = self.windows("validation", starts).to(model.head.device).split(64)
        return {"held_out": sum(self.loss(model, part).item() for part in parts) / len(parts)}


@dataclass(frozen=True)
class Arm:
    """One way to give blocks their widths."""

    name: str
    widths: tuple[int, ...]
    embedding: int = REFERENCE
    elsewhere: bool = False  #: Whether it has other first weights than those of its seed.

    @property
    def config(self) -> TinyConfig:
        """The shape of its model."""
        return TinyConfig(256, CONTEXT, self.embedding, self.widths, HEADS, MLP)

    def model(self, seed: int) -> Tiny:
        """The model before it is trained."""
        return Tiny(self.config, seed + ELSEWHERE * self.elsewhere)


UNIFORM = Arm("uniform", (REFERENCE,) * LAYERS)
X = Arm("X", x_widths(LAYERS, REFERENCE, UNIT))


def arms(seed: int) -> tuple[Arm, ...]:
    """What is compared in one seed: the two models, and four controls."""
    narrower = sum(X.widths) // LAYERS
    return (
        UNIFORM,
        X,
        Arm("diamond", diamond(X.widths)),
        Arm("shuffled", shuffled(X.widths, seed)),
        Arm("equal cache", (narrower,) * LAYERS, embedding=narrower),
        Arm("uniform, other start", UNIFORM.widths, elsewhere=True),
    )


def run(arm: Arm, seed: int) -> Iterator[Row]:
    """Train one model and give its row."""
    model = arm.model(seed)
    history = train_tiny(model, Bytes(), Training(STEPS, RATE, seed=seed))
    trained = history.iloc[-1]
    yield {
        "arm": arm.name,
        "seed": seed,
        "widths": list(arm.widths),
        "parameters": sum(each.numel() for each in model.parameters()),
        "held_out": round(trained["held_out"], 5),
        "seconds": round(trained["seconds"], 2),
    }


def tasks() -> list[Task]:
    """What is recorded: one seed after the other."""
    return [
        Task(
            f"{arm.name}, seed {seed}",
            {
                "widths": list(arm.widths),
                "embedding": arm.embedding,
                "elsewhere": arm.elsewhere,
                "heads": HEADS,
                "mlp": MLP,
                "context": CONTEXT,
                "batch": Bytes().batch,
                "texts": ["wiki", "news"],
                "steps": STEPS,
                "learning_rate": RATE,
                "seed": seed,
            },
            partial(run, arm, seed),
        )
        for seed in SEEDS
        for arm in arms(seed)
    ]
