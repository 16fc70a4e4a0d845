"""How do several processes train one model? Each takes its share of every step's texts, and Accelerate adds up.

``accelerate launch`` and ``torchrun`` start one program several times. What must happen once, such as writing to the
cache, is left to the main process, and the others wait for it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from hyperfit_course.artifacts import CACHE_VARIABLE, CacheError, artifact

NOT_HERE = ("DEEPSPEED", "MEGATRON_LM")  #: Ways of Accelerate to divide a model, which the training does not know.


class ProcessError(ValueError):
    """Accelerate was started in a way that does not fit; the message says why and what to do."""


def check_processes(device: torch.device) -> None:
    """Join the other processes, if there are any, to train a model on this device.

    Raises:
        ProcessError: the model is to be divided in another way, or Accelerate works on another device already.
    """
    if asked := [name for name in NOT_HERE if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"]:
        raise ProcessError(
            f"Training divides a model among processes by FSDP, and not by {asked[0]}: start it with 'accelerate "
            "launch --use_fsdp', or with --multi_gpu where each process has room for all of it."
        )
    # The first call decides whether there are several processes on CPUs: so it comes before all others.
    begun = PartialState(cpu=device.type == "cpu").device.type
    divides_models()
    if begun != device.type:
        raise ProcessError(
            f"Accelerate works on the {begun} in this process, and the model is on the {device.type}: move the model "
            "there, or train it in a new process."
        )


@functools.cache
def divides_models() -> bool:
    """Whether each process is to hold a part of the model only: ``accelerate launch --use_fsdp`` asks for it.

    The wish is taken away from Accelerate: its version 1.15 forgets it on CPUs without a word, and what it does on
    GPUs would be another program than the tested one.
    """
    return os.environ.pop("ACCELERATE_USE_FSDP", "").lower() == "true" and PartialState().num_processes > 1


def of_all_processes(accelerator: Accelerator, loss_of: nn.Module, blocks: Iterable[nn.Module]) -> nn.Module:
    """A module that gives a loss, changed so that its gradients are the means over all processes.

    Where models are divided, each process then holds a part of every weight, of its gradient and of the optimizer's
    moments. Of what stands in ``blocks``, one block at a time is put together (PyTorch's FSDP2).
    """
    if not divides_models():
        return accelerator.prepare(loss_of)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(loss_of, mesh=mesh)
    return loss_of


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which this process may hold a part. All processes have to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided_as(other: Tensor, tensor: Tensor) -> Tensor:
    """A tensor of the shape of another one, divided among the processes as that is. A single number stays whole."""
    if not isinstance(other, DTensor) or not tensor.ndim:
        return tensor
    # Each process cuts its part from its own tensor: nothing is sent, in whatever order they come to the tensors.
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


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


def keep_freed_memory() -> None:
    """Ask the C library to keep what is freed, for the next tensor of that size.

    glibc hands large pieces back at once, and the system fills new ones with zeros: up to a third of a step on a CPU.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if tune:
        tune(-4, 0)  # M_MMAP_MAX: no allocation of its own from the system for a large block
        tune(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give the heap's end back only beyond this
