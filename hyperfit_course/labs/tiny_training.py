"""How is a tiny model trained? One trainer for the labs on architectures, in pairs and cached.

Arms of a comparison that have the same seed see the same batches in the same order.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from hyperfit_course.artifacts import artifact
from hyperfit_course.labs.tiny import Tiny
from hyperfit_course.sources import code_behind

HISTORY, WEIGHTS = "history.json", "model.safetensors"


class Problem(Protocol):
    """What a tiny model learns. Its ``repr`` says all that decides its numbers."""

    def batches(self, seed: int) -> Iterator[tuple[Tensor, ...]]:
        """Batches without end, the same for one seed."""

    def loss(self, model: Tiny, *batch: Tensor) -> Tensor:
        """The loss of a batch, in nats a token."""

    def measure(self, model: Tiny) -> Mapping[str, float]:
        """What is measured on the way, on data that are not trained on."""


@dataclass(frozen=True)
class Training:
    """The settings of a run: AdamW (0.9, 0.95), weight decay 0.1 on matrices, warm-up 8 %, cosine to 5 %, clip 1."""

    steps: int
    learning_rate: float
    measure_every: int = 0  #: Steps between measurements; 0 measures the trained model only.
    seed: int = 0  #: Of the batches.

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.learning_rate > 0:
            raise ValueError("A run has at least one step, and a learning rate above 0.")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 1."""
        warm = max(1, round(0.08 * self.steps))
        if step < warm:
            return self.learning_rate * step / warm
        done = (step - warm) / max(1, self.steps - warm)
        return self.learning_rate * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)


def train_tiny(model: Tiny, problem: Problem, training: Training, progress: str | None = None) -> pd.DataFrame:
    """Train a tiny model in place, or load what the same call has trained before.

    Args:
        progress: what the progress bar says; none is shown without it.

    Returns:
        One row a step: ``step``, ``loss``, ``seconds`` (CPU seconds of all steps so far), and what is measured.

    Raises:
        ValueError: the loss is no number any more.
        CacheError: the disk is full or read-only.
    """
    device = model.head.device
    start = {name: zlib.crc32(value.detach().cpu().numpy().tobytes()) for name, value in model.state_dict().items()}
    key: dict[str, Any] = {
        "code": [code_behind(__name__), code_behind(type(problem).__module__)],
        "config": asdict(model.config) | {"widths": list(model.config.widths)},
        "start": start,
        "problem": repr(problem),
        "training": asdict(training),
        "device": device.type,
    }

    def make(work: Path) -> None:
        history = _train(model, problem, training, progress)
        history.to_json(work / HISTORY, orient="records", indent=1)
        save_file(model.state_dict(), work / WEIGHTS)

    folder = artifact("tiny", key, make)
    model.load_state_dict(load_file(folder / WEIGHTS, device=str(device)))
    return pd.read_json(folder / HISTORY, orient="records")


def _train(model: Tiny, problem: Problem, training: Training, progress: str | None) -> pd.DataFrame:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a step is too short to be shared among cores
    try:
        return pd.DataFrame(_steps(model, problem, training, progress))
    finally:
        torch.set_num_threads(threads)


def _steps(model: Tiny, problem: Problem, training: Training, progress: str | None) -> Iterator[dict[str, float]]:
    matrices = [each for each in model.parameters() if each.ndim > 1]
    others = [each for each in model.parameters() if each.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, betas=(0.9, 0.95))
    batches, seconds = problem.batches(training.seed), 0.0
    for step in tqdm(range(1, training.steps + 1), desc=progress, disable=progress is None, mininterval=2):
        started = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = training.rate(step)
        loss = problem.loss(model, *(part.to(model.head.device) for part in next(batches)))
        if not loss.isfinite():
            raise ValueError(f"The loss is no number after {step - 1} steps: try a lower learning rate.")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds += time.process_time() - started
        row = {"step": step, "loss": loss.item(), "seconds": seconds}
        last = step == training.steps
        measured = last or (training.measure_every and step % training.measure_every == 0)
        yield row | (dict(problem.measure(model)) if measured else {})
