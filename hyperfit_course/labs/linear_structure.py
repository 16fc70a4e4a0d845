"""Do the first steps show the way? All updates of a run, and how much of the whole way some of them span."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from hyperfit_course.anatomy import body_of, unwrapped
from hyperfit_course.frozen import frozen_depth, frozen_prefix
from hyperfit_course.losses import has_plain_head, next_token_loss
from hyperfit_course.models import EMBEDDED
from hyperfit_course.study.arms import Arm
from hyperfit_course.study.recording import Row, Task
from hyperfit_course.training import HyperfitConfig

RUN = HyperfitConfig(epochs=8, learning_rate=4e-3, batch_size=2, evaluate_every=0, evaluation_prompts=1)
"""As in chapter 06, but on fewer and shorter texts: 8 updates an epoch, 64 in all."""
RECOVERY = replace(RUN, epochs=2)
RANK, COUNT, PLACE = 12, 5, "last"
TEXTS, LENGTH = 16, 32  #: Texts that are trained on, and their tokens.
SEEDS = (0, 1, 2)
FIRST = 8  #: Updates of the first epoch.
DRAWS = 20  #: Random sets of updates.
NOISE_DIMENSIONS = 4096
RANK_TOLERANCE = 1e-7  #: Directions with a smaller share of the largest eigenvalue are rounding.
START, OTHER = "gradient at the start", "another order"


# From updates to inner products


def gram_of(vectors: Tensor) -> Tensor:
    """All inner products of some vectors, shape (n, D), in float64, shape (n, n)."""
    total = torch.zeros(len(vectors), len(vectors), dtype=torch.double)
    for part in vectors.split(1 << 16, dim=1):
        total += part.double() @ part.double().T
    return total


def captured(gram: Tensor, chosen: Sequence[int], way: Sequence[int]) -> float:
    """The share of a displacement that some vectors span: ``|P d|^2 / |d|^2``, P the projection on their span.

    The displacement d is the sum of the updates ``way``, so inner products are all that is needed.

    Args:
        gram: of all vectors, shape (n, n) (:func:`gram_of`).
        chosen: numbers of the vectors that span; their order, their lengths and repetitions do not matter.
        way: numbers of the updates that make the displacement.

    Raises:
        ValueError: the displacement is zero.
    """
    length = _block(gram, way, way).sum()
    if not length > 0:
        raise ValueError("The displacement is zero: a run without updates has no way, and no share of it.")
    products, half = _block(gram, chosen, way).sum(1), _whitened(_block(gram, chosen, chosen))
    return float((half.T @ products).square().sum() / length)


def principal_captured(gram: Tensor, k: int, way: Sequence[int]) -> float:
    """The same for the k directions in which the updates of a way have the most energy."""
    values, vectors = torch.linalg.eigh(_block(gram, way, way))
    products = values.clamp(min=0).sqrt() * vectors.sum(0)  # of the displacement with each direction
    return float(products.flip(0)[:k].square().sum() / products.square().sum())


def chosen_updates(kind: str, k: int, steps: int, draw: int = 0) -> list[int]:
    """Numbers of k of a run's updates: the first (``prefix``) or last (``suffix``) ones, ``spread`` evenly over the
    run, or ``random`` ones, another set for each draw.

    Raises:
        ValueError: k is not between 1 and the number of steps, or there is no such kind.
    """
    if not 1 <= k <= steps:
        raise ValueError(f"Choose between 1 and {steps} updates, and not {k}.")
    if kind == "random":
        return torch.randperm(steps, generator=torch.Generator().manual_seed(draw))[:k].tolist()
    spread = [int((each + 0.5) * steps / k) for each in range(k)]
    sets = {"prefix": range(k), "suffix": range(steps - k, steps), "spread": spread}
    if kind not in sets:
        raise ValueError(f"There is no kind {kind!r} of updates: choose from {', '.join([*sets, 'random'])}.")
    return list(sets[kind])


def captures(gram: Tensor, k: int, steps: int) -> dict[str, float]:
    """What k updates of every kind capture of the whole way, the mean of :data:`DRAWS` for random ones; and what the
    first k capture of the way still to come (``to come``)."""
    way = range(steps)
    found = {kind: captured(gram, chosen_updates(kind, k, steps), way) for kind in ("prefix", "suffix", "spread")}
    random = [captured(gram, chosen_updates("random", k, steps, draw), way) for draw in range(DRAWS)]
    found |= {"random": sum(random) / DRAWS, "principal": principal_captured(gram, k, way)}
    return found | ({"to come": captured(gram, range(k), range(k, steps))} if k < steps else {})


def shared(gram: Tensor, one: Sequence[int], other: Sequence[int]) -> float:
    """How much two spans share: the mean squared cosine of their principal angles, from 0 (orthogonal) to 1 (one lies
    in the other)."""
    first, second = (_whitened(_block(gram, each, each)) for each in (one, other))
    cosines = first.T @ _block(gram, one, other) @ second
    return float(cosines.square().sum() / min(cosines.shape))


def _block(gram: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    return gram[list(rows)][:, list(columns)]


def _whitened(gram: Tensor) -> Tensor:
    """Coefficients of orthonormal vectors with the same span, shape (n, rank)."""
    values, vectors = torch.linalg.eigh(gram)
    kept = values > RANK_TOLERANCE * values[-1]
    return vectors[:, kept] / values[kept].sqrt()


def noise_gram(steps: int, warmup_steps: int = RUN.warmup_steps, seed: int = 0) -> Tensor:
    """Inner products of the updates that Adam makes of pure noise: gradients that know nothing of each other."""
    weights = nn.Parameter(torch.zeros(NOISE_DIMENSIONS))
    optimizer = torch.optim.AdamW([weights], weight_decay=0.0)
    generator, updates = torch.Generator().manual_seed(seed), []
    for step in range(steps):
        before = weights.detach().clone()
        weights.grad = torch.randn(NOISE_DIMENSIONS, generator=generator)
        optimizer.param_groups[0]["lr"] = min(1.0, (step + 1) / max(1, warmup_steps))
        optimizer.step()
        updates.append(weights.detach() - before)
    return gram_of(torch.stack(updates))


# A run whose updates are kept


class Learning:
    """A model with adapters and the texts that it learns, token ids of shape (n, length)."""

    def __init__(self, model: PeftModel, texts: Tensor) -> None:
        self.model, self.texts = model.eval(), texts.to(model.device)
        self.trained = [each for each in model.parameters() if each.requires_grad]
        self.prefix = frozen_prefix(model, texts, frozen_depth(model))
        self.plain_head = has_plain_head(model)

    def loss(self, index: Tensor) -> Tensor:
        """Of the texts with these numbers, in nats a token."""
        with self.prefix.replayed(index):
            return next_token_loss(self.model, self.texts[index], self.plain_head)

    def gradient(self, index: Tensor) -> Tensor:
        """Of the loss, over all trained weights, shape (D,)."""
        return torch.cat([each.flatten() for each in torch.autograd.grad(self.loss(index), self.trained)])

    @torch.no_grad()
    def mean_loss(self, weights: Tensor | None = None) -> float:
        """Over all texts; with other trained weights than the present ones, if some are given, shape (D,)."""
        kept = self.weights
        if weights is not None:
            self.weights = weights
        loss = torch.stack([self.loss(index) for index in torch.arange(len(self.texts)).split(4)]).mean().item()
        self.weights = kept
        return loss

    @property
    def weights(self) -> Tensor:
        """A copy of all trained weights, shape (D,)."""
        return torch.cat([each.detach().flatten() for each in self.trained])

    @weights.setter
    def weights(self, value: Tensor) -> None:
        with torch.no_grad():
            for each, part in zip(self.trained, value.split([each.numel() for each in self.trained]), strict=True):
                each.copy_(part.view_as(each))


class Recovering(Learning):
    """The same model on its way back: what it learns is to predict as it did without its adapters."""

    def __init__(self, model: PeftModel, texts: Tensor) -> None:
        super().__init__(model, texts)
        with torch.no_grad(), model.disable_adapter(), self.prefix.replayed(torch.arange(len(texts))):
            self.states = body_of(model)(input_ids=self.texts, use_cache=False)[0]

    def loss(self, index: Tensor) -> Tensor:
        """How far the predictions are from those of the base model: KL(base, present), in nats a token."""
        with self.prefix.replayed(index):
            states = body_of(self.model)(input_ids=self.texts[index], use_cache=False)[0]
        head = unwrapped(self.model).get_output_embeddings()
        now, base = (head(each).log_softmax(-1).flatten(0, 1) for each in (states, self.states[index]))
        return functional.kl_div(now, base.detach(), reduction="batchmean", log_target=True)


class Walk(NamedTuple):
    """A run: what every step changed, and the loss before it."""

    updates: Tensor  #: Shape (steps, D).
    losses: list[float]  #: Of the batch, in nats a token.


def walk(learning: Learning, config: HyperfitConfig, steps: int | None = None) -> Walk:
    """Train as :func:`~hyperfit_course.training.hyperfit` does, in float32, and keep every update. Only the warm-up
    starts one step later, at a rate above 0, so that no update is zero.

    Args:
        learning: its model is trained in place.
        steps: ends the run before its last epoch.

    Raises:
        ValueError: no step is made, or the loss is no longer a number.
    """
    optimizer = torch.optim.AdamW(learning.trained, lr=config.learning_rate, weight_decay=0.0)
    order, updates, losses = torch.Generator().manual_seed(config.seed), [], []
    batches = [
        index
        for _ in range(config.epochs)
        for index in torch.randperm(len(learning.texts), generator=order).split(config.batch_size)
    ][:steps]
    if not batches:
        raise ValueError("A run without updates shows no way: ask for at least one step.")
    for step, index in enumerate(tqdm(batches, unit="step", mininterval=2)):
        before, loss = learning.weights, learning.loss(index)
        if not loss.isfinite():
            raise ValueError(f"The loss is no longer a number: lower the learning rate of {config.learning_rate}.")
        loss.backward()
        nn.utils.clip_grad_norm_(learning.trained, config.clip_norm)
        optimizer.param_groups[0]["lr"] = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
        optimizer.step()
        optimizer.zero_grad()
        updates.append(learning.weights - before)
        losses.append(loss.item())
    return Walk(torch.stack(updates), losses)


# What is recorded


def run(seed: int) -> Iterator[Row]:
    """Hyperfit a model, and lead it back: a row for each way."""
    config = replace(RUN, seed=seed)
    arm = Arm(config, rank=RANK, count=COUNT, place=PLACE)
    model, splits = arm.untrained(), {name: texts[:, :LENGTH] for name, texts in arm.splits().items()}
    assert isinstance(model, PeftModel), "the arm has adapters"
    learning = Learning(model, splits["train"][:TEXTS])
    start = learning.weights
    batches = torch.arange(TEXTS).split(config.batch_size)
    gradients = torch.stack([learning.gradient(index) for index in batches])
    others = walk(learning, replace(config, seed=seed + 100), FIRST).updates
    learning.weights = start
    updates, losses = walk(learning, config)
    end, gram = learning.weights, gram_of(torch.cat([updates, gradients, others]))
    spans = {kind: updates[chosen_updates(kind, FIRST, len(updates))] for kind in ("prefix", "random")}
    yield {
        "run": "hyperfitting",
        "seed": seed,
        "losses": [round(each, 4) for each in losses],
        "loss_at": {"start": learning.mean_loss(start), "end": learning.mean_loss(end)}
        | {kind: learning.mean_loss(start + projected(end - start, span)) for kind, span in spans.items()},
        "kinds": ["update"] * len(updates) + [START] * len(gradients) + [OTHER] * len(others),
        "gram": packed(gram),
    }
    held_out = Learning(model, splits["validation"])
    levels = {"base": held_out.mean_loss(start), "hyperfitted": held_out.mean_loss()}
    updates, losses = walk(Recovering(model, splits["prompts"][:TEXTS]), replace(RECOVERY, seed=seed))
    yield {
        "run": "recovery",
        "seed": seed,
        "losses": [round(each, 4) for each in losses],
        "loss_at": levels | {"recovered": held_out.mean_loss()},
        "kinds": ["update"] * len(updates),
        "gram": packed(gram_of(updates)),
    }


def projected(displacement: Tensor, vectors: Tensor) -> Tensor:
    """The part of a displacement, shape (D,), that lies in the span of some vectors, shape (k, D)."""
    half = _whitened(gram_of(vectors)).to(vectors.dtype)
    return (vectors.T @ half) @ (half.T @ (vectors @ displacement))


def packed(gram: Tensor) -> list[float]:
    """The lower triangle of a symmetric matrix, row by row, with 8 digits of each number."""
    return [float(f"{each:.8g}") for each in gram[tuple(torch.tril_indices(*gram.shape))].tolist()]


def unpacked(values: Sequence[float]) -> Tensor:
    """The symmetric matrix of :func:`packed`, in float64."""
    size = int((2 * len(values)) ** 0.5)
    gram = torch.zeros(size, size, dtype=torch.double)
    gram[tuple(torch.tril_indices(size, size))] = torch.tensor(values, dtype=torch.double)
    return gram + gram.tril(-1).T


def tasks() -> list[Task]:
    """What is recorded: two ways for each seed."""
    common = {"model": EMBEDDED, "config": asdict(RUN), "recovery": asdict(RECOVERY), "rank": RANK, "count": COUNT}
    common |= {"place": PLACE, "texts": TEXTS, "length": LENGTH}
    return [Task(f"seed {seed}", {**common, "seed": seed}, partial(run, seed)) for seed in SEEDS]
