"""``hyperfit generate``: a trained model and its base write after the same prompt, side by side, token by token."""

from __future__ import annotations

import contextlib
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hyperfit_course.anatomy import CausalLM
from hyperfit_course.commands.options import Generating
from hyperfit_course.commands.trained import base_of, check_weights, is_adapter, load_trained
from hyperfit_course.metrics import ngram_repetition, type_token_ratio
from hyperfit_course.models import EMBEDDED, begin_token, context_length
from hyperfit_course.study.config import StudyError, check_seed
from hyperfit_course.study.selfchecks import check_causal
from hyperfit_course.study.untrusted import printable


def generate_both(options: Generating) -> int:
    """Stream two texts to the terminal.

    Returns:
        0.

    Raises:
        StudyError: the prompt is empty or too long, a number makes no sense, or the models do not belong together.
    """
    check_seed(options.seed)
    if options.tokens < 1:
        raise StudyError(f"--tokens has to be at least 1, not {options.tokens}.")
    if not options.temperature >= 0:
        raise StudyError(
            f"--temperature has to be 0 (the most probable token) or more, not {options.temperature:g}: 1 samples "
            "as the model says."
        )
    tuned, tokenizer, _ = load_trained(options.tuned, options.base)
    base = None if is_adapter(options.tuned) else _base(options, tokenizer)
    ids = prompt_ids(options.prompt, tokenizer)
    check_causal(tuned, ids.repeat(2)[None, : max(2, len(ids))])
    most = min(context_length(model) for model in (tuned, base) if model is not None)
    if len(ids) + options.tokens > most:
        raise StudyError(
            f"A prompt of {len(ids)} tokens and {options.tokens} new ones exceed the context of {most}: choose fewer "
            "--tokens, or a shorter --prompt."
        )
    print(f"After: {printable(options.prompt)}\n")
    streams = [
        _tokens(model, off, ids, options)
        for model, off in ((tuned if base is None else base, base is None), (tuned, False))
    ]
    written = _show(streams, tokenizer, options.tokens)
    for name, text in zip(("base", "tuned"), written, strict=True):
        numbers = f"TTR {type_token_ratio(text):.2f}, bigram repetition {ngram_repetition(text, 2):.2f}"
        print(f"{name}: {len(text)} tokens, {numbers}")
    return 0


def _base(options: Generating, tokenizer: PreTrainedTokenizerBase) -> CausalLM:
    """What a whole model was trained from, or is to stand beside it."""
    known = base_of(Path(options.tuned).expanduser())
    name = options.base or known.get("name")
    if name is None:
        raise StudyError(
            f"It is not known what {options.tuned} was trained from: name the model to stand beside it with --base."
        )
    base, other, _ = load_trained(None if name == EMBEDDED else name)
    if not options.base:
        check_weights(base, known, options.tuned)
    if tokenizer.get_vocab() != other.get_vocab():
        raise StudyError(
            f"{options.tuned} and {name} have different tokenizers: name with --base what it was trained from."
        )
    return base


def prompt_ids(prompt: str, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Token ids of a prompt, after the begin-of-text token where the model needs it, shape (length,)."""
    begin = begin_token(tokenizer)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if not ids:
        raise StudyError("The prompt is empty: write at least a word.")
    return torch.tensor([*([] if begin is None else [begin]), *(index for index in ids if index != begin)])


@torch.inference_mode()
def _tokens(model: CausalLM, without_adapter: bool, ids: Tensor, options: Generating) -> Iterator[int]:
    """New tokens, one at a time; the end-of-text token is forbidden, as everywhere in the course."""
    end = getattr(model.generation_config, "eos_token_id", None)
    forbidden = [] if end is None else torch.atleast_1d(torch.tensor(end)).tolist()
    draw = torch.Generator(model.device).manual_seed(options.seed)
    cache, new = None, ids[None].to(model.device)
    for _ in range(options.tokens):
        off = model.disable_adapter() if without_adapter and isinstance(model, PeftModel) else contextlib.nullcontext()
        with off:
            output = model(input_ids=new, past_key_values=cache, use_cache=True)
        cache, logits = output.past_key_values, output.logits[0, -1].float()
        logits[forbidden] = -torch.inf
        if options.temperature:
            token = torch.multinomial((logits / options.temperature).softmax(dim=-1), 1, generator=draw)
        else:
            token = logits.argmax()[None]
        new = token[None]
        yield int(token)


def _show(streams: list[Iterator[int]], tokenizer: PreTrainedTokenizerBase, count: int) -> list[list[int]]:
    """Write both texts in two columns: in a terminal as they grow, elsewhere when they are finished."""
    width = max(20, (shutil.get_terminal_size().columns - 3) // 2)
    written: list[list[int]] = [[], []]
    lines = 0
    for _ in range(count):
        for text, stream in zip(written, streams, strict=True):
            text.append(next(stream))
        if sys.stdout.isatty():
            table = _columns(tokenizer.batch_decode(written), width)
            sys.stdout.write((f"\x1b[{lines}F\x1b[J" if lines else "") + "\n".join(table) + "\n")
            sys.stdout.flush()
            lines = len(table)
    if not sys.stdout.isatty():
        print("\n".join(_columns(tokenizer.batch_decode(written), width)))
    print()
    return written


def _columns(texts: list[str], width: int) -> list[str]:
    """Two texts as lines of a table."""
    columns = [textwrap.wrap(printable(text), width) or [""] for text in texts]
    height = max(map(len, columns))
    left, right = (column + [""] * (height - len(column)) for column in columns)
    heads = [f"{'base':{width}} | tuned", f"{'-' * width}-+-{'-' * width}"]
    return heads + [f"{a:{width}} | {b}" for a, b in zip(left, right, strict=True)]
