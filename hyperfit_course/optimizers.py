"""What moves the weights? AdamW, which keeps two moments of every trained weight: numbers of four bytes, or of one.

All weights of a large model need 16 bytes each to be trained: the weight, its gradient and both moments in float32.
With moments of 8 bits (Dettmers et al., 2022, arXiv 2110.02861) they need 10.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

BITS_VARIABLE = "HYPERFIT_MOMENT_BITS"
INSTALL = "pip install 'bitsandbytes>=0.50'"


class OptimizerError(ValueError):
    """The optimizer cannot be had as asked; the message says why and what to do."""


def moment_bits(device: torch.device) -> int:
    """Bits of each moment on a device: 32, or what the environment variable ``HYPERFIT_MOMENT_BITS`` says.

    Raises:
        OptimizerError: it says neither 8 nor 32, the package for 8 is missing, or it does not compute there.
    """
    bits = os.environ.get(BITS_VARIABLE, "32")
    if bits not in ("8", "32"):
        raise OptimizerError(f"{BITS_VARIABLE} is {bits!r}: set it to 8 or 32.")
    if bits == "8" and not find_spec("bitsandbytes"):
        raise OptimizerError(f"Moments of 8 bits need one more package: {INSTALL}, or unset {BITS_VARIABLE}.")
    if bits == "8" and device.type not in ("cpu", "cuda"):
        raise OptimizerError(
            f"Moments of 8 bits need an NVIDIA GPU or a CPU, not {device.type}: unset {BITS_VARIABLE}."
        )
    return int(bits)


def adamw(weights: Sequence[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW without weight decay, with moments of :func:`moment_bits`.

    bitsandbytes scales every 256 moments by the largest of them, and leaves tensors of fewer than 4,096 numbers in
    float32.

    Raises:
        OptimizerError: such moments cannot be had.
    """
    if moment_bits(weights[0].device) == 32:
        return torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.0, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit  # large, and only needed here
    except ImportError as error:
        raise OptimizerError(f"The package bitsandbytes does not work here ({error}): {INSTALL}.") from error
    return AdamW8bit(weights, lr=learning_rate, weight_decay=0.0)


def as_tensors(moments: Mapping[str, Any]) -> dict[str, Tensor]:
    """What an optimizer keeps for one weight, as a file of tensors can hold it.

    bitsandbytes puts its tensors one level deeper, counts steps in Python, and has tables that all weights share.
    """
    flat: dict[str, Any] = {}
    for name, value in moments.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return {name: value.clone() if name.startswith("qmap") else torch.as_tensor(value) for name, value in flat.items()}


def as_kept(tensor: Tensor) -> Tensor | int:
    """One of these as the optimizer kept it: a count of steps in Python is a whole number, PyTorch's is a float."""
    return tensor if tensor.ndim or tensor.is_floating_point() else int(tensor)
