"""How strongly does a model copy from its context? Copies of passages, loops that it has not written, and heads.

A model that loops copies: it finds what has just stood in its text more and more probable. All measures here are
teacher-forced: every model reads the *same* text, so that they can be compared whatever they would write themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hyperfit_course.anatomy import CausalLM, unwrapped
from hyperfit_course.logits import at_positions

COPIES = 8  #: Copies of a passage in the context, as in chapter 01.
STRINGS = 20  #: Random strings.
STRING_TOKENS = 25  #: Tokens of each.
LONGEST_PERIOD = 24  #: A loop is looked for up to this period: four of them fill a continuation of 96 tokens.
TURNS = 3  #: How often a loop has to have come to count as one.


def random_strings(tokens: Sequence[int], number: int = STRINGS, length: int = STRING_TOKENS, seed: int = 0) -> Tensor:
    """Strings of tokens drawn at random, each token once in a string at most, shape (number, length).

    Args:
        tokens: ids to draw from, such as all of a vocabulary but the special ones.

    Raises:
        ValueError: there are fewer tokens than a string has.
    """
    if len(tokens) < length:
        raise ValueError(f"Strings of {length} different tokens cannot be drawn from {len(tokens)}: give more tokens.")
    draw, ids = torch.Generator().manual_seed(seed), torch.as_tensor(tokens)
    return torch.stack([ids[torch.randperm(len(ids), generator=draw)[:length]] for _ in range(number)])


def first_sentence(text: str) -> str:
    """The beginning of a text up to the end of its first sentence; all of it where none ends."""
    found = re.match(r".+?(?<!Mrs)[.!?][\"”’']?(?=\s)", text, re.DOTALL)
    return found.group() if found else text


class Copied(NamedTuple):
    """Mean log-probabilities of the tokens of two copies of a passage, in nats."""

    first: float
    last: float

    @property
    def score(self) -> float:
        """How much more probable the last copy is: 0 for a model that does not look back.

        It also moves if the *first* copy becomes less probable, as in a model that was trained on other texts.
        """
        return self.last - self.first


def copy_score(model: CausalLM, passage: Sequence[int] | Tensor, start: Sequence[int], copies: int = COPIES) -> Copied:
    """How probable the first and the last copy of a passage are.

    The model reads ``start`` and then the passage ``copies`` times.

    Args:
        passage: token ids, at least one.
        start: token ids before the first copy, at least one, since the first token of a text has no probability.

    Raises:
        ValueError: there is no passage or no start, or fewer than two copies.
    """
    tokens = passage.tolist() if isinstance(passage, Tensor) else list(passage)
    if not tokens or not start or copies < 2:
        raise ValueError("A copy score needs a passage and a start of one token or more, and at least two copies.")
    text = torch.tensor([[*start, *tokens * copies]])
    of_copies = _log_probabilities(model, text)[0, len(start) - 1 :].reshape(copies, -1).mean(dim=1)
    return Copied(of_copies[0].item(), of_copies[-1].item())


def loop_start(text: Sequence[int] | Tensor, turns: int = TURNS, longest: int = LONGEST_PERIOD) -> int | None:
    """Where the loop that a text ends with has come ``turns`` times: from there on, each token was to be expected.

    A text ends with a loop of period p if every token of its end is the one p places before, and that end holds
    ``turns`` turns or more. The smallest such p counts.

    Returns:
        The position of the first token after so many turns, or ``None``: the text ends with no loop that goes on.
    """
    tokens = text.tolist() if isinstance(text, Tensor) else list(text)
    for period in range(1, longest + 1):
        same = len(tokens)
        while same - 1 >= period and tokens[same - 1] == tokens[same - 1 - period]:
            same -= 1
        begins = same - period  # of the first turn
        if begins >= 0 and len(tokens) > begins + turns * period:
            return begins + turns * period
    return None


def loop_persistence(model: CausalLM, texts: Tensor, skip: int) -> list[float]:
    """How probable a model finds the next token of loops that it reads: the mean over each loop, in [0, 1].

    Args:
        texts: token ids, shape (n, length): prompts, and what one model wrote after them. Use the texts of one model,
            such as the base model's greedy ones, for all that are compared.
        skip: tokens of the prompts, in which no loop is looked for.

    Returns:
        One value a text that ends with a loop (:func:`loop_start`), in their order; texts without are left out.

    Raises:
        ValueError: no text ends with a loop.
    """
    starts = [loop_start(text[skip:]) for text in texts]
    loops = [number for number, start in enumerate(starts) if start is not None]
    if not loops:
        raise ValueError("No text ends with a loop, so that nothing can persist: give greedy texts of a base model.")
    probabilities = _log_probabilities(model, texts[loops]).exp()
    return [
        row[skip + (starts[number] or 0) - 1 :].mean().item() for number, row in zip(loops, probabilities, strict=True)
    ]


@torch.no_grad()
def induction_scores(model: CausalLM, strings: Tensor) -> Tensor:
    """Prefix-matching scores of all attention heads on random strings that stand twice (Olsson et al., 2022).

    A head that copies looks, at a token that stood before, at the token *after* its first place. The score is the mean
    attention to that place, over the second copy of each string: 1 for a perfect induction head.

    Args:
        model: its attention is computed in the plain way meanwhile, which gives the weights.
        strings: token ids, shape (n, length), with no token twice in a string.

    Returns:
        Shape (blocks, heads), in [0, 1].

    Raises:
        ValueError: the strings have fewer than two tokens.
    """
    if strings.ndim != 2 or strings.shape[1] < 2:
        raise ValueError(f"Strings have the shape (n, length) with length 2 or more, not {tuple(strings.shape)}.")
    inner, length = unwrapped(model), strings.shape[1]
    before = inner.config._attn_implementation
    inner.set_attn_implementation("eager")
    try:
        twice = torch.cat([strings, strings], dim=1).to(inner.device)
        weights = inner(input_ids=twice, use_cache=False, output_attentions=True).attentions
    finally:
        inner.set_attn_implementation(before)
    second = torch.arange(length, 2 * length)
    return torch.stack([block[:, :, second, second - length + 1].mean(dim=(0, 2)) for block in weights]).float().cpu()


def _log_probabilities(model: CausalLM, texts: Tensor) -> Tensor:
    """Of every token but the first of each text, after those before it, shape (n, length - 1)."""
    targets, place = texts[:, 1:].flatten(), 0

    def of_next(logits: Tensor) -> Tensor:
        nonlocal place
        chosen = targets[place : place + len(logits)].to(logits.device)
        place += len(logits)
        return logits.log_softmax(dim=-1).gather(-1, chosen[:, None])[:, 0]

    return at_positions(of_next, model, texts=texts)
