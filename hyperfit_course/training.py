"""How do you hyperfit? A plain training loop that goes on until the training loss is nearly zero.

Hyperfitting (Carlsson et al., 2025) is ordinary next-token training of all weights, on very few texts, without
weight decay (and here without dropout), and for much longer than anybody would advise. There is no trick in it, so
there is none here: what this module adds is that a run is never lost and never done twice.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import get_constant_schedule_with_warmup

from hyperfit_course import processes
from hyperfit_course.anatomy import CausalLM, blocks_of, unwrapped
from hyperfit_course.artifacts import sha256_tensor
from hyperfit_course.checkpoints import TrainingState, clear_checkpoints, put_weights, trained_weights
from hyperfit_course.decoding import PROMPT_TOKENS
from hyperfit_course.evaluation import evaluate, history_frame
from hyperfit_course.frozen import FrozenPrefix, PrefixError, frozen_depth, frozen_prefix
from hyperfit_course.losses import has_plain_head, next_token_loss
from hyperfit_course.models import HALF, context_length, model_key
from hyperfit_course.optimizers import BITS_VARIABLE, adamw, moment_bits
from hyperfit_course.sources import code_behind

WEIGHTS = "model.safetensors"
HISTORY = "history.json"
PARTS = ("train", "validation", "prompts")


class TrainingError(ValueError):
    """A run cannot start or go on; the message says why and what to do."""


@dataclass(frozen=True)
class HyperfitConfig:
    """What a hyperfitting run depends on, besides the model and the texts.

    Carlsson et al. (2025) train on 2,000 texts for 20 epochs (5,000 steps) at a learning rate of 1e-6. Here there are
    far fewer texts and steps, and the learning rate is higher in turn.
    """

    epochs: int = 8  #: Passes over the training texts, at most.
    learning_rate: float = 1.5e-4  #: Of AdamW, the same in all steps after the warm-up.
    batch_size: int = 4  #: Texts a step.
    warmup_steps: int = 4  #: Steps over which the learning rate rises from 0.
    clip_norm: float = 1.0  #: A longer gradient, over all weights, is scaled to this length.
    target_loss: float = 0.0  #: Stop after the first epoch whose mean loss is at most this; 0 runs all epochs.
    evaluate_every: int = 2
    """Epochs between evaluations, from epoch 0, the state before training. The last epoch is always evaluated; with
    0 it is the only one."""
    evaluation_prompts: int = 8  #: Prompts that are continued greedily at each evaluation.
    seed: int = 0  #: Decides the order of the texts.


def hyperfit(model: CausalLM, splits: Mapping[str, Tensor], config: HyperfitConfig) -> pd.DataFrame:
    """Train all weights of ``model`` that require gradients, in place, until its training loss is nearly zero.

    AdamW without weight decay (:func:`~hyperfit_course.optimizers.adamw`), dropout off, gradients clipped, bfloat16
    autocast where the hardware has it (float16 with loss scaling on older GPUs, float32 elsewhere). Leading blocks
    that are frozen run once, and not at every step (:class:`~hyperfit_course.frozen.FrozenPrefix`). A model in bfloat16
    or float16 multiplies in that, and what is trained of it is made float32 and stays so: most steps are too small to
    change a number of two bytes.

    The trained weights are kept in the cache under a key of the model, the texts, the configuration and the code. The
    same call, later or in another notebook, loads them instead of training again. A run that was killed goes on from
    the end of its last finished epoch, and ends with the weights that it would have had anyway on that machine.

    Several processes (``accelerate launch --multi_gpu``, or ``torchrun``; on CPUs too) divide the texts of each step
    among them. The steps are those of one process, up to rounding, so they share its place in the cache. With
    ``--use_fsdp`` they divide gradients and moments as well, and weights that are at work.

    Args:
        model: a causal language model, or one with adapters
            (:func:`~hyperfit_course.late_stage.late_stage_lora`); it is changed.
        splits: token ids ``{"train": (n, length), "validation": (m, length), "prompts": (k, length)}``, from
            :func:`~hyperfit_course.corpora.make_texts`.
        config: the settings of the run.

    Returns:
        The history, one row an epoch, 0 being the model before training: ``epoch``, ``seconds``, ``running_loss``
        (mean over the epoch's steps), and for evaluated epochs ``train_loss``, ``validation_loss``, ``entropy``
        (all in nats), ``ttr`` and ``bigram_repetition`` (:mod:`~hyperfit_course.evaluation`).

    Raises:
        TrainingError: the settings do not fit the texts or the model, nothing in the model is trainable, or the loss
            is no longer a number.
        OptimizerError: moments of 8 bits are asked for and cannot be had.
        ProcessError: Accelerate was asked for what this loop cannot do.
        CacheError: the disk is full or read-only, or another machine does not see it.
    """
    precision = HALF.get(unwrapped(model).dtype) or training_precision(model.device)
    _check(model, splits, config, precision)
    processes.check_processes(model.device)
    if moment_bits(model.device) != 32 and processes.divides_models():
        raise TrainingError(
            f"Moments of 8 bits are not divided among processes: unset {BITS_VARIABLE}, or use no FSDP."
        )
    trained_now = False

    def key() -> dict[str, Any]:
        return {
            "code": code_behind(__name__),
            "model": model_key(model),
            "trained": sorted(trained_weights(model)),
            "texts": {split: sha256_tensor(texts) for split, texts in sorted(splits.items())},
            "config": asdict(config),
            "precision": precision,
            "moments": moment_bits(model.device),
            "device": model.device.type,
        }

    def train(work: Path) -> None:
        nonlocal trained_now
        trained_now = True
        _to_float32(model)
        _train(model, splits, config, precision, work)

    folder = processes.artifact_of_all("hyperfitted", key, train)
    history = history_frame(json.loads((folder / HISTORY).read_text(encoding="utf-8")))
    if not trained_now:
        _to_float32(model)
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            put_weights(model, file.get_tensor)
        minutes = history["seconds"].sum() / 60
        processes.say(f"Loaded from the cache: this run was done before, in {minutes:.1f} minutes of training.")
    return history


def _to_float32(model: CausalLM) -> None:
    """Hold what is trained in float32."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def training_precision(device: torch.device) -> str:
    """Precision of the matrix products in training, in Accelerate's words: ``bf16``, ``fp16`` or ``no`` (float32).

    Accelerate's environment variable ``ACCELERATE_MIXED_PRECISION`` decides, where it is set. Otherwise bfloat16 is
    taken where the hardware computes in it; emulated, it is many times slower than float32.
    """
    if wanted := os.environ.get("ACCELERATE_MIXED_PRECISION"):
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    has = torch.cpu.get_capabilities() if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") else "no"


def arithmetic(device: torch.device) -> str:
    """What a training computes in, for tables: its precision, and the moments where they are not of 32 bits."""
    return training_precision(device) + ("" if moment_bits(device) == 32 else ", moments of 8 bits")


def _check(model: CausalLM, splits: Mapping[str, Tensor], config: HyperfitConfig, precision: str) -> None:
    if not trained_weights(model):
        raise TrainingError(
            "Nothing in the model is trainable: set requires_grad of some parameters, or put adapters on it."
        )
    if missing := [part for part in PARTS if part not in splits or not len(splits[part])]:
        raise TrainingError(f"There are no texts for {missing[0]!r}: make all three parts with make_texts.")
    count, size = splits["train"].shape
    prompts, prompt_size = splits["prompts"].shape
    if size > (most := context_length(model)):
        raise TrainingError(f"Texts of {size} tokens exceed the model's context of {most}: cut shorter ones.")
    known = len(unwrapped(model).get_input_embeddings().weight)  # type: ignore[arg-type]
    largest = max(int(splits[part].max()) for part in PARTS)
    if largest >= known:
        raise TrainingError(f"The texts have a token {largest}, and the model knows {known}: use its own tokenizer.")
    if not 1 <= config.batch_size <= count:
        raise TrainingError(
            f"batch_size has to be from 1 to {count}, the number of training texts, not {config.batch_size}."
        )
    weights = {(parameter.dtype, parameter.requires_grad) for parameter in model.parameters()}
    if any({(dtype, True), (dtype, False)} <= weights for dtype in HALF):
        raise TrainingError("Of weights in half precision, all train or none: load them in float32, or train adapters.")
    if precision not in ("no", "bf16", "fp16"):
        raise TrainingError(f"ACCELERATE_MIXED_PRECISION is {precision!r}: set it to no, bf16 or fp16.")
    if precision == "fp16" and model.device.type != "cuda":
        raise TrainingError("Training in float16 needs an NVIDIA GPU: choose bfloat16 or float32 for it and the model.")
    if config.epochs < 1 or not config.learning_rate > 0:
        raise TrainingError("epochs and learning_rate must be positive.")
    if config.evaluate_every < 0:
        raise TrainingError("evaluate_every must be 0 (evaluate only the last epoch) or a number of epochs.")
    if prompts < config.evaluation_prompts or prompt_size < PROMPT_TOKENS:
        raise TrainingError(
            f"The evaluation continues {config.evaluation_prompts} prompts of {PROMPT_TOKENS} tokens, and there are "
            f"{prompts} of {prompt_size}: make more or longer ones, or lower evaluation_prompts."
        )


def _cached_prefix(model: CausalLM, train: Tensor, batch_size: int) -> FrozenPrefix | None:
    """What the frozen blocks before the first trained one put out; nothing where there are none."""
    depth = frozen_depth(model)
    try:
        return frozen_prefix(model, train, depth, batch_size) if depth else None
    except PrefixError as error:
        processes.say(f"Every step runs all blocks. {error}")
        return None


class _LossOf(nn.Module):
    """The loss of a model as a module, which Accelerate can prepare."""

    def __init__(self, model: CausalLM, plain_head: bool) -> None:
        super().__init__()
        self.model, self.plain_head = model, plain_head

    def forward(self, texts: Tensor) -> Tensor:
        return next_token_loss(self.model, texts, self.plain_head)


def _train(model: CausalLM, splits: Mapping[str, Tensor], config: HyperfitConfig, precision: str, work: Path) -> None:
    """Train from the last checkpoint in ``work``, or from the start, and leave weights and history there."""
    processes.keep_freed_memory()
    loading = DataLoaderConfiguration(split_batches=True)  # or the schedule would move by one a process at each step
    accelerator = Accelerator(mixed_precision=precision, cpu=model.device.type == "cpu", dataloader_config=loading)
    model.eval()  # switches dropout off everywhere; gradients are not affected
    parts = copy.deepcopy(model) if processes.divides_models() else model  # `model` stays whole, to be evaluated
    loss_of = processes.of_all_processes(accelerator, _LossOf(parts, has_plain_head(model)), blocks_of(parts))
    trained = [parameter for parameter in parts.parameters() if parameter.requires_grad]
    optimizer = adamw(trained, config.learning_rate)
    schedule = get_constant_schedule_with_warmup(optimizer, config.warmup_steps)
    optimizer, schedule = accelerator.prepare(optimizer, schedule)
    state = TrainingState(parts, optimizer, schedule, accelerator.scaler, torch.Generator().manual_seed(config.seed))
    history = state.resume(work)
    if not history:
        before = evaluate(model, splits, config.evaluation_prompts) if config.evaluate_every else {}
        history.append({"epoch": 0, "seconds": 0.0} | before)

    train, done = splits["train"], len(history) - 1
    with accelerator.autocast():
        prefix = _cached_prefix(model, train, config.batch_size) if parts is model else None
    steps = math.ceil(len(train) / config.batch_size)
    shown: dict[str, Any] = {"desc": "hyperfit", "unit": "step", "mininterval": 1.0, "disable": not processes.is_main()}
    bar = tqdm(total=config.epochs * steps, initial=done * steps, **shown)
    for epoch in range(done + 1, config.epochs + 1):
        start, total = time.perf_counter(), 0.0
        for index in torch.randperm(len(train), generator=state.order).split(config.batch_size):
            mine, weight = processes.my_share(index)
            with accelerator.autocast(), prefix.replayed(mine) if prefix else contextlib.nullcontext():
                loss = weight * loss_of(train[mine].to(model.device))
            accelerator.backward(loss)  # of several processes, the mean of their gradients
            norm = processes.whole(accelerator.clip_grad_norm_(trained, config.clip_norm))
            loss = accelerator.reduce(loss.detach(), "mean")
            # In float16 some gradients that are not finite are expected: the scaler skips those steps.
            if not loss.isfinite() or (precision != "fp16" and not norm.isfinite()):
                bar.close()
                _stop_diverged(model, state, work, epoch, config.learning_rate)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += loss.item() * len(index)
            bar.update()
            rate = (bar.format_dict["rate"] or 0.0) * train.shape[1] * len(index)
            bar.set_postfix_str(f"epoch {epoch}, loss {loss.item():.3f}, {rate:.0f} tokens/s", False)
        row = {"epoch": epoch, "seconds": time.perf_counter() - start, "running_loss": total / len(train)}
        history.append(row)
        over = epoch == config.epochs or row["running_loss"] <= config.target_loss
        if over or (config.evaluate_every and epoch % config.evaluate_every == 0):
            put_weights(model, trained_weights(parts).__getitem__)
            row |= evaluate(model, splits, config.evaluation_prompts)
        if over:
            break
        state.save(work, history)
    bar.close()
    if processes.is_main():
        clear_checkpoints(work)
        save_file(trained_weights(model), work / WEIGHTS)
        (work / HISTORY).write_text(json.dumps(history), encoding="utf-8")


def _stop_diverged(model: CausalLM, state: TrainingState, work: Path, epoch: int, rate: float) -> NoReturn:
    kept = state.resume(work)
    put_weights(model, trained_weights(state.model).__getitem__)
    after = "There was no earlier epoch to go back to: load the model again."
    if kept:
        after = f"The model is back in its state after epoch {len(kept) - 1}, and so is the checkpoint in {work}."
    raise TrainingError(
        f"The loss or its gradient is no longer a number in epoch {epoch}: lower the learning rate of "
        f"{rate:g}, say to a tenth. {after}"
    )
