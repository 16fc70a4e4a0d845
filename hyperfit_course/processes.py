"""How do several processes train one model? Each takes its share of every step's texts, and Accelerate adds up.

``accelerate launch`` and ``torchrun`` start one program several times. What must happen once, such as writing to the
cache, is left to the main process, and the others wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor

from hyperfit_course.artifacts import CACHE_VARIABLE, CacheError, artifact

NOT_HERE = ("FSDP", "DEEPSPEED", "MEGATRON_LM")
"""Ways of Accelerate to divide a model among processes. Version 1.15 drops the first on CPUs without a word."""


class ProcessError(ValueError):
    """Accelerate was started in a way that does not fit; the message says why and what to do."""


def check_processes(device: torch.device) -> None:
    """Join the other processes, if there are any, to train a model on this device.

    Raises:
        ProcessError: the model was to be divided among the processes, or Accelerate works on another device already.
    """
    asked = [name for name in NOT_HERE if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("1", "true")]
    if asked:
        raise ProcessError(
            f"Training divides the texts among processes, and not the model as {asked[0]} does: start it with "
            "'accelerate launch --multi_gpu' instead, or train adapters, which take less memory."
        )
    if (begun := PartialState(cpu=device.type == "cpu").device.type) != device.type:
        raise ProcessError(
            f"Accelerate works on the {begun} in this process, and the model is on the {device.type}: move the model "
            "there, or train it in a new process."
        )


def is_main() -> bool:
    """Whether this is the process that writes and prints. True where there is one process."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def say(message: str) -> None:
    """Print, once for all processes."""
    if is_main():
        print(message, flush=True)


def my_share(index: Tensor) -> tuple[Tensor, float]:
    """This process's texts of a step, and the weight of their mean loss in the mean over all processes.

    The means so weighted average to the mean over all texts of the step, also where processes have unequal numbers
    of them. A process that would have none takes one with weight 0, since all have to join in.

    Args:
        index: numbers of the step's texts, shape (batch,).
    """
    state = PartialState()
    mine = index.tensor_split(state.num_processes)[state.process_index]
    return (mine if len(mine) else index[:1]), len(mine) * state.num_processes / len(index)


def artifact_of_all(kind: str, key: Callable[[], Mapping[str, Any]], make: Callable[[Path], None]) -> Path:
    """An artifact that all processes make together: the main one looks, locks and keeps, and tells the others.

    Args:
        key: gives the key of :func:`~hyperfit_course.artifacts.artifact`. The main process alone calls it.
        make: fills a folder. All processes call it with the same one, and the main one alone writes.

    Raises:
        CacheError: the cache cannot be written to, or another process does not see it.
    """
    if not is_main():
        while (told := _broadcast(None))[0] == "make":
            if not told[1].is_dir():
                raise CacheError(
                    f"Another machine has no folder {told[1]}: set {CACHE_VARIABLE} to one that all share."
                )
            make(told[1])
        return told[1]

    def make_with_all(work: Path) -> None:
        _broadcast(("make", work))
        make(work)

    folder = artifact(kind, key(), make_with_all)
    _broadcast(("done", folder))
    return folder


def _broadcast(told: Any) -> Any:
    """What the main process tells, in all processes."""
    return broadcast_object_list([told])[0]
