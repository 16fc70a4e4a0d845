"""Where do the time and the memory of a full fine-tuning step go, and what can the loss save of them?

One step on 4 of the texts on which the other benchmarks train, with two losses: ``plain``, which holds all logits, as
the Trainer of transformers does, and ``chunked``, the course's.

- Seconds by stage, medians of several steps, in the precision of training on this machine: ``blocks`` (forward, up to
  the final norm), ``loss`` (the chunked one computes its gradients here), ``backward``, ``clip`` and ``optimizer``.
  ``products`` is the time that the matrix products of the step would take at the rate of a large one alone.
- Megabytes of tensors at the moment when most are alive, by kind, in bfloat16 autocast. This is counted and not
  timed, so it is the same on hardware without bfloat16, where the step takes minutes.

What the loss cannot change is the same in both rows: it bounds how much faster and smaller a step can become. Writes
results/benchmarks.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from typing import Any

import torch
from accelerate import Accelerator
from late_stage_step import WAYS, gemm_rate, products
from measuring import save_benchmark
from torch import Tensor
from torch.distributed._tools.mem_tracker import MemTracker
from train_step import CONFIG, model_and_splits
from transformers import PreTrainedModel

from hyperfit_course.anatomy import body_of
from hyperfit_course.losses import next_token_loss
from hyperfit_course.training import training_precision

LOSSES = {"plain": False, "chunked": True}
STEPS = 3
"""Steps that are timed."""


def optimizer_of(model: PreTrainedModel) -> torch.optim.Optimizer:
    """The optimizer of training, after a first step that changes nothing: it has its moments."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def seconds_by_stage(model: PreTrainedModel, batch: Tensor, chunked: bool) -> dict[str, float]:
    """Medians over steps, after one that warms up."""
    accelerator = Accelerator(mixed_precision=training_precision(model.device), cpu=model.device.type == "cpu")
    optimizer, taken = optimizer_of(model), defaultdict(list)
    mark = 0.0

    def end(stage: str) -> None:
        nonlocal mark
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        taken[stage].append(now - mark)
        mark = now

    hook = body_of(model).register_forward_hook(lambda *_: end("blocks"))
    for _ in range(STEPS + 1):
        mark = time.perf_counter()
        with accelerator.autocast():
            loss = next_token_loss(model, batch, chunked)
        end("loss")
        loss.backward()
        end("backward")
        torch.nn.utils.clip_grad_norm_(model.parameters(), CONFIG.clip_norm)
        end("clip")
        optimizer.step()
        optimizer.zero_grad()
        end("optimizer")
    hook.remove()
    return {stage: round(statistics.median(seconds[1:]), 3) for stage, seconds in taken.items()}


def megabytes_by_kind(model: PreTrainedModel, batch: Tensor, chunked: bool) -> dict[str, int]:
    """Tensors of one step in bfloat16 autocast at the moment when most are alive."""
    optimizer, tracker = optimizer_of(model), MemTracker()
    tracker.track_external(model, optimizer)
    with tracker:
        with torch.autocast(model.device.type, torch.bfloat16):
            loss = next_token_loss(model, batch, chunked)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CONFIG.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    kinds = tracker.get_tracker_snapshot("peak")[model.device]
    return {str(getattr(kind, "value", kind)).lower(): round(size / 1e6) for kind, size in kinds.items()}


def main() -> None:
    """Profile the step with both losses."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    model, splits = model_and_splits()
    batch = splits["train"][: CONFIG.batch_size].to(model.device)
    of_products = products(WAYS["ours-full"]) * len(batch) / len(splits["train"]) / gemm_rate()
    rows: list[dict[str, Any]] = []
    for name, chunked in LOSSES.items():
        seconds = seconds_by_stage(model, batch, chunked)
        rows.append(
            {
                "way": f"{name} loss",
                "precision": training_precision(model.device),
                "tokens_a_step": batch.numel(),
                "seconds": seconds | {"all": round(sum(seconds.values()), 3), "products": round(of_products, 3)},
                "megabytes_in_bf16": megabytes_by_kind(model, batch, chunked),
            }
        )
        print("{way}: seconds {seconds}, megabytes {megabytes_in_bf16}".format(**rows[-1]), flush=True)
    save_benchmark("full_step", rows)


if __name__ == "__main__":
    main()
