"""What every check does: call an answer with care, and say in a sentence or two what came out.

A check is an ordinary function that tries an :class:`Answer` and raises :class:`Wrong` at the first property that
fails. :func:`exercise` turns it into what readers call: it never raises, and returns a :class:`Verdict`.
"""

from __future__ import annotations

import copy
import functools
import html
import inspect
import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hyperfit_course.checks.record import keep, register

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Wrong(Exception):
    """A property that an answer does not have; the message is for its author."""


@dataclass(frozen=True)
class Verdict:
    """What a check found. Notebooks show it as a coloured box, terminals as text."""

    exercise: str
    passed: bool
    message: str

    def __repr__(self) -> str:
        return f"{self.exercise}: {'passed' if self.passed else 'not yet'}. {self.message}"

    def _repr_html_(self) -> str:
        colour, mark = ("#009E73", "✓ passed") if self.passed else ("#D55E00", "✗ not yet")
        return (
            f'<div style="border-left: 4px solid {colour}; padding: 0.3em 0.8em"><b>{self.exercise}: {mark}</b><br>'
            f"{html.escape(self.message)}</div>"
        )


def exercise(*, points: int, notice: str) -> Callable[[Callable[[Answer], None]], Callable[[Any], Verdict]]:
    """Make a function that tries an answer into a check that readers call.

    The check is registered by its page, which is the name of its module, and by its own name.

    Args:
        points: what the exercise is worth.
        notice: what to look at next, shown when the answer passes.
    """

    def wrap(attempt: Callable[[Answer], None]) -> Callable[[Any], Verdict]:
        page, name = attempt.__module__.rpartition(".")[2], attempt.__name__
        register(page, name, points)

        @functools.wraps(attempt)
        def check(answer: Any) -> Verdict:
            try:
                attempt(Answer(answer, name))
            except Wrong as wrong:
                verdict = Verdict(name, False, str(wrong))
            else:
                verdict = Verdict(name, True, notice)
            keep(page, name, verdict.passed)
            return verdict

        check.__annotations__ = {"answer": "your function", "return": "Verdict"}
        del check.__wrapped__  # help() shows the check's signature, not the one of what it wraps
        return check

    return wrap


class Answer:
    """A reader's function. Calling it finds the faults that any function can have.

    Raises:
        Wrong: it is no function, takes other arguments, raises, returns nothing, or changes what it was given.
    """

    def __init__(self, function: Any, name: str) -> None:
        if not callable(function):
            raise Wrong(
                f"A check takes the function itself, and this is {_a(function)}: write {name} without brackets."
            )
        self.function = function

    def __call__(self, *inputs: Any) -> Any:
        result = self.or_none(*inputs)
        if result is None:
            raise Wrong(f"With {show(*inputs)} it returned nothing: does every way through it end with `return`?")
        return result

    def or_none(self, *inputs: Any) -> Any:
        """The answer's result, where ``None`` is a good one."""
        given = copy.deepcopy(inputs)
        result = self.changing(*given)
        if not _same(given, inputs):
            raise Wrong(
                f"It changed what it was given, {show(*inputs)}: whoever calls it would lose their data. "
                "Work on a copy, and avoid methods that end in an underscore or that change a list in place."
            )
        return result

    def changing(self, *inputs: Any) -> Any:
        """The answer's result, where it may return nothing and is allowed to change what it is given."""
        try:
            inspect.signature(self.function).bind(*inputs)
        except TypeError as error:
            raise Wrong(
                f"The function is called with {len(inputs)} argument{'s'[: len(inputs) > 1]}, and yours cannot be: "
                f"{error}. Keep the head of the function as the exercise has it."
            ) from None
        except ValueError:
            pass  # a built-in function that does not say what it takes: calling it tells
        try:
            return self.function(*inputs)
        except Wrong:
            raise  # a check that forbids a function to the answer says so itself
        except (Exception, SystemExit) as error:
            if isinstance(error, NotImplementedError) and str(error).endswith("not implemented yet"):
                raise Wrong(f"{error}: replace the line that raises NotImplementedError.") from None
            hint = " Put each comparison in brackets: (a > b) & (c > d)." if "bitwise" in str(error) else ""
            raise Wrong(
                f"With {show(*inputs)} it raised {type(error).__name__}: {error} (at `{self._line(error)}`).{hint}"
            ) from None

    def _line(self, error: BaseException) -> str:
        """The line of the answer's own file, and not of a library that it calls, where an error came from."""
        frames = traceback.extract_tb(error.__traceback__)
        code = getattr(self.function, "__code__", None)
        own = [frame for frame in frames if code and frame.filename == code.co_filename] or frames
        return own[-1].line or own[-1].name

    def number(self, *inputs: Any) -> float:
        """The answer's result, which must be one finite number."""
        result = self(*inputs)
        if isinstance(result, Tensor):
            hint = "turn it into a number with .item()" if result.numel() == 1 else "one number is wanted"
            raise Wrong(f"With {show(*inputs)} it returned {_a(result)}: {hint}.")
        if not _is_number(result):
            raise Wrong(f"With {show(*inputs)} it returned {_a(result)}: a number is wanted.")
        if not math.isfinite(result):
            raise Wrong(
                f"With {show(*inputs)} it returned {result}, which is no finite number: is anything divided by 0?"
            )
        return float(result)

    def pair(self, *inputs: Any, wanted: str, given: str = "") -> tuple[float, float]:
        """The answer's result, which must be a tuple of two numbers.

        Args:
            wanted: what the two numbers are, as ``"(low, high)"``.
            given: the inputs in words, where these say more than the inputs themselves.
        """
        result = self(*inputs)
        if not (isinstance(result, tuple) and len(result) == 2 and all(map(_is_number, result))):
            raise Wrong(
                f"{given or f'With {show(*inputs)}'} it returned {show(result)}: "
                f"a pair of Python numbers is wanted, {wanted}."
            )
        return result

    def whole_numbers(self, *inputs: Any, given: str = "") -> list[int]:
        """The answer's result, which must be a list of whole numbers; ``given`` says the inputs in words."""
        result = self(*inputs)
        if not (isinstance(result, list) and all(type(number) is int for number in result)):
            hint = " (.tolist() makes one of a tensor)" if isinstance(result, Tensor) else ""
            raise Wrong(
                f"{given or f'With {show(*inputs)}'} it returned {show(result)}: "
                f"a list of whole numbers is wanted{hint}."
            )
        return result

    def tensor(
        self,
        *inputs: Any,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        nan: str = "look for 0 / 0, 0 * inf or the logarithm of 0",
    ) -> Tensor:
        """The answer's result, which must be a tensor of this shape and type, without NaN; ``nan`` says why it may
        have come."""
        result = self(*inputs)
        if not isinstance(result, Tensor):
            raise Wrong(f"With {show(*inputs)} it returned {_a(result)}: a tensor of shape {shape} is wanted.")
        if tuple(result.shape) != shape:
            raise Wrong(f"With {show(*inputs)} it returned shape {tuple(result.shape)}, and {shape} is wanted.")
        if result.device.type != "cpu":
            raise Wrong(
                f"It returned a tensor on {result.device.type}, and its input was on cpu: "
                "make new tensors where the input is (device=...)."
            )
        if result.dtype != dtype:
            raise Wrong(f"It returned {_short(result.dtype)}, and {_short(dtype)} is wanted.")
        if result.is_floating_point() and result.isnan().any():
            raise Wrong(f"With {show(*inputs)} the result has NaN in it: {nan}.")
        return result


def small_model(blocks: int = 6) -> PreTrainedModel:
    """A random model of 61 tokens and width 16, always the same."""
    from transformers import LlamaConfig, LlamaForCausalLM  # slow to import, and most checks need no model

    config = LlamaConfig(
        vocab_size=61,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=blocks,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    generator = torch.Generator().manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(float(parameter.ndim == 1) + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def need(condition: bool, message: str) -> None:
    """Go on if a property holds.

    Raises:
        Wrong: it does not.
    """
    if not condition:
        raise Wrong(message)


def spot(found: float, given: str, faults: Mapping[float, str], tolerance: float = 1e-6) -> None:
    """Recognise a result that a known mistake gives for an input.

    Raises:
        Wrong: the result is one of them.
    """
    for value, message in faults.items():
        need(abs(found - value) > tolerance, f"For {given} it gives {found:.4g}: {message}")


def show(*inputs: Any) -> str:
    """Inputs as a message shows them: short ones in full, tensors and long lists by their beginning and size."""
    return ", ".join(map(_show, inputs))


def _show(value: Any) -> str:
    if isinstance(value, Tensor) and value.numel() > (12 if value.ndim == 1 else 6):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Tensor):
        rounded = value.round(decimals=3) if value.is_floating_point() else value
        return f"tensor({rounded.tolist()})"
    if isinstance(value, list) and len(value) > 12:
        return f"[{', '.join(map(repr, value[:6]))}, ...] ({len(value)} items)"
    if isinstance(value, tuple):
        return f"({', '.join(map(_show, value))})"
    if isinstance(value, (list, int, float, str)):
        return repr(value)
    return _a(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _a(value: Any) -> str:
    """What kind of thing a value is, with its article."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if value is None:
        return "nothing (None)"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}" + (
        f" ({value!r})" if isinstance(value, (int, float, str)) else ""
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor):
        return before.shape == after.shape and bool(torch.equal(before, after))
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(map(_same, before, after))
    if isinstance(before, torch.nn.Module):
        return _same(list(before.state_dict().values()), list(after.state_dict().values()))
    return before is after or type(before).__eq__ is object.__eq__ or before == after
