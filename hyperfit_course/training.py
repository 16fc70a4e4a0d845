"""How do you hyperfit? A plain training loop that goes on until the training loss is nearly zero.

Hyperfitting (Carlsson et al., 2025) is ordinary next-token training of all weights, on very few texts, without
weight decay or dropout, and for much longer than anybody would advise. There is no trick in it, so there is none
here: what this module adds is that a run is never lost and never done twice.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import get_constant_schedule_with_warmup

from hyperfit_course import anatomy, late_stage, losses
from hyperfit_course.anatomy import CausalLM
from hyperfit_course.artifacts import (
    artifact,
    clear_checkpoints,
    code_digest,
    load_checkpoint,
    save_checkpoint,
    sha256_tensor,
)
from hyperfit_course.decoding import NEW_TOKENS, PROMPT_TOKENS, continue_prompts
from hyperfit_course.distributions import predictive_entropy
from hyperfit_course.late_stage import FrozenPrefix, LateStageError, frozen_depth, frozen_prefix
from hyperfit_course.metrics import repetition_frame
from hyperfit_course.models import context_length, fingerprint

WEIGHTS = "model.safetensors"
HISTORY = "history.json"


class TrainingError(ValueError):
    """A run cannot start or go on; the message says why and what to do."""


@dataclass(frozen=True)
class HyperfitConfig:
    """What a hyperfitting run depends on, besides the model and the blocks.

    Carlsson et al. (2025) train on 2,000 sequences for 20 epochs (5,000 steps) at a learning rate of 1e-6. Here there
    are far fewer sequences and steps, and the learning rate is higher in turn.
    """

    epochs: int = 8
    learning_rate: float = 1.5e-4
    batch_size: int = 4
    warmup_steps: int = 4
    clip_norm: float = 1.0
    target_loss: float = 0.0
    """Stop after the first epoch whose mean loss is at most this; 0 runs all epochs."""
    evaluate_every: int = 2
    """Epochs between evaluations, from epoch 0, the state before training. The last epoch is always evaluated; with
    0 it is the only one."""
    evaluation_prompts: int = 8
    """Prompts that are continued greedily at each evaluation."""
    seed: int = 0
    """Decides the order of the blocks."""


def hyperfit(model: CausalLM, blocks: Mapping[str, Tensor], config: HyperfitConfig) -> pd.DataFrame:
    """Train all weights of ``model`` that require gradients, in place, until its training loss is nearly zero.

    AdamW without weight decay, dropout off, gradients clipped, bfloat16 autocast where the hardware has it (float16
    with loss scaling on older GPUs, float32 elsewhere). Leading blocks that are frozen run once, and not at every
    step (:class:`~hyperfit_course.late_stage.FrozenPrefix`).

    The trained weights are kept in the cache under a key of the model's weights, the blocks, the configuration and
    the code. The same call, later or in another notebook, loads them instead of training again. A run that was
    killed goes on from the end of its last finished epoch, and ends with the weights that it would have had anyway
    on that machine.

    Args:
        model: a causal language model, or one with adapters
            (:func:`~hyperfit_course.late_stage.late_stage_lora`); it is changed.
        blocks: token ids ``{"train": (n, size), "validation": (m, size), "prompts": (k, size)}``, from
            :func:`~hyperfit_course.corpora.make_blocks`.
        config: the settings of the run.

    Returns:
        The history, one row an epoch, 0 being the model before training: ``epoch``, ``seconds`` and
        ``running_loss`` (mean over the epoch's steps), and for evaluated epochs the columns of :func:`evaluate`.

    Raises:
        TrainingError: the settings do not fit the blocks or the model, nothing in the model is trainable, or the loss
            is no longer a number.
        CacheError: the disk is full or read-only.
    """
    _check(model, blocks, config)
    precision = training_precision(model.device)
    key = {
        "code": code_digest(sys.modules[__name__], anatomy, late_stage, losses),
        "model": fingerprint(model),
        "trained": sorted(_weights(model)),
        "adapters": _adapters(model),
        "blocks": {split: sha256_tensor(rows) for split, rows in sorted(blocks.items())},
        "config": asdict(config),
        "precision": precision,
        "device": model.device.type,
    }
    trained_now = False

    def train(work: Path) -> None:
        nonlocal trained_now
        trained_now = True
        _train(model, blocks, config, precision, work)

    folder = artifact("hyperfitted", key, train)
    history = pd.DataFrame(json.loads((folder / HISTORY).read_text(encoding="utf-8")))
    if not trained_now:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            _put_weights(model, file.get_tensor)
        minutes = history["seconds"].sum() / 60
        print(f"Loaded from the cache: this run was done before, in {minutes:.1f} minutes of training.")
    return history


def training_precision(device: torch.device) -> str:
    """Precision of the matrix products in training, in Accelerate's words: ``bf16``, ``fp16`` or ``no`` (float32).

    bfloat16 is taken only where the hardware computes in it. Emulated, it is many times slower than float32.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") else "no"
    return "no"


@torch.no_grad()
def evaluate(model: CausalLM, blocks: Mapping[str, Tensor], n_prompts: int, batch_size: int = 4) -> dict[str, float]:
    """Losses, sharpness and repetition of a model.

    Returns:
        ``train_loss`` and ``validation_loss`` (next-token loss in nats), ``entropy`` (of the next-token
        distributions on the validation blocks, in nats), and of the greedy continuations of the first ``n_prompts``
        prompts ``ttr`` and ``bigram_repetition`` (means).
    """
    plain_head = losses.has_plain_head(model)
    train_loss = 0.0
    for batch in blocks["train"].split(batch_size):
        loss = losses.next_token_loss(model, batch.to(model.device), plain_head).item()
        train_loss += loss * len(batch) / len(blocks["train"])
    read = []
    for block in blocks["validation"].to(model.device):
        logits = model(input_ids=block[None], use_cache=False).logits[0, :-1].float()
        read.append((F.cross_entropy(logits, block[1:]).item(), predictive_entropy(logits).mean().item()))
    validation_loss, entropy = np.mean(read, axis=0).tolist()
    continuations = continue_prompts(model, blocks["prompts"][:n_prompts, :PROMPT_TOKENS], NEW_TOKENS)
    repetition = repetition_frame(continuations).mean()
    return {
        "train_loss": train_loss,
        "validation_loss": validation_loss,
        "entropy": entropy,
        "ttr": repetition["ttr"],
        "bigram_repetition": repetition["bigram_repetition"],
    }


def _check(model: CausalLM, blocks: Mapping[str, Tensor], config: HyperfitConfig) -> None:
    if not _weights(model):
        raise TrainingError("Nothing in the model is trainable: every parameter is frozen (requires_grad is False).")
    count, size = blocks["train"].shape
    prompts, prompt_size = blocks["prompts"].shape
    if size > context_length(model):
        raise TrainingError(
            f"Blocks of {size} tokens exceed the model's context of {context_length(model)}: cut shorter blocks."
        )
    if not 1 <= config.batch_size <= count:
        raise TrainingError(f"A batch of {config.batch_size} needs as many blocks, and there are {count} to train on.")
    if config.epochs < 1 or not config.learning_rate > 0:
        raise TrainingError("epochs and learning_rate must be positive.")
    if config.evaluate_every < 0:
        raise TrainingError("evaluate_every must be 0 (evaluate only the last epoch) or a number of epochs.")
    if prompts < config.evaluation_prompts or prompt_size < PROMPT_TOKENS:
        raise TrainingError(
            f"The evaluation continues {config.evaluation_prompts} prompts of {PROMPT_TOKENS} tokens, and the blocks "
            f"hold {prompts} of {prompt_size}: make more or longer ones, or lower evaluation_prompts."
        )


def _adapters(model: CausalLM) -> Any:
    """Settings of the adapters, which their weights do not show: the strength above all."""
    if not isinstance(model, PeftModel):
        return None
    elsewhere = ("base_model_name_or_path", "revision", "inference_mode")
    settings = {
        adapter: {name: value for name, value in config.to_dict().items() if name not in elsewhere}
        for adapter, config in model.peft_config.items()
    }
    return json.loads(json.dumps(settings, default=sorted))  # module names come as sets


def _weights(model: CausalLM) -> dict[str, Tensor]:
    """Every parameter that is trained, once: tied ones appear under one name."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def _put_weights(model: CausalLM, get: Callable[[str], Tensor]) -> None:
    for name, parameter in _weights(model).items():
        parameter.copy_(get(name))
    model.eval()


@dataclass
class _TrainingState:
    """Everything that decides how a run goes on: what a checkpoint has to hold."""

    model: CausalLM
    optimizer: Any
    schedule: Any
    scaler: Any
    order: torch.Generator

    def save(self, work: Path, history: list[dict[str, float]]) -> None:
        state = self.optimizer.state_dict()
        tensors = {f"model.{name}": tensor for name, tensor in _weights(self.model).items()}
        tensors |= {
            f"optimizer.{index}.{name}": tensor
            for index, moments in state["state"].items()
            for name, tensor in moments.items()
        }
        tensors |= {"random.order": self.order.get_state(), "random.torch": torch.get_rng_state()}
        notes = {
            "history": history,
            "groups": state["param_groups"],
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }
        save_checkpoint(work, len(history) - 1, tensors, notes)

    def resume(self, work: Path) -> list[dict[str, float]]:
        """Take up the state of the newest checkpoint; its history, which is empty where there is none."""
        found = load_checkpoint(work)
        if found is None:
            return []
        tensors, notes = found
        _put_weights(self.model, lambda name: tensors[f"model.{name}"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, moment = name.split(".")
                moments.setdefault(int(index), {})[moment] = tensor
        self.optimizer.load_state_dict({"state": moments, "param_groups": notes["groups"]})
        self.schedule.load_state_dict(notes["schedule"])
        if self.scaler:
            self.scaler.load_state_dict(notes["scaler"])
        self.order.set_state(tensors["random.order"])
        torch.set_rng_state(tensors["random.torch"])
        print(f"Going on from the checkpoint after epoch {len(notes['history']) - 1}.", flush=True)
        return notes["history"]


def _keep_freed_memory() -> None:
    """Ask the C library to keep what is freed, for the next tensor of that size.

    glibc hands large blocks back to the system at once, and the system fills each new one with zeros, page by page:
    up to a third of a step on a CPU. Elsewhere nothing is done.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if tune:
        tune(-4, 0)  # M_MMAP_MAX: no allocation of its own from the system for a large block
        tune(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give the heap's end back only beyond this


def _cached_prefix(model: CausalLM, train: Tensor, batch_size: int) -> FrozenPrefix | None:
    """What the frozen blocks before the first trained one put out; nothing where there are none."""
    depth = frozen_depth(model)
    try:
        return frozen_prefix(model, train, depth, batch_size) if depth else None
    except LateStageError as error:
        print(f"Every step runs all blocks. {error}", flush=True)
        return None


def _train(
    model: CausalLM,
    blocks: Mapping[str, Tensor],
    config: HyperfitConfig,
    precision: str,
    work: Path,
) -> None:
    """Train from the last checkpoint in ``work``, or from the start, and leave weights and history there."""
    _keep_freed_memory()
    accelerator = Accelerator(mixed_precision=precision, cpu=model.device.type == "cpu")
    model.eval()  # switches dropout off everywhere; gradients are not affected
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0, fused=True)
    schedule = get_constant_schedule_with_warmup(optimizer, config.warmup_steps)
    optimizer, schedule = accelerator.prepare(optimizer, schedule)
    state = _TrainingState(model, optimizer, schedule, accelerator.scaler, torch.Generator().manual_seed(config.seed))
    history = state.resume(work)
    if not history:
        before = evaluate(model, blocks, config.evaluation_prompts) if config.evaluate_every else {}
        history.append({"epoch": 0, "seconds": 0.0} | before)

    plain_head = losses.has_plain_head(model)
    train, done = blocks["train"], len(history) - 1
    with accelerator.autocast():
        prefix = _cached_prefix(model, train, config.batch_size)
    steps = math.ceil(len(train) / config.batch_size)
    bar = tqdm(total=config.epochs * steps, initial=done * steps, desc="hyperfit", unit="step", mininterval=1.0)
    for epoch in range(done + 1, config.epochs + 1):
        start, total = time.perf_counter(), 0.0
        for index in torch.randperm(len(train), generator=state.order).split(config.batch_size):
            batch = train[index].to(model.device)
            with accelerator.autocast(), prefix.replayed(index) if prefix else contextlib.nullcontext():
                loss = losses.next_token_loss(model, batch, plain_head)
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(trained, config.clip_norm)
            # In float16 some gradients that are not finite are expected: the scaler skips those steps.
            if not loss.isfinite() or (precision != "fp16" and not norm.isfinite()):
                bar.close()
                _stop_diverged(state, work, epoch, config)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += loss.item() * len(index)
            bar.update()
            bar.set_postfix_str(f"epoch {epoch}, loss {loss.item():.3f}, {_rate(bar, batch):.0f} tokens/s", False)
        row = {"epoch": epoch, "seconds": time.perf_counter() - start, "running_loss": total / len(train)}
        history.append(row)
        over = epoch == config.epochs or row["running_loss"] <= config.target_loss
        if over or (config.evaluate_every and epoch % config.evaluate_every == 0):
            row |= evaluate(model, blocks, config.evaluation_prompts)
        if over:
            break
        state.save(work, history)
    bar.close()

    clear_checkpoints(work)
    save_file(_weights(model), work / WEIGHTS)
    (work / HISTORY).write_text(json.dumps(history), encoding="utf-8")


def _rate(bar: tqdm, batch: Tensor) -> float:
    return (bar.format_dict["rate"] or 0.0) * batch.numel()


def _stop_diverged(state: _TrainingState, work: Path, epoch: int, config: HyperfitConfig) -> NoReturn:
    kept = state.resume(work)
    after = (
        f"The model is back in its state after epoch {len(kept) - 1}, and so is the checkpoint in {work}."
        if kept
        else ("There was no earlier epoch to go back to: load the model again.")
    )
    raise TrainingError(
        f"The loss or its gradient is no longer a number in epoch {epoch}: lower the learning rate of "
        f"{config.learning_rate:g}, say to a tenth. {after}"
    )
