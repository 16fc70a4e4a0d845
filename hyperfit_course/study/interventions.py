"""What if this part were different? Changes inside a model that last as long as a ``with`` block.

Each asks another question, and says in its docstring when to use which:

- :func:`adapters_off`: which of the trained blocks does the effect need?
- :func:`mapped_output`: does the *shape* of a cloud of states make the effect? The maps are fitted by
  :mod:`~hyperfit_course.study.spectra`.
- :func:`patched_output`: are another model's states after a block enough, at the positions that copy?
- :func:`heads_off`: which attention heads does it need?

A change of *weights* in random directions is :func:`~hyperfit_course.study.controls.damage`. All work with
transformers' own generation and its cache, and afterwards the model is as it was. What is changed is seen by the later
blocks and by the measures of the course, but not by ``output_hidden_states``: transformers notes the output before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from hyperfit_course.anatomy import CausalLM, blocks_of, body_of, hidden_state

COPIED_SPAN = 3
"""Tokens in a row that stand in the text before: the last of them is at a position that copies."""


class InterventionError(ValueError):
    """A model cannot be changed as asked; the message says why and what to do."""


class AffineMap(NamedTuple):
    """``x`` becomes ``mean + (x - mean) @ matrix``."""

    mean: Tensor  #: Shape (d,): it stays where it is.
    matrix: Tensor  #: Shape (d, d).


def _block(model: CausalLM, number: int) -> nn.Module:
    blocks = blocks_of(model)
    if not 0 <= number < len(blocks):
        raise InterventionError(f"The model has the blocks 0 to {len(blocks) - 1}, and no block {number}.")
    return blocks[number]


def _with_state(output: Any, state: Tensor) -> Any:
    """What a block returned, with another residual stream."""
    return state if isinstance(output, Tensor) else (state, *output[1:])


# Adapters


@contextlib.contextmanager
def adapters_off(model: CausalLM, blocks: Sequence[int]) -> Iterator[None]:
    """Switch the adapters of some blocks off: these blocks compute what the base model's compute.

    *When:* to ask which trained blocks an effect needs. Blocks off that lose it were needed; blocks on, with all
    others off, that keep it are enough. Later blocks were trained to read what the switched-off ones write, so a loss
    may be theirs: look at both directions.

    Args:
        model: with LoRA adapters.
        blocks: their numbers.

    Raises:
        InterventionError: a block is not there, or has no adapter.
    """
    strengths: list[Any] = []  # of each adapter by its name
    for number in blocks:
        layers = [module for module in _block(model, number).modules() if isinstance(module, BaseTunerLayer)]
        if not layers:
            raise InterventionError(f"Block {number} has no adapter to switch off: name blocks that were trained.")
        strengths += [layer.scaling for layer in layers]
    kept = [dict(strength) for strength in strengths]
    try:
        for strength in strengths:
            strength.update(dict.fromkeys(strength, 0.0))
        yield
    finally:
        for strength, before in zip(strengths, kept, strict=True):
            strength.update(before)


# Maps of a block's output


@contextlib.contextmanager
def mapped_output(model: CausalLM, block: int, change: AffineMap) -> Iterator[None]:
    """Put the output of a block through an affine map, at every position.

    *When:* to ask whether the shape of the states after a block makes an effect. The map is one for all contexts, so
    it can change which directions are large, and teaches nothing. Fit it on texts that are not measured.

    Args:
        model: with adapters or without.
        block: its number.
        change: of the model's width.

    Raises:
        InterventionError: the block is not there, or the map has another width.
    """
    width = model.config.get_text_config().hidden_size
    if change.mean.shape != (width,) or change.matrix.shape != (width, width):
        raise InterventionError(
            f"A map of shapes {tuple(change.mean.shape)} and {tuple(change.matrix.shape)} does not fit a model of "
            f"width {width}: fit it on states of this model."
        )

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        state = hidden_state(output)
        mean, matrix = change.mean.to(state), change.matrix.to(state)
        return _with_state(output, mean + (state - mean) @ matrix)

    with _block(model, block).register_forward_hook(hook):
        yield


# Another model's states


def copying_positions(texts: Tensor, span: int = COPIED_SPAN) -> Tensor:
    """Where a text copies itself: positions whose token and the ``span - 1`` before it stand earlier in that order.

    Args:
        texts: token ids, shape (n, length).

    Returns:
        Booleans, shape (n, length). The first copy does not count, and copies may overlap, as in a loop of one token.
    """
    copies = torch.zeros_like(texts, dtype=torch.bool)
    if texts.shape[1] >= span:
        windows = texts.unfold(1, span, 1)
        same = (windows[:, :, None] == windows[:, None]).all(dim=-1)
        copies[:, span - 1 :] = same.tril(diagonal=-1).any(dim=-1)
    return copies


@contextlib.contextmanager
def patched_output(model: CausalLM, donor: CausalLM, block: int, span: int = COPIED_SPAN) -> Iterator[None]:
    """Give a model another model's states after a block, only at the positions where its text copies itself.

    The donor reads the same text. What the model keeps of earlier positions (keys and values) stays its own, except
    that the blocks after ``block`` have read the patched states there.

    *When:* to ask up to which depth a difference between two models is there already. Patching *every* position proves
    nothing where all later blocks are equal: the model is then the donor. Inside copied spans only, it asks whether
    the donor's states stop (or start) the copying itself.

    Args:
        model: it reads and writes.
        donor: of the same depth and width.
        block: its number.
        span: see :func:`copying_positions`.

    Raises:
        InterventionError: the block is not there, the models differ in depth or width, or are the same object.
    """
    changed, source = _block(model, block), _block(donor, block)
    widths = [each.config.get_text_config().hidden_size for each in (model, donor)]
    depths = [len(blocks_of(each)) for each in (model, donor)]
    if changed is source or widths[0] != widths[1] or depths[0] != depths[1]:
        raise InterventionError(
            f"A model of {depths[0]} blocks and width {widths[0]} takes states of another one like it, not of "
            f"{'itself' if changed is source else f'{depths[1]} blocks and width {widths[1]}'}: load it once more."
        )
    along = _ReadingAlong(donor, span)
    blocks = blocks_of(model)
    # OPT's body is left out when its model is called as a whole; the module around the blocks is not.
    around = next(module for module in body_of(model).modules() if blocks in module.children())
    with (
        source.register_forward_hook(along.catch),
        around.register_forward_pre_hook(along.read, with_kwargs=True),
        changed.register_forward_hook(along.patch),
    ):
        yield


class _ReadingAlong:
    """A donor that reads what a model is given, call by call, and the hooks that do it."""

    def __init__(self, donor: CausalLM, span: int) -> None:
        self.donor, self.span = donor, span
        self.text = self.copies = self.states = torch.empty(0)
        self.cache: Any = None

    @torch.no_grad()
    def read(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        new, past = inputs[0] if inputs else named["input_ids"], named.get("past_key_values")
        if past is None or past.get_seq_length() == 0:  # a new text begins
            self.text, self.cache = new[:, :0], None
        self.text = torch.cat([self.text, new], dim=1)
        self.copies = copying_positions(self.text, self.span)[:, -new.shape[1] :, None]
        output = self.donor(input_ids=new.to(self.donor.device), past_key_values=self.cache, use_cache=True)
        self.cache = output.past_key_values

    def catch(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.states = hidden_state(output)

    def patch(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        own = hidden_state(output)
        return _with_state(output, torch.where(self.copies.to(own.device), self.states.to(own), own))


# Attention heads


@contextlib.contextmanager
def heads_off(model: CausalLM, heads: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Switch some attention heads off: what they would write into the residual stream becomes zero.

    *When:* to ask whether an effect needs these heads. Compare with as many other heads of the same blocks: a model
    that loses any of its heads may change too.

    Args:
        model: with adapters or without.
        heads: pairs of the block's number and the head's.

    Raises:
        InterventionError: a block or a head is not there.
    """
    config = model.config.get_text_config()
    count = config.num_attention_heads
    with contextlib.ExitStack() as hooks:
        for block, head in heads:
            projection = _output_projection(_block(model, block))
            if not 0 <= head < count:
                raise InterventionError(f"The model has the heads 0 to {count - 1} in a block, and no head {head}.")
            hooks.enter_context(projection.register_forward_pre_hook(_zeroing(head, count)))
        yield


def _zeroing(head: int, count: int) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        mixed = inputs[0].clone().unflatten(-1, (count, -1))
        mixed[..., head, :] = 0
        return (mixed.flatten(-2), *inputs[1:])

    return hook


def _output_projection(block: nn.Module) -> nn.Module:
    """The map from the joined heads to the stream: in every family the last with a matrix in the attention."""
    attention = next((part for part in block.children() if "attention" in type(part).__name__.lower()), None)
    maps = [part for part in attention.children() if any(p.ndim == 2 for p in part.parameters())] if attention else []
    if not maps:
        raise InterventionError(f"No attention was found in {type(block).__name__}, so no head can be switched off.")
    return maps[-1]
