"""What does a model say of the next token? Reading its logits, the scores of all tokens, position by position.

With a vocabulary of 49,152 tokens the logits of 1,000 positions are 200 MB, so a model's are never held for a whole
text: :func:`stream_logits` yields them a few positions at a time, and what is kept is a number or two a position
(:func:`at_positions`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hyperfit_course.anatomy import TEXTS_AT_ONCE, CausalLM, body_of, unwrapped
from hyperfit_course.losses import has_plain_head

CHUNK = 128  #: Positions whose logits are computed at a time. 128 x 49,152 in float32 are 25 MB.
ROWS = 32  #: Positions that are measured at a time: their logits, 6 MB, and the copies stay in a processor's cache.


@torch.no_grad()
def stream_logits(model: CausalLM, texts: Tensor, chunk: int = CHUNK) -> Iterator[Tensor]:
    """A model's next-token logits at every position of the texts that has a next token, a few at a time.

    Args:
        model: a causal language model.
        texts: token ids, shape (n, length).
        chunk: positions at a time.

    Yields:
        Float32, shape (at most ``chunk``, vocabulary). Joined they have shape (n * (length - 1), vocabulary), text
        after text, whatever the model: two models can be read side by side with ``zip``.
    """
    yield from logit_reader(model, texts, chunk)()


def at_positions(measure: Callable[..., Tensor], *models: CausalLM, texts: Tensor) -> Tensor:
    """A measure of the logits of one or more models, at every position of the texts that has a next token.

    ``at_positions(predictive_entropy, model, texts=texts)`` is the entropy at each position.

    Args:
        measure: takes the logits of each model at some positions, each of shape (positions, vocabulary), and returns
            one value a position, shape (positions,), or several, shape (positions, k).
        models: causal language models with one tokenizer.
        texts: token ids, shape (n, length).

    Returns:
        Shape (n, length - 1) or (n, length - 1, k), on the CPU.
    """
    streams = zip(*(stream_logits(model, texts) for model in models), strict=True)
    values = torch.cat([measure(*logits).cpu() for logits in streams])
    return values.view(len(texts), -1, *values.shape[1:])


@torch.no_grad()
def logit_reader(source: Tensor | CausalLM, texts: Tensor | None, chunk: int = CHUNK) -> Callable[[], Iterator[Tensor]]:
    """A function that starts to read the logits of the source from the first position, as often as it is called."""
    if isinstance(source, Tensor):
        rows = source.reshape(-1, source.shape[-1])
        return lambda: (part.float() for part in rows.split(chunk))
    if texts is None or texts.ndim != 2 or len(texts) == 0 or texts.shape[1] < 2:
        raise ValueError("To read a model's logits, give texts: token ids of shape (n, length) with length 2 or more.")
    texts = texts.to(source.device)
    if not has_plain_head(source):
        # Such a model runs again at each reading: slower, but its logits are right.
        return lambda: (
            part.float()
            for text in texts
            for part in source(input_ids=text[None], use_cache=False).logits[0, :-1].split(chunk)
        )
    # The final hidden states are small, 85 times smaller than the logits: they are computed once.
    body = body_of(source)
    states = torch.cat([body(input_ids=some, use_cache=False)[0][:, :-1] for some in texts.split(TEXTS_AT_ONCE)])
    head = unwrapped(source).get_output_embeddings().weight.detach()
    return lambda: ((part @ head.T).float() for state in states for part in state.split(chunk))


NOT_NUMBERS = (
    "Logits hold nan or inf, so they are no distribution: look at the model's weights and its precision (only -inf is "
    "allowed, for forbidden tokens)."
)


def check_one_each(logits: Tensor, numbers: Tensor, what: str) -> None:
    """Raise a ValueError where the numbers, which ``what`` names, are not one a position of the logits."""
    if numbers.shape != logits.shape[:-1]:
        raise ValueError(
            f"Logits of shape {tuple(logits.shape)} need one {what} a position, shape {tuple(logits.shape[:-1])}, not "
            f"{tuple(numbers.shape)}."
        )


def check_numbers(logits: Tensor) -> None:
    """Raise a ValueError where a position of the logits holds nan, inf, or nothing but -inf."""
    if not logits.amax(dim=-1).isfinite().all():
        raise ValueError(NOT_NUMBERS)


def by_rows(measure: Callable[[Tensor, Tensor], Tensor], logits: Tensor, numbers: Tensor) -> Tensor:
    """Apply a measure to a few positions at a time: logits (..., vocabulary) and one number a position, (...)."""
    rows, each = logits.reshape(-1, logits.shape[-1]), numbers.reshape(-1, 1)
    parts = [measure(part, number) for part, number in zip(rows.split(ROWS), each.split(ROWS), strict=True)]
    return torch.cat(parts).reshape(numbers.shape)
