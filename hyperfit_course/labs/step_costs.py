"""What does a training step cost, before any clock runs? Products and bytes, for the lab on exact speed-ups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hyperfit_course.anatomy import blocks_of, linears_of

READERS = ("q_proj", "k_proj", "v_proj")  #: Linear maps that read what enters a block.


def step_flops(
    model: PreTrainedModel,
    texts: int,
    length: int,
    rank: int,
    blocks: int,
    chunked: bool = False,
    cached: bool = False,
    own: bool = False,
) -> int:
    """Floating point operations in the matrix products of a training step, without those inside of attention.

    Every map runs forward, unless the output of its block is kept. It runs backward if something before it learns. A
    frozen weight has no gradient of its own. An adapter of the rank r has 3 r (in + out) products and sums.

    Args:
        model: of the Llama family, without adapters.
        texts, length: of the step, in texts and tokens.
        blocks: how many of the last blocks have adapters, on all of their maps.
        chunked: whether the head leaves out the last position of a text, which has nothing to predict.
        cached: whether the blocks without adapters are not run.
        own: whether an adapted MLP computes the inner states of its adapters twice.

    Raises:
        ValueError: the model does not have as many blocks, or the rank is not positive.
    """
    if not 1 <= blocks <= len(blocks_of(model)) or rank < 1:
        raise ValueError(f"Give 1 to {len(blocks_of(model))} blocks and a positive rank, not {blocks} and {rank}.")
    of_blocks: list[dict[str, Any]] = [linears_of(block) for block in blocks_of(model)]
    trained = [(n, *layer.weight.T.shape, i == 0) for i, b in enumerate(of_blocks[-blocks:]) for n, layer in b.items()]
    run = of_blocks[-blocks:] if cached else of_blocks
    forward = sum(layer.weight.numel() for block in run for layer in block.values())
    backward = 0
    for name, inputs, outputs, is_first in trained:
        forward += rank * (inputs + outputs)
        backward += rank * (inputs + 2 * outputs)  # of A: in. Of B: out. Through B, to reach A: out
        if not (is_first and name.split(".")[-1] in READERS):  # before these nothing learns
            backward += inputs * outputs + rank * inputs
        if own and name.startswith("mlp."):
            backward += rank * inputs
    head = 2 * model.get_output_embeddings().weight.numel()  # forward, and backward to the last state
    return 2 * texts * (length * (forward + backward) + (length - chunked) * head)


def kept_bytes(loss: Callable[[], Tensor], model: nn.Module) -> int:
    """Bytes that autograd keeps between the forward and the backward pass of a loss.

    Args:
        loss: computes it.
        model: its weights are there anyway, and do not count.
    """
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no other tensor takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss()
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
