"""What if only some blocks may learn? LoRA on a chosen range of blocks, and what freezing the others makes possible.

Late-Stage LoRA (Li et al., 2026) trains low-rank adapters in the last five blocks of a model and freezes the rest.
The frozen blocks before the first trained one then put out the same numbers in every epoch. So these are computed
once, and training runs only what comes after them (:class:`FrozenPrefix`). No approximation is made.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from hyperfit_course.anatomy import CausalLM, blocks_of, body_of, hidden_state, linears_of, unwrapped
from hyperfit_course.artifacts import artifact, sha256_tensor
from hyperfit_course.models import fingerprint

PREFIX_MEMORY = 1 << 30
"""Bytes of a frozen prefix's output that are held in memory; more than that goes to a file in the cache."""
PLACES = ("first", "middle", "last", "spread")


class LateStageError(ValueError):
    """Adapters or a cached prefix cannot be had as asked; the message says why and what to do."""


def choose_blocks(model: PreTrainedModel, count: int, place: str = "last") -> list[int]:
    """Numbers of some blocks of a model, counted from 0.

    Args:
        model: a causal language model.
        count: how many.
        place: ``first``, ``middle``, ``last``, or ``spread`` (at equal distances over the whole depth).

    Raises:
        LateStageError: the model does not have that many, or the place is none of these.
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
    al., 2022). B starts at zero, so the model computes what it did before. Adapters have no dropout. The result is
    an ordinary PEFT model: ``save_pretrained`` writes the adapters alone, ``merge_and_unload`` adds them to the
    weights.

    Args:
        model: a causal language model without adapters; it is changed.
        blocks: how many of the last blocks, or the numbers of the blocks, counted from 0
            (see :func:`choose_blocks`).
        rank: of the adapters.
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
            f"{len(targets)} of blocks {numbers} were asked for: this version of PEFT reads module names differently."
        )
    return adapted


def _checked(blocks: Sequence[int], depth: int) -> list[int]:
    if not blocks:
        raise LateStageError("The list of blocks is empty: name at least one.")
    outside = [number for number in blocks if not 0 <= number < depth]
    if outside:
        raise LateStageError(f"The model has the blocks 0 to {depth - 1}, and not {outside}.")
    if len(set(blocks)) < len(blocks):
        raise LateStageError(f"A block is named twice in {list(blocks)}.")
    return sorted(blocks)


def trained_modules(model: PeftModel) -> pd.DataFrame:
    """What trains in an adapted model: one row a linear map, with ``block``, ``module`` and ``parameters``."""
    rows = [
        {"block": number, "module": name, "parameters": sum(p.numel() for p in module.parameters() if p.requires_grad)}
        for number, block in enumerate(blocks_of(model))
        for name, module in block.named_modules()
        if hasattr(module, "base_layer") and any(parameter.requires_grad for parameter in module.parameters())
    ]
    return pd.DataFrame(rows, columns=["block", "module", "parameters"])


def frozen_depth(model: CausalLM) -> int:
    """Number of leading blocks that cannot change in training: no trainable parameter is in them or before them.

    0 where the embeddings are trained, or the head that shares their weights.
    """
    blocks = blocks_of(model)
    if unwrapped(model).get_input_embeddings().weight.requires_grad:
        return 0
    trains = [any(parameter.requires_grad for parameter in block.parameters()) for block in blocks]
    return trains.index(True) if True in trains else len(blocks)


@dataclass(frozen=True)
class FrozenPrefix:
    """The output of the first blocks of a model for some texts, computed once.

    Within :meth:`replayed` the model skips these blocks: it takes the residual stream after them from here, and goes
    on with the same masks and positions as ever.
    """

    blocks: Sequence[nn.Module]
    states: Tensor
    """Shape (texts, size, d), in memory or mapped from a file."""
    in_tuple: bool
    """Whether the model's blocks return a tuple."""

    @contextlib.contextmanager
    def replayed(self, index: Tensor) -> Iterator[None]:
        """Let the model skip the blocks; inside, call it with the texts of these numbers, in this order, only.

        Args:
            index: numbers of the texts, shape (batch,).
        """
        device = next(self.blocks[0].parameters()).device
        state = self.states[index].to(device)
        output = (state,) if self.in_tuple else state
        for block in self.blocks:
            block.forward = lambda *_, **__: output
        try:
            yield
        finally:
            for block in self.blocks:
                del block.forward  # the class's own forward shows again


@torch.no_grad()
def frozen_prefix(
    model: CausalLM, texts: Tensor, depth: int, batch_size: int = 4, memory: int = PREFIX_MEMORY
) -> FrozenPrefix:
    """Compute what the first blocks of a model put out, in the precision of the surrounding autocast.

    Beyond ``memory`` bytes the states go to a file in the cache, under a key of the frozen weights and the texts:
    other weights or texts have another file, and a damaged one is made again.

    Args:
        model: in evaluation mode, so that no dropout is at work.
        texts: token ids, shape (n, size).
        depth: number of blocks; at most :func:`frozen_depth`.
        batch_size: texts at a time.
        memory: bytes to hold.

    Raises:
        LateStageError: training on the states would not be exact: the first blocks or the embeddings are trained,
            dropout is on, or the model passes more than the residual stream from block to block.
        CacheError: the file cannot be written.
    """
    _check_exact(model, depth)
    blocks, body = blocks_of(model)[:depth], body_of(model)
    seen: list[Tensor | tuple[Tensor, ...]] = []
    hook = blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))

    def states_of(rows: Tensor) -> Tensor:
        seen.clear()
        body(input_ids=rows.to(unwrapped(model).device), use_cache=False)
        return hidden_state(seen[0]).cpu()

    try:
        first = states_of(texts[:1])
        shape = (*texts.shape, first.shape[-1])

        def fill(states: Tensor) -> None:
            for index in torch.arange(len(texts)).split(batch_size):
                states[index] = states_of(texts[index])

        if math.prod(shape) * first.element_size() <= memory:
            states = first.new_empty(shape)
            fill(states)
        else:
            states = _on_disk(model, texts, depth, shape, first.dtype, fill)
    finally:
        hook.remove()
    prefix = FrozenPrefix(list(blocks), states, isinstance(seen[0], tuple))
    _check_replay(model, prefix, texts)
    return prefix


def _check_exact(model: CausalLM, depth: int) -> None:
    frozen = frozen_depth(model)
    if not 1 <= depth <= frozen:
        raise LateStageError(
            f"The output of the first {depth} blocks cannot be kept: "
            + (
                f"only the first {frozen} are frozen, with the embeddings. Put adapters on later blocks only."
                if depth > 0
                else "keep that of one block at least."
            )
        )
    settings = unwrapped(model).config.get_text_config().to_dict()
    dropout = [name for name, value in settings.items() if ("dropout" in name or "pdrop" in name) and value]
    if dropout and any(block.training for block in blocks_of(model)[:depth]):
        raise LateStageError(
            f"Dropout is on ({', '.join(sorted(dropout))}), so the blocks put out something else at each step: call "
            "model.eval() first."
        )


def _on_disk(
    model: CausalLM,
    texts: Tensor,
    depth: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    fill: Callable[[Tensor], None],
) -> Tensor:
    """The states in a file of the cache, mapped into memory."""

    def mapped(path: Path, write: bool) -> Tensor:
        return torch.from_file(str(path), shared=write, size=math.prod(shape), dtype=dtype).view(shape)

    embeddings, device = unwrapped(model).get_input_embeddings(), unwrapped(model).device.type
    key = {
        "weights": fingerprint(nn.ModuleList([embeddings, *blocks_of(model)[:depth]])),
        "texts": sha256_tensor(texts),
        "shape": list(shape),
        "dtype": str(dtype),
        "autocast": str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None,
    }
    gigabytes = math.prod(shape) * dtype.itemsize / 1e9
    print(f"The frozen blocks' output takes {gigabytes:.1f} GB: it goes to a file in the cache.", flush=True)
    folder = artifact("prefix", key, lambda work: fill(mapped(work / "states.bin", write=True)))
    return mapped(folder / "states.bin", write=False)


def _check_replay(model: CausalLM, prefix: FrozenPrefix, texts: Tensor) -> None:
    """Compare one text with and without the prefix: there are models whose blocks share more than the stream."""
    text = texts[:1].to(unwrapped(model).device)
    whole = body_of(model)(input_ids=text, use_cache=False)[0].float()
    with prefix.replayed(torch.tensor([0])):
        replayed = body_of(model)(input_ids=text, use_cache=False)[0].float()
    error = ((whole - replayed).norm() / whole.norm()).item()
    half = torch.is_autocast_enabled(text.device.type) or unwrapped(model).dtype != torch.float32
    if not error < (0.02 if half else 1e-4):
        raise LateStageError(
            f"{type(unwrapped(model)).__name__} passes more from block to block than the residual stream (with the "
            f"frozen blocks skipped its output differs by {error:.1%}): train it without a cached prefix."
        )
