"""What can a filter do that is made anew for each token? Three tasks of recall, and what a filter costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from hyperfit_course.labs.tiny import Conv, Tiny, TinyConfig
from hyperfit_course.labs.tiny_training import Training, train_tiny
from hyperfit_course.study.recording import Row, Task

A, B, FILLER = range(3)
"""Marks: the first or the second candidate of a unit is its key; nothing to see here."""
MARKS = 4
KINDS = ("plain", "gapped", "selecting")
SEEDS = (0, 1, 2, 3, 4)
STEPS = 300
RATE = 4e-3
WIDTH, HIDDEN = 64, 170
HELD_OUT = 10**6  #: Seed of the sequences that accuracy is measured on.


@dataclass(frozen=True)
class Recall:
    """Multi-query associative recall: pairs of a key and a value, then the keys again; each asks for its value.

    The simple case of the task of Arora et al. (2023), with uniform gaps, and two that are harder:

    - *plain*: each unit is a key and its value;
    - *gapped*: 0 to 2 fillers stand between them; the key tells how many;
    - *selecting*: a unit is two candidates, a value and a mark. The mark says which candidate is the key. The other one
      is the key of another unit.
    """

    kind: str
    units: int = 8
    keys: int = 64
    values: int = 64
    batch: int = 64

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"There is no recall {self.kind!r}: choose from {', '.join(KINDS)}.")
        if not 2 <= self.units <= self.keys or self.values < 2:
            raise ValueError(f"{self.units} units need 2 values and as many keys, and there are {self.keys} keys.")

    @property
    def vocabulary(self) -> int:
        """Marks, then keys, then values."""
        return MARKS + self.keys + self.values

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return self.units * (3 if self.kind == "plain" else 5)

    def sequences(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Tokens and targets, shape (count, length); a target of -100 asks for nothing."""
        keys = MARKS + torch.rand(count, self.keys, generator=generator).argsort(1)[:, : self.units]
        values = MARKS + self.keys + torch.randint(self.values, keys.shape, generator=generator)
        order = torch.rand(keys.shape, generator=generator).argsort(1)
        units = getattr(self, f"_{self.kind}")(keys, values, generator).flatten(1)
        tokens = torch.cat([units, keys.gather(1, order)], 1)
        targets = torch.cat([torch.full_like(units, -100), values.gather(1, order)], 1)
        return tokens, targets

    def _plain(self, keys: Tensor, values: Tensor, generator: torch.Generator) -> Tensor:
        return torch.stack([keys, values], -1)

    def _gapped(self, keys: Tensor, values: Tensor, generator: torch.Generator) -> Tensor:
        units = torch.full((*keys.shape, 4), FILLER)
        units[..., 0] = keys
        return units.scatter(-1, 1 + (keys - MARKS)[..., None] % 3, values[..., None])

    def _selecting(self, keys: Tensor, values: Tensor, generator: torch.Generator) -> Tensor:
        ring = torch.rand(keys.shape, generator=generator).argsort(1)  # the decoy of each unit is the next one's key
        decoys = torch.empty_like(keys).scatter(1, ring, keys.gather(1, ring.roll(-1, 1)))
        marks = torch.randint(2, keys.shape, generator=generator)
        first, second = torch.where(marks == A, keys, decoys), torch.where(marks == A, decoys, keys)
        return torch.stack([first, second, values, marks], -1)

    def batches(self, seed: int) -> Iterator[tuple[Tensor, ...]]:
        """Batches without end, the same for one seed."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield self.sequences(self.batch, generator)

    def loss(self, model: Tiny, *batch: Tensor) -> Tensor:
        """Mean loss of the answers, in nats."""
        tokens, targets = batch
        return functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())

    def measure(self, model: Tiny) -> Mapping[str, float]:
        """The share of right answers on 512 sequences that are not trained on."""
        tokens, targets = self.sequences(512, torch.Generator().manual_seed(HELD_OUT))
        return {"accuracy": accuracy(model, tokens, targets)}


@torch.no_grad()
def accuracy(model: Tiny, tokens: Tensor, targets: Tensor) -> float:
    """The share of targets that are the most probable token."""
    asked = targets >= 0
    best = model(tokens.to(model.head.device)).argmax(-1).cpu()
    return (best == targets)[asked].double().mean().item()


@dataclass(frozen=True)
class Arm:
    """One way to build the model."""

    name: str
    taps: int = 0  #: 0 for no convolution.
    rank: int = 0  #: 0 for a fixed filter.
    layers: int = 1
    hidden: int = HIDDEN  #: Width of the MLP.
    steps: int = STEPS

    def model(self, recall: Recall, seed: int) -> Tiny:
        """The model before it is trained."""
        conv = Conv(self.taps, self.rank) if self.taps else None
        widths = (WIDTH,) * self.layers
        shape = TinyConfig(recall.vocabulary, recall.length, WIDTH, widths, 2, self.hidden / WIDTH, conv=conv)
        return Tiny(shape, seed)


NONE, STATIC, DYNAMIC = Arm("none"), Arm("static", taps=4), Arm("dynamic, rank 15", taps=4, rank=15)
ARMS: dict[str, tuple[Arm, ...]] = {
    "plain": (NONE, STATIC),
    "gapped": (STATIC, DYNAMIC),
    "selecting": (
        STATIC,
        Arm("static, wide MLP", taps=4, hidden=HIDDEN + 75),  # as many parameters as with dynamic filters of rank 15
        DYNAMIC,
        Arm("dynamic, rank 1", taps=4, rank=1),
        Arm("dynamic, rank 3", taps=4, rank=3),
        Arm("dynamic, 2 taps", taps=2, rank=15),
    ),
}
"""Arms that are compared, with five seeds."""
LONG: dict[str, tuple[Arm, ...]] = {"selecting": (Arm("static, four times the steps", taps=4, steps=4 * STEPS),)}
"""The same, and long: recorded last."""
ASIDE: dict[str, tuple[Arm, ...]] = {
    "plain": (
        DYNAMIC,
        Arm("none, 2 layers", layers=2),
        Arm("none, 2 layers, four times the steps", layers=2, steps=4 * STEPS),
    ),
    "gapped": (NONE,),
    "selecting": (NONE, Arm("static, 2 layers", taps=4, layers=2), Arm("dynamic, 3 taps", taps=3, rank=15)),
}
"""Arms for a look, with one seed."""


def conv_cost(width: int, rank: int, taps: int) -> int:
    """Parameters of one dynamic convolution, which are also its multiplications a token."""
    return width * rank + rank * taps * width + taps * width


def run(arm: Arm, kind: str, seed: int) -> Iterator[Row]:
    """Train one model and give its row, with its accuracy at every twelfth of the steps (the row's ``curve``)."""
    recall = Recall(kind)
    model = arm.model(recall, seed)
    history = train_tiny(model, recall, Training(arm.steps, RATE, measure_every=arm.steps // 12, seed=seed))
    curve = history.dropna(subset="accuracy")
    yield {
        "task": kind,
        "arm": arm.name,
        "seed": seed,
        "parameters": sum(each.numel() for each in model.parameters()),
        "accuracy": round(curve["accuracy"].iloc[-1], 4),
        "seconds": round(curve["seconds"].iloc[-1], 2),
        "curve": curve["accuracy"].round(4).tolist(),
    }


def tasks() -> list[Task]:
    """What is recorded: one seed after the other, the arms that are compared first."""
    wanted = [*((ARMS, seed) for seed in SEEDS), (ASIDE, SEEDS[0]), *((LONG, seed) for seed in SEEDS)]
    return [
        Task(
            f"{kind} recall, {arm.name}, seed {seed}",
            {"recall": asdict(Recall(kind)), "arm": asdict(arm), "width": WIDTH, "learning_rate": RATE, "seed": seed},
            partial(run, arm, kind, seed),
        )
        for group, seed in wanted
        for kind, arms in group.items()
        for arm in arms
    ]
