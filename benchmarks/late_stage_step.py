"""How much faster is training when the first 25 of 30 blocks are frozen?

Seven ways to train the same model for one epoch on the same 16 texts, 4 at a step, in the same precision:

- ``trainer-lora-all``: the Trainer of transformers and LoRA adapters of PEFT on all blocks;
- ``trainer-lora-last5``: the same with adapters on the last five blocks only;
- ``ours-uncached``: the course's loop on these five blocks, running all blocks at every step;
- ``ours``: the same with the output of the frozen blocks computed once, before the first epoch;
- ``trainer-full``, ``ours-full-plain-loss``, ``ours-full``: all weights, by the Trainer, by the course's loop with
  the loss of transformers, and with the chunked loss.

Time and memory are taken as in train_step.py. ``of_gemm_rate`` is the rate of floating point operations in the
matrix products of one epoch, divided by the rate that a large product alone reaches on this machine. Attention
scores are left out of the count: they are 1 % of it. Writes results/benchmarks.json.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from measuring import save_benchmark, time_in_turn
from torch import nn
from train_step import CONFIG, model_and_splits, ours, trainer

from hyperfit_course import training
from hyperfit_course.anatomy import anatomy
from hyperfit_course.late_stage import late_stage_lora
from hyperfit_course.training import training_precision

RANK = 12


class Way(NamedTuple):
    """One way to train: who trains, how many of the last blocks (all weights if ``None``), and what is left out."""

    train: Callable[..., float]
    lora_blocks: int | None
    cached: bool = False
    chunked: bool = True


WAYS = {
    "trainer-lora-all": Way(trainer, 30, chunked=False),
    "trainer-lora-last5": Way(trainer, 5, chunked=False),
    "ours-uncached": Way(ours, 5),
    "ours": Way(ours, 5, cached=True),
    "trainer-full": Way(trainer, None, chunked=False),
    "ours-full-plain-loss": Way(ours, None, chunked=False),
    "ours-full": Way(ours, None),
}


def seconds_of(way: Way) -> float:
    """Seconds of the second epoch."""
    model, splits = model_and_splits()
    if not way.cached:
        training.frozen_depth = lambda model: 0
    if not way.chunked:
        training.has_plain_head = lambda model: False
    return way.train(late_stage_lora(model, way.lora_blocks, RANK) if way.lora_blocks else model, splits)


def products(way: Way) -> float:
    """Floating point operations of an epoch's matrix products."""
    model, splits = model_and_splits()
    parts = anatomy(model)
    of_block = sum(p.numel() for p in parts.blocks[0].parameters() if p.ndim == 2)
    head = sum(p.numel() for p in parts.head.parameters())
    depth, trained = len(parts.blocks), way.lora_blocks or len(parts.blocks)
    forward = of_block * (trained if way.cached else depth) + head
    to_inputs = of_block * trained + head
    to_weights = 0 if way.lora_blocks else of_block * depth + head
    return 2.0 * splits["train"].numel() * (forward + to_inputs + to_weights)


@torch.no_grad()
def gemm_rate() -> float:
    """Floating point operations a second of a large product in the precision of training: the best of ten."""
    model, _ = model_and_splits()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}[training_precision(model.device)]
    n, layer = 4096, nn.Linear(4096, 4096, bias=False, device=model.device, dtype=dtype)
    inputs, best = torch.randn(n, n, device=model.device, dtype=dtype), float("inf")
    for _ in range(10):
        start = time.perf_counter()
        layer(inputs)[0, 0].item()  # waits for the GPU, where there is one
        best = min(best, time.perf_counter() - start)
    return 2.0 * n**3 / best


def main() -> None:
    """Time the ways in turn and write medians, ratios, peak memory and rates."""
    measured = time_in_turn(str(__doc__), {name: functools.partial(seconds_of, way) for name, way in WAYS.items()})
    rate, (model, splits) = gemm_rate(), model_and_splits()
    rows = [
        {
            "way": name,
            "precision": training_precision(model.device),
            "tokens_an_epoch": splits["train"].numel(),
            "batch_size": CONFIG.batch_size,
            "rank": RANK if WAYS[name].lora_blocks else None,
            "times_ours": round(row["median_seconds"] / measured["ours"]["median_seconds"], 2),
            "gemm_gflops": round(rate / 1e9),
            "of_gemm_rate": round(products(WAYS[name]) / row["median_seconds"] / rate, 2),
            **row,
        }
        for name, row in measured.items()
    ]
    save_benchmark("late_stage", rows)
    for row in rows:
        print(
            "{way:>20}: {median_seconds} s, {times_ours} times ours, {peak_memory_megabytes} MB, "
            "{of_gemm_rate:.0%} of the GEMM rate".format(**row)
        )


if __name__ == "__main__":
    main()
