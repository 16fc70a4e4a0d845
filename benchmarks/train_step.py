"""How long does an epoch of hyperfitting take, compared with what one would use otherwise?

Three ways to train the same model for one epoch on the same 16 blocks, interleaved in one process:

- ``ours``: :func:`hyperfit_course.training.hyperfit`;
- ``trainer``: the Trainer of transformers, in the same precision and with the same batches, optimizer and clipping;
- ``float32``: a bare float32 loop of model, loss, AdamW, like the one that Carlsson et al. published.

An epoch is its training steps: loading, evaluation and checkpoints are not counted for any of them. Each way trains
two epochs, and the second counts: the first makes the optimizer's state and compiles kernels. Ratios between the
ways within one run are what counts; the seconds are of one machine. Writes results/benchmarks.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from measuring import peak_memory_megabytes, reset_peak_memory, save_benchmark
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from hyperfit_course.artifacts import CACHE_VARIABLE
from hyperfit_course.corpora import load_corpus, make_blocks
from hyperfit_course.models import load_model
from hyperfit_course.training import HyperfitConfig, hyperfit, training_precision

CONFIG = HyperfitConfig(epochs=2, evaluate_every=2, evaluation_prompts=1)


def ours(model: PreTrainedModel, blocks: dict[str, Tensor]) -> float:
    """Seconds of the second epoch of the course's loop."""
    few = blocks | {"validation": blocks["validation"][:1], "prompts": blocks["prompts"][:1]}
    cache = os.environ.get(CACHE_VARIABLE)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE_VARIABLE] = folder  # a fresh cache: the run must not be found there
        try:
            return float(hyperfit(model, few, CONFIG).iloc[-1]["seconds"])
        finally:
            os.environ.pop(CACHE_VARIABLE)
            if cache is not None:
                os.environ[CACHE_VARIABLE] = cache


class _EpochTimer(TrainerCallback):
    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.perf_counter() - self.start


def trainer(model: PreTrainedModel, blocks: dict[str, Tensor]) -> float:
    """Seconds of the second epoch of the Trainer, with its defaults except for what the recipe sets."""
    precision, timer = training_precision(model.device), _EpochTimer()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=CONFIG.epochs,
            per_device_train_batch_size=CONFIG.batch_size,
            learning_rate=CONFIG.learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=CONFIG.warmup_steps,
            weight_decay=0.0,
            max_grad_norm=CONFIG.clip_norm,
            bf16=precision == "bf16",
            fp16=precision == "fp16",
            use_cpu=model.device.type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        rows = [{"input_ids": row, "labels": row} for row in blocks["train"]]
        Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[timer]).train()
    return timer.seconds


def float32(model: PreTrainedModel, blocks: dict[str, Tensor]) -> float:
    """Seconds of the second epoch of a bare float32 loop."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=CONFIG.learning_rate)
    model.train()
    for _ in range(CONFIG.epochs):
        start = time.perf_counter()
        for index in torch.randperm(len(blocks["train"])).split(CONFIG.batch_size):
            batch = blocks["train"][index].to(model.device)
            optimizer.zero_grad()
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
    return time.perf_counter() - start


WAYS: dict[str, Callable[[PreTrainedModel, dict[str, Tensor]], float]] = {
    "ours": ours,
    "trainer": trainer,
    "float32": float32,
}


def main() -> None:
    """Time the three ways in turn and write the medians, the ratios and the peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="how often each way is timed (default: 5)")
    runs = parser.parse_args().runs
    model, tokenizer = load_model()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    blocks = make_blocks(load_corpus("tales"), tokenizer, n_train=16)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    memory: dict[str, list[float]] = {name: [] for name in WAYS}
    for run in range(1, runs + 1):
        for name, way in WAYS.items():
            model.load_state_dict(start)
            model.zero_grad()
            reset_peak_memory()
            seconds[name].append(way(model, blocks))
            memory[name].append(peak_memory_megabytes())
            print(f"run {run}/{runs} {name:>8}: {seconds[name][-1]:.1f} s", flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    precision = training_precision(model.device)
    rows = [
        {
            "way": name,
            "precision": "no" if name == "float32" else precision,
            "tokens_an_epoch": blocks["train"].numel(),
            "batch_size": CONFIG.batch_size,
            "seconds": [round(value, 2) for value in seconds[name]],
            "median_seconds": round(medians[name], 2),
            "times_ours": round(medians[name] / medians["ours"], 2),
            "peak_memory_megabytes": round(max(memory[name]), -1),
        }
        for name in WAYS
    ]
    save_benchmark("train_step", rows)
    for row in rows:
        print("{way:>8}: {median_seconds} s, {times_ours} times ours, {peak_memory_megabytes} MB".format(**row))


if __name__ == "__main__":
    main()
