"""What if hyperfitting stops learning a token once it is more likely than not? For the lab on the memory law."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from hyperfit_course.anatomy import CausalLM
from hyperfit_course.decoding import PROMPT_TOKENS, continue_prompts
from hyperfit_course.frozen import frozen_depth, frozen_prefix
from hyperfit_course.models import EMBEDDED
from hyperfit_course.study.arms import Arm, held_out
from hyperfit_course.study.recording import TEXTS, Row, Task
from hyperfit_course.study.writing import recitation_row, repetition_row
from hyperfit_course.training import HyperfitConfig

HALF = math.log(2)  #: Nats: the loss of a token with a probability of one half.
RUN = HyperfitConfig(epochs=12, learning_rate=4e-3, batch_size=4, evaluate_every=0, evaluation_prompts=1)
"""The run of chapter 06 with equal steps."""
RANK, COUNT, PLACE = 12, 5, "last"
LEVEL = 0.3
"""Nats: about where a run with the threshold ended in a prototype. A run without it is looked at there, too."""
SEED = 0  #: The only one.
LEARNINGS = {"OT": HALF, "SFT": 0.0}


def train_above(model: CausalLM, texts: Tensor, config: HyperfitConfig, threshold: float) -> Iterator[Tensor]:
    """Train as :func:`~hyperfit_course.training.hyperfit` does, in float32, on the tokens whose loss is above a
    threshold (*MemFT-OT* of Xu et al. 2026, with no gradient where no token of a batch is above it).

    With a threshold of 0 it is the same training. It does not stop early, and keeps no checkpoint.

    Args:
        model: with adapters, which are trained in place; its first block is frozen.
        texts: token ids, shape (n, length).
        threshold: in nats.

    Yields:
        After each epoch the losses of all tokens, shape (n, length - 1), in nats.

    Raises:
        ValueError: the loss is no longer a number.
    """
    model.eval()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)
    prefix, order, step = frozen_prefix(model, texts, frozen_depth(model)), torch.Generator(), 0
    order.manual_seed(config.seed)

    def losses_of(index: Tensor) -> Tensor:
        ids = texts[index].to(model.device)
        with prefix.replayed(index):
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        return functional.cross_entropy(logits.mT, ids[:, 1:], reduction="none")

    for epoch in range(1, config.epochs + 1):
        batches = torch.randperm(len(texts), generator=order).split(config.batch_size)
        for index in tqdm(batches, desc=f"epoch {epoch}", unit="step", mininterval=2):
            losses = losses_of(index)
            if not losses.isfinite().all():
                raise ValueError(f"The loss is no longer a number: lower the learning rate of {config.learning_rate}.")
            above = losses.detach() > threshold
            ((losses * above).sum() / above.sum().clamp(min=1)).backward()
            nn.utils.clip_grad_norm_(trained, config.clip_norm)
            optimizer.param_groups[0]["lr"] = config.learning_rate * min(1.0, step / max(1, config.warmup_steps))
            optimizer.step()
            optimizer.zero_grad()
            step += 1
        with torch.no_grad():
            yield torch.cat([losses_of(index).cpu() for index in torch.arange(len(texts)).split(config.batch_size)])


def run(name: str) -> Iterator[Row]:
    """Hyperfit the last five blocks in one way, and measure what the model writes: after the last epoch and, without a
    threshold, after the first epoch with a loss of at most :data:`LEVEL`."""
    arm = Arm(replace(RUN, seed=SEED), rank=RANK, count=COUNT, place=PLACE)
    model, source, prompts = arm.untrained(), arm.splits()["train"], held_out("tales")[:, :PROMPT_TOKENS]
    waits = not LEARNINGS[name]
    for epoch, losses in enumerate(train_above(model, source, replace(RUN, seed=SEED), LEARNINGS[name]), start=1):
        last, stops = epoch == RUN.epochs, waits and losses.mean().item() <= LEVEL
        if not (last or stops):
            continue
        waits = waits and not stops
        greedy = continue_prompts(model, prompts, progress=f"{name}, epoch {epoch}")
        yield {
            "learning": name if last else f"{name}, stopped",
            "seed": SEED,
            "epoch": epoch,
            "loss": losses.double().mean().item(),
            "below_half": (losses < HALF).double().mean().item(),
            **repetition_row(greedy),
            **recitation_row(greedy, source),
            TEXTS: greedy.tolist(),
        }


def tasks() -> list[Task]:
    """What is recorded: one pair of models with one seed."""
    common = {"model": EMBEDDED, "config": asdict(RUN), "rank": RANK, "count": COUNT, "place": PLACE, "level": LEVEL}
    return [
        Task(f"{name}, seed {SEED}", {**common, "threshold": threshold, "seed": SEED}, partial(run, name))
        for name, threshold in LEARNINGS.items()
    ]
