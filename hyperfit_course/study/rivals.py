"""Is it recitation, or would another way do as well? Rows for chapters 07 and 08: models that may not cite, models
that read their texts in another order, and the base model decoded in other ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
)

from hyperfit_course.anatomy import CausalLM
from hyperfit_course.decoding import PROMPT_TOKENS, continue_prompts, kept_continuations
from hyperfit_course.logits import at_positions
from hyperfit_course.metrics import WINDOW, repetition_frame
from hyperfit_course.models import load_tokenizer
from hyperfit_course.study.arms import Arm, base_model, held_out
from hyperfit_course.study.blocking import CitationBlocker, recited_words
from hyperfit_course.study.measures import model_rows, run_row
from hyperfit_course.study.recording import TEXTS, Row
from hyperfit_course.study.writing import recitation_row, text_row

DECODINGS = ("repetition penalty", "top-p", "min-p")
"""Ways to decode the base model. Contrastive search is not among them: transformers fetches its code from a hub, and
the course runs no fetched code."""


def recited_words_row(continuations: Tensor, source: Tensor, tokenizer: PreTrainedTokenizerBase) -> Row:
    """How much of the texts is copied from a source, in words: one value a prompt, and the longest run of all."""
    written, read = ([str(tokenizer.decode(text)) for text in texts] for texts in (continuations, source))
    found = recited_words(written, read)
    shares = [round(each.share, 6) for each in found]
    return {
        "recited_words": sum(shares) / len(shares),
        "longest_recited_words": max(each.longest for each in found),
        "recited_words_of_prompts": shares,
        "longest_words_of_prompts": [each.longest for each in found],
    }


def blocked_rows(arm: Arm, corpora: Sequence[str]) -> Iterator[Row]:
    """What a model writes when it may not cite its training text, beside what it writes freely: chapters 07 and 09."""
    model, source, tokenizer = arm.trained()[0], arm.splits()["train"], load_tokenizer()
    for corpus in corpora:
        texts = held_out(corpus)
        for way, processors in (("free", []), ("blocked", [CitationBlocker(source, tokenizer)])):
            written = _written(model, texts, processors, f"{arm.label}, {way}, {corpus}")
            yield {
                "arm": arm.label,
                "trained_on": arm.trained_on,
                "seed": arm.seed,
                "way": way,
                "prompts": corpus,
                **text_row(written, texts, source, base_model()),
                **recited_words_row(written, source, tokenizer),
            }


def chance_rows(arm: Arm, corpora: Sequence[str]) -> Iterator[Row]:
    """How much of texts that nobody has trained on stands in the training text of an arm by chance: chapter 07.

    They are the authors' own continuations of the prompts, and the base model's greedy ones.
    """
    source, tokenizer = arm.splits()["train"], load_tokenizer()
    for corpus in corpora:
        texts = held_out(corpus)
        greedy = kept_continuations(base_model(), texts[:, :PROMPT_TOKENS], progress=f"base, {corpus}")
        for way, written in (("reference", texts[:, PROMPT_TOKENS:]), ("base", greedy)):
            yield {
                "way": way,
                "trained_on": arm.trained_on,
                "seed": arm.seed,
                "prompts": corpus,
                **recitation_row(written, source),
                **recited_words_row(written, source, tokenizer),
            }


def order_rows(arm: Arm, other: Arm, corpora: Sequence[str]) -> Iterator[Row]:
    """Two models that read the same texts in two orders: where their first choices differ, and what one writes."""
    model, (reordered, history) = arm.trained()[0], other.trained()
    source = other.splits()["train"]
    rows = model_rows(other, reordered, run_row(other, reordered, history, source), source, corpora)
    for row in rows:
        first, second = (_first_choices(each, held_out(row["prompts"])) for each in (model, reordered))
        differ = (first != second).double().mean(dim=1)
        yield row | {"changed_choices": differ.mean().item(), "changed_choices_of_prompts": differ.tolist()}


def decoded_rows(decoding: str, strength: float, corpora: Sequence[str]) -> Iterator[Row]:
    """The base model decoded in another way (:data:`DECODINGS`): chapter 08.

    A repetition penalty is decoded greedily, and counts for what stands in prompt and text; the others are sampled,
    one text a prompt.
    """
    model = base_model()
    source = Arm().splits()["train"]
    for corpus in corpora:
        texts = held_out(corpus)
        name = f"{decoding} {strength}, {corpus}"
        if decoding == "repetition penalty":
            written = _written(model, texts, [RepetitionPenaltyLogitsProcessor(strength)], name)
        else:
            processors = [MinPLogitsWarper(strength)] if decoding == "min-p" else []
            top_p = strength if decoding == "top-p" else 1.0
            written = _written(model, texts, processors, name, sample=True, top_p=top_p)
        row = {"decoding": decoding, "strength": strength, "prompts": corpus}
        yield row | text_row(written, texts, source, model)


def long_rows(arm: Arm, new_tokens: int, prompts: int) -> Iterator[Row]:
    """Greedy texts that are several times as long: the type-token ratio of each window of 96 tokens, for chapter 08."""
    texts = held_out("tales")[:prompts]
    written = continue_prompts(arm.trained()[0], texts[:, :PROMPT_TOKENS], new_tokens, progress=f"{arm.label}, long")
    windows = {start: repetition_frame(written[:, start : start + WINDOW]) for start in range(0, new_tokens, WINDOW)}
    yield {
        "arm": arm.label,
        "seed": arm.seed,
        "prompts": "tales",
        "new_tokens": new_tokens,
        "starts": list(windows),
        "ttr_of_windows": [frame["ttr"].mean() for frame in windows.values()],
        "bigram_repetition_of_windows": [frame["bigram_repetition"].mean() for frame in windows.values()],
        "ttr_of_prompts_of_windows": [frame["ttr"].round(6).tolist() for frame in windows.values()],
        **recitation_row(written, arm.splits()["train"]),
        TEXTS: written.tolist(),
    }


def _written(
    model: CausalLM, texts: Tensor, processors: Sequence[LogitsProcessor], name: str, **settings: Any
) -> Tensor:
    return continue_prompts(
        model,
        texts[:, :PROMPT_TOKENS],
        logits_processor=LogitsProcessorList([*processors]) if processors else None,
        progress=name,
        **settings,
    )


def _first_choices(model: CausalLM, texts: Tensor) -> Tensor:
    return at_positions(lambda logits: logits.argmax(dim=-1), model, texts=texts)
