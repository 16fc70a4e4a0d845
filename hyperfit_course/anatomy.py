"""Where are the blocks, the final norm and the head? The one place that knows how models are laid out.

Every causal language model of transformers has the same plan: token embeddings, a list of blocks that each add to a
residual stream, a final norm, and a head that turns the stream into logits. The names differ (``layers``, ``h``,
``ln_f`` ...), so the parts are found by what they are and not by what they are called.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

CausalLM = PreTrainedModel | PeftModel
"""A causal language model of transformers, with or without the adapters of PEFT."""

TEXTS_AT_ONCE = 4  #: Texts that are read together: enough to keep a processor busy, and few enough for a small memory.


class AnatomyError(ValueError):
    """A model has no part where one was looked for; the message says which."""


@dataclass(frozen=True)
class Anatomy:
    """The parts of a causal language model; ``body`` is everything but the head (:func:`body_of`)."""

    body: nn.Module
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
    lists = [module for module in body_of(model).modules() if isinstance(module, nn.ModuleList)]
    found = [modules for modules in lists if len({type(module) for module in modules}) == 1]
    if not found:
        name = type(unwrapped(model)).__name__
        raise AnatomyError(f"No blocks were found in {name} (modules of one class in a list): choose another model.")
    return max(found, key=lambda modules: sum(parameter.numel() for parameter in modules.parameters()))


@torch.no_grad()
def anatomy(model: CausalLM) -> Anatomy:
    """Find the parts of a model. One token is run through it, to see what comes after the blocks.

    Raises:
        AnatomyError: the model has no blocks, no norm after them, or no head.
    """
    body, blocks, head = body_of(model), blocks_of(model), unwrapped(model).get_output_embeddings()
    name = type(unwrapped(model)).__name__
    if head is None:
        raise AnatomyError(f"{name} has no head that gives logits: load it as a causal language model.")
    order: list[nn.Module] = []
    parent = next(module for module in body.modules() if blocks in module.children())
    watched = [blocks[-1], *(child for child in parent.children() if child is not blocks)]
    with contextlib.ExitStack() as hooks:
        for module in watched:
            hooks.enter_context(module.register_forward_hook(lambda m, *_: order.append(m)))
        body(input_ids=torch.zeros(1, 1, dtype=torch.long, device=unwrapped(model).device), use_cache=False)
    after = order[order.index(blocks[-1]) + 1 :] if blocks[-1] in order else []
    if not after:
        raise AnatomyError(f"{name} applies no norm after its last block, and measures need it: choose another model.")
    return Anatomy(body, blocks, after[-1], head)


def linears_of(block: nn.Module) -> dict[str, nn.Module]:
    """Linear maps of a block by their names: modules without parts that have a matrix (so GPT-2's ``Conv1D`` too)."""
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
