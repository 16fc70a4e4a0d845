"""How long does an epoch of hyperfitting take, compared with what one would use otherwise?

Three ways to train all weights of the same model for one epoch on the same 16 texts, 4 at a step as in chapter 02:

- ``ours``: :func:`hyperfit_course.training.hyperfit`;
- ``trainer``: the Trainer of transformers, in the same precision and with the same batches, optimizer and clipping;
- ``float32``: a bare float32 loop of model, loss, AdamW, like the one that Carlsson et al. published.

An epoch is its training steps: loading, evaluation and checkpoints are not counted for any of them. Each way trains
two epochs, and the second counts: the first makes the optimizer's state and compiles kernels. Every measurement is
a process of its own, and the ways take turns. Ratios between the ways within one run are what counts; the seconds
are of one machine. Writes results/benchmarks.json.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from typing import Any

import torch
from measuring import save_benchmark, time_in_turn
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from hyperfit_course import training
from hyperfit_course.anatomy import CausalLM
from hyperfit_course.artifacts import CACHE_VARIABLE
from hyperfit_course.corpora import load_corpus, make_texts
from hyperfit_course.models import load_model
from hyperfit_course.training import HyperfitConfig, hyperfit, training_precision

CONFIG = HyperfitConfig(epochs=2, evaluate_every=2)


@functools.cache
def model_and_splits() -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """The embedded model and the texts that every way trains on."""
    model, tokenizer = load_model()
    return model, make_texts(load_corpus("tales"), tokenizer, n_train=16)


def ours(model: CausalLM, splits: dict[str, Tensor]) -> float:
    """Seconds of the second epoch of the course's loop."""
    training.evaluate = lambda *_: {}  # the other ways do not evaluate either, and its memory would count
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE_VARIABLE] = folder  # a fresh cache: the run must not be found there
        return float(hyperfit(model, splits, CONFIG).iloc[-1]["seconds"])


class _EpochTimer(TrainerCallback):
    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.perf_counter() - self.start


def trainer(model: CausalLM, splits: dict[str, Tensor]) -> float:
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
        rows = [{"input_ids": row, "labels": row} for row in splits["train"]]
        Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[timer]).train()
    return timer.seconds


def float32(model: CausalLM, splits: dict[str, Tensor]) -> float:
    """Seconds of the second epoch of a bare float32 loop."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=CONFIG.learning_rate)
    model.train()
    for _ in range(CONFIG.epochs):
        start = time.perf_counter()
        for index in torch.randperm(len(splits["train"])).split(CONFIG.batch_size):
            batch = splits["train"][index].to(model.device)
            optimizer.zero_grad()
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    """Time the three ways in turn and write the medians, the ratios and the peak memory."""
    ways = {way.__name__: way for way in (ours, trainer, float32)}
    seconds = {name: functools.partial(lambda way: way(*model_and_splits()), way) for name, way in ways.items()}
    measured = time_in_turn(str(__doc__), seconds)
    model, splits = model_and_splits()
    rows = [
        {
            "way": name,
            "precision": "no" if name == "float32" else training_precision(model.device),
            "tokens_an_epoch": splits["train"].numel(),
            "batch_size": CONFIG.batch_size,
            "times_ours": round(row["median_seconds"] / measured["ours"]["median_seconds"], 2),
            **row,
        }
        for name, row in measured.items()
    ]
    save_benchmark("train_step", rows)
    for row in rows:
        print("{way:>8}: {median_seconds} s, {times_ours} times ours, {peak_memory_megabytes} MB".format(**row))


if __name__ == "__main__":
    main()
