"""Where are the blocks, the final norm and the head? The one place that knows how models are laid out.

Every causal language model of transformers has the same plan: token embeddings, a list of blocks that each add to a
residual stream, a final norm, and a head that turns the stream into logits. The names differ (``layers``, ``h``,
``ln_f`` ...), so the parts are found by what they are and not by what they are called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

CausalLM = PreTrainedModel | PeftModel
"""A causal language model of transformers, with or without the adapters of PEFT."""


class AnatomyError(ValueError):
    """A model has no part where one was looked for; the message says which."""


@dataclass(frozen=True)
class Anatomy:
    """The parts of a causal language model, in the order in which the data pass them."""

    body: nn.Module
    """Everything but the head: called with ``input_ids``, it gives the output of the final norm first."""
    blocks: nn.ModuleList
    final_norm: nn.Module
    head: nn.Module


def unwrapped(model: CausalLM) -> PreTrainedModel:
    """The model itself where PEFT has wrapped it. Its adapters are inside and stay at work."""
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)


def body_of(model: CausalLM) -> nn.Module:
    """The model without its head: called with ``input_ids``, it gives the output of the final norm first."""
    return unwrapped(model).base_model


def blocks_of(model: CausalLM) -> nn.ModuleList:
    """The blocks: of all lists of modules of one class, the one that holds the most parameters.

    Raises:
        AnatomyError: the model has no list of blocks.
    """
    return _block_list(model)[1]


def _block_list(model: CausalLM) -> tuple[nn.Module, nn.ModuleList]:
    """The blocks and the module that holds them."""
    found = [
        (parent, child)
        for parent in body_of(model).modules()
        for child in parent.children()
        if isinstance(child, nn.ModuleList) and len({type(block) for block in child}) == 1
    ]
    if not found:
        raise AnatomyError(
            f"No blocks were found in {type(unwrapped(model)).__name__}: expected a list of modules of one class."
        )
    return max(found, key=lambda pair: sum(parameter.numel() for parameter in pair[1].parameters()))


@torch.no_grad()
def anatomy(model: CausalLM) -> Anatomy:
    """Find the parts of a model. One token is run through it, to see what comes after the blocks.

    Raises:
        AnatomyError: the model has no blocks, no norm after them, or no head.
    """
    parent, blocks = _block_list(model)
    name = type(unwrapped(model)).__name__
    head = unwrapped(model).get_output_embeddings()
    if head is None:
        raise AnatomyError(f"{name} has no head that gives logits: load it as a causal language model.")
    order: list[nn.Module] = []
    candidates = [child for child in parent.children() if child is not blocks]
    hooks = [module.register_forward_hook(lambda m, *_: order.append(m)) for module in [blocks[-1], *candidates]]
    try:
        body_of(model)(input_ids=torch.zeros(1, 1, dtype=torch.long, device=unwrapped(model).device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    after = order[order.index(blocks[-1]) + 1 :] if blocks[-1] in order else []
    if not after:
        raise AnatomyError(f"{name} applies no norm after its last block, and the course's measures look for one.")
    return Anatomy(body_of(model), blocks, after[-1], head)


def linears_of(block: nn.Module) -> dict[str, nn.Module]:
    """The linear maps of a block by their names in it: modules without parts that have a weight matrix.

    This finds the ``Conv1D`` of GPT-2 as well, which is a linear map by another name.
    """
    return {
        name: module
        for name, module in block.named_modules()
        if not list(module.children())
        and any(parameter.ndim == 2 for parameter in module.parameters(recurse=False))
        and not isinstance(module, nn.Embedding)
    }


def hidden_state(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The residual stream in what a block returns: some families return it alone, some first of several."""
    return output if isinstance(output, Tensor) else output[0]
