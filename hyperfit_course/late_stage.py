"""What if only some blocks may learn? LoRA on chosen blocks.

Late-Stage LoRA (Li et al., 2026) trains low-rank adapters in the last five blocks of a model and freezes the rest.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import pandas as pd
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from hyperfit_course.anatomy import CausalLM, blocks_of, linears_of

PLACES = ("first", "middle", "last", "spread")


class LateStageError(ValueError):
    """Adapters cannot be had as asked; the message says why and what to do."""


def choose_blocks(model: PreTrainedModel, count: int, place: str = "last") -> list[int]:
    """Numbers of some blocks of a model, counted from 0; ``spread`` is at equal distances over the whole depth.

    Raises:
        LateStageError: the model does not have that many, or the place is none of :data:`PLACES`.
    """
    depth = len(blocks_of(model))
    if not 1 <= count <= depth:
        raise LateStageError(f"The model has {depth} blocks: choose between 1 and {depth} of them, not {count}.")
    if place not in PLACES:
        raise LateStageError(f"There is no place {place!r}: choose from {', '.join(PLACES)}.")
    if place == "spread":
        return [int((index + 0.5) * depth / count) for index in range(count)]
    start = {"first": 0, "middle": (depth - count + 1) // 2, "last": depth - count}[place]
    return list(range(start, start + count))


def late_stage_lora(
    model: PreTrainedModel, blocks: int | Sequence[int] = 5, rank: int = 16, alpha: int | None = None, seed: int = 0
) -> PeftModel:
    """Freeze a model and put LoRA adapters on all linear maps of some blocks, by default of the last five.

    An adapter adds ``alpha / rank * B @ A`` to a frozen weight, where A and B have ``rank`` rows and columns (Hu et
    al., 2022). B starts at zero, so the model computes what it did before. Adapters have no dropout. The result is an
    ordinary PEFT model: ``save_pretrained`` writes the adapters alone, ``merge_and_unload`` adds them to the weights.

    Args:
        model: without adapters; it is changed.
        blocks: how many of the last blocks, or the numbers of the blocks, counted from 0 (:func:`choose_blocks`).
        alpha: strength of the adapters; twice the rank by default.
        seed: of the random start of A.

    Raises:
        LateStageError: the blocks are not there, the rank is not positive, or the model has adapters already.
        AnatomyError: the model's blocks cannot be found.
    """
    if isinstance(model, PeftModel) or getattr(model, "peft_config", None):
        raise LateStageError("The model has adapters already: merge them (merge_and_unload) or load the model again.")
    numbers = choose_blocks(model, blocks) if isinstance(blocks, int) else _checked(blocks, len(blocks_of(model)))
    if rank < 1:
        raise LateStageError(f"The rank of an adapter is at least 1, not {rank}.")
    chosen = {id(module) for number in numbers for module in linears_of(blocks_of(model)[number]).values()}
    targets = [name for name, module in model.named_modules() if id(module) in chosen]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=0.0,
        target_modules=targets,
        # GPT-2 keeps its weight matrices transposed.
        fan_in_fan_out=any(not isinstance(model.get_submodule(name), nn.Linear) for name in targets),
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT still asks by a name that transformers has renamed
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    adapted.eval()
    trained = trained_modules(adapted)
    if sorted(trained["block"].unique()) != numbers or len(trained) != len(targets):
        raise LateStageError(
            f"PEFT put adapters on {len(trained)} linear maps of blocks {sorted(trained['block'].unique())}, and "
            f"{len(targets)} of blocks {numbers} were asked for: install another version of PEFT."
        )
    return adapted


def _checked(blocks: Sequence[int], depth: int) -> list[int]:
    if not blocks:
        raise LateStageError("The list of blocks is empty: name at least one.")
    outside = [number for number in blocks if not 0 <= number < depth]
    if outside:
        raise LateStageError(f"The model has the blocks 0 to {depth - 1}, and not {outside}: choose from these.")
    if len(set(blocks)) < len(blocks):
        raise LateStageError(f"A block is named twice in {list(blocks)}: name each once.")
    return sorted(blocks)


def trained_modules(model: CausalLM) -> pd.DataFrame:
    """What trains in an adapted model: one row a linear map, with ``block``, ``module`` and ``parameters``."""
    rows = [
        {"block": number, "module": name, "parameters": sum(p.numel() for p in module.parameters() if p.requires_grad)}
        for number, block in enumerate(blocks_of(model))
        for name, module in block.named_modules()
        if hasattr(module, "base_layer") and any(parameter.requires_grad for parameter in module.parameters())
    ]
    return pd.DataFrame(rows, columns=["block", "module", "parameters"])
