"""What does a run have to keep, so that it can go on as if nothing had happened?"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hyperfit_course.anatomy import CausalLM
from hyperfit_course.artifacts import atomic_path, sha256_file
from hyperfit_course.optimizers import as_kept, as_tensors
from hyperfit_course.processes import divided_as, is_main, say, whole

LATEST = "latest.json"


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Keep the state of unfinished work in ``folder``: tensors, and notes that JSON can hold.

    ``latest.json`` names the newest checkpoint and is replaced only when that is completely on disk; the older one
    is removed after that. So at every moment there is a whole checkpoint to go on from.

    Raises:
        CacheError: the disk is full or read-only; the older checkpoint is still there.
    """
    path = folder / f"checkpoint-{step}.safetensors"
    with atomic_path(path) as temporary:
        save_file(dict(tensors), temporary)
    with atomic_path(folder / LATEST) as temporary:
        pointer = {"file": path.name, "sha256": sha256_file(path), "notes": dict(notes)}
        temporary.write_text(json.dumps(pointer), encoding="utf-8")
    for old in folder.glob("checkpoint-*.safetensors"):
        if old != path:
            old.unlink()


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and notes of the newest checkpoint in ``folder``; ``None`` if there is none, or only a damaged one."""
    if not (folder / LATEST).exists():
        return None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        pointer = json.loads((folder / LATEST).read_text(encoding="utf-8"))
        path = folder / pointer["file"]
        if sha256_file(path) == pointer["sha256"]:
            return load_file(path), pointer["notes"]
    warnings.warn(f"The checkpoint in {folder} is damaged: the work starts from the beginning.", stacklevel=2)
    return None


def clear_checkpoints(folder: Path) -> None:
    """Remove what :func:`save_checkpoint` left, once the work is done."""
    # The dot files are what a process that was killed while writing leaves behind.
    for path in [*folder.glob("*checkpoint-*.safetensors*"), *folder.glob(f"*{LATEST}*")]:
        path.unlink(missing_ok=True)


def trained_weights(model: CausalLM) -> dict[str, Tensor]:
    """Every parameter that is trained, once: tied ones appear under one name."""
    return {name: whole(parameter.detach()) for name, parameter in model.named_parameters() if parameter.requires_grad}


def put_weights(model: CausalLM, get: Callable[[str], Tensor]) -> None:
    """Give every trained parameter the values that ``get`` has for its name, and leave evaluation mode on."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.detach().copy_(divided_as(parameter, get(name)))
    model.eval()


@dataclass
class TrainingState:
    """Everything that decides how a run goes on: what a checkpoint has to hold."""

    model: CausalLM
    optimizer: Any
    schedule: Any
    scaler: Any
    order: torch.Generator  #: Draws the order of the texts.

    def save(self, work: Path, history: list[dict[str, Any]]) -> None:
        """Keep the state after the last epoch of the history."""
        state = self.optimizer.state_dict()
        tensors = {f"model.{name}": tensor for name, tensor in trained_weights(self.model).items()}
        for index, moments in state["state"].items():
            tensors |= {f"optimizer.{index}.{name}": whole(tensor) for name, tensor in as_tensors(moments).items()}
        tensors |= {"random.order": self.order.get_state(), "random.torch": torch.get_rng_state()}
        notes = {
            "history": history,
            "groups": state["param_groups"],
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }
        if is_main():
            save_checkpoint(work, len(history) - 1, tensors, notes)

    def resume(self, work: Path) -> list[dict[str, Any]]:
        """Take up the state of the newest checkpoint; its history, which is empty where there is none."""
        found = load_checkpoint(work)
        if found is None:
            return []
        tensors, notes = found
        put_weights(self.model, lambda name: tensors[f"model.{name}"])
        moments: dict[int, dict[str, Tensor | int]] = {}
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, moment = name.split(".")
                moments.setdefault(int(index), {})[moment] = as_kept(divided_as(trained[int(index)], tensor))
        self.optimizer.load_state_dict({"state": moments, "param_groups": notes["groups"]})
        self.schedule.load_state_dict(notes["schedule"])
        if self.scaler:
            self.scaler.load_state_dict(notes["scaler"])
        self.order.set_state(tensors["random.order"])
        torch.set_rng_state(tensors["random.torch"])
        say(f"Going on from the checkpoint after epoch {len(notes['history']) - 1}.")
        return notes["history"]
