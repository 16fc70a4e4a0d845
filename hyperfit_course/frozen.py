"""What need not be computed again? The output of frozen blocks, which is the same in every epoch.

Where the first blocks of a model are frozen, they put out the same numbers for a text at every step. So these are
computed once, and training runs only what comes after them (:class:`FrozenPrefix`). No approximation is made.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hyperfit_course.anatomy import CausalLM, blocks_of, body_of, hidden_state, unwrapped
from hyperfit_course.artifacts import artifact, sha256_tensor
from hyperfit_course.models import fingerprint
from hyperfit_course.processes import say

PREFIX_MEMORY = 1 << 30  #: Bytes of a frozen prefix's output that are held in memory; more goes to a file in the cache.


class PrefixError(ValueError):
    """The output of the first blocks cannot be kept; the message says why and what to do."""


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
    """The output of the first blocks of a model for some texts, computed once; see :meth:`replayed`."""

    blocks: Sequence[nn.Module]
    states: Tensor  #: Shape (texts, length, d), in memory or mapped from a file.
    in_tuple: bool  #: Whether the blocks return a tuple.

    @contextlib.contextmanager
    def replayed(self, index: Tensor) -> Iterator[None]:
        """Let the model skip the blocks, and go on from the kept states with the same masks and positions as ever.

        Inside, call the model with the texts of these numbers, shape (batch,), in this order only.
        """
        state = self.states[index].to(next(self.blocks[0].parameters()).device)
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

    Beyond ``memory`` bytes the states go to a file in the cache, under a key of the frozen weights and the texts.

    Args:
        model: in evaluation mode, so that no dropout is at work.
        texts: token ids, shape (n, length); ``batch_size`` of them are computed at a time.
        depth: number of blocks; at most :func:`frozen_depth`.

    Raises:
        PrefixError: training on the states would not be exact: the first blocks or the embeddings are trained,
            dropout is on, or the model passes more than the residual stream from block to block.
        CacheError: the file cannot be written.
    """
    _check_exact(model, depth)
    blocks, body = blocks_of(model)[:depth], body_of(model)
    seen: list[Tensor | tuple[Tensor, ...]] = []

    def states_of(rows: Tensor) -> Tensor:
        seen.clear()
        body(input_ids=rows.to(unwrapped(model).device), use_cache=False)
        return hidden_state(seen[0]).cpu()

    def fill(states: Tensor) -> None:
        for index in torch.arange(len(texts)).split(batch_size):
            states[index] = states_of(texts[index])

    with blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(output)):
        first = states_of(texts[:1])
        shape = (*texts.shape, first.shape[-1])
        if math.prod(shape) * first.element_size() <= memory:
            states = first.new_empty(shape)
            fill(states)
        else:
            states = _on_disk(model, texts, depth, shape, first.dtype, fill)
    prefix = FrozenPrefix(list(blocks), states, isinstance(seen[0], tuple))
    _check_replay(model, prefix, texts)
    return prefix


def _check_exact(model: CausalLM, depth: int) -> None:
    if depth < 1:
        raise PrefixError(f"The output of the first {depth} blocks cannot be kept: keep that of one block at least.")
    frozen = frozen_depth(model)
    if depth > frozen:
        raise PrefixError(
            f"The output of the first {depth} blocks cannot be kept: only the first {frozen} are frozen, with the "
            "embeddings. Put adapters on later blocks only."
        )
    settings = unwrapped(model).config.get_text_config().to_dict()
    dropout = sorted(name for name, value in settings.items() if ("dropout" in name or "pdrop" in name) and value)
    if dropout and any(block.training for block in blocks_of(model)[:depth]):
        raise PrefixError(
            f"Dropout is on ({', '.join(dropout)}), so the blocks put out something else at each step: call "
            "model.eval() first."
        )


def _on_disk(
    model: CausalLM, texts: Tensor, depth: int, shape: tuple[int, ...], dtype: torch.dtype, fill: Callable
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
    say(f"The frozen blocks' output takes {gigabytes:.1f} GB: it goes to a file in the cache.")
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
        raise PrefixError(
            f"{type(unwrapped(model)).__name__} passes more from block to block than the residual stream (with the "
            f"frozen blocks skipped its output differs by {error:.1%}): train it without a cached prefix."
        )
