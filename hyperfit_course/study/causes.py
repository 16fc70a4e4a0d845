"""Read-out, copying, damage or recitation? Rows of models that are changed inside, with all that chapter 09 compares.

Each row has ``way``, what was done to the model, and beside the measures of every arm those of copying
(:func:`copying_row`). All changes are measured with the texts and prompts of the other chapters.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from peft import PeftModel
from torch import Tensor

from hyperfit_course.anatomy import CausalLM, blocks_of
from hyperfit_course.corpora import load_corpus
from hyperfit_course.decoding import PROMPT_TOKENS, kept_continuations
from hyperfit_course.models import load_tokenizer
from hyperfit_course.stream import SKIP, stream_states
from hyperfit_course.study.arms import Arm, base_model, held_out
from hyperfit_course.study.controls import damage
from hyperfit_course.study.copying import (
    copy_score,
    first_sentence,
    induction_scores,
    loop_persistence,
    random_strings,
)
from hyperfit_course.study.interventions import adapters_off, heads_off, mapped_output, patched_output
from hyperfit_course.study.measures import model_rows, run_row
from hyperfit_course.study.recording import Row
from hyperfit_course.study.spectra import rescaled_spectrum, turned_spectrum

TALES = ("tales",)  #: Prompts of most changes: news takes as long again.
START = "It was late."  #: What stands before the first copy of a passage, as in chapter 01.
EVERY = 3  #: Of the passages and loops, one of so many is read where a model was changed.
STRONGEST_HEADS = 10  #: Heads of the base model that are followed through the arms.


class Passages(NamedTuple):
    """What is copied: token ids."""

    start: list[int]
    sentences: list[list[int]]
    strings: Tensor


@functools.cache
def passages() -> Passages:
    """The first sentences of the 30 held-out tales, and random strings of ordinary tokens."""
    tokenizer = load_tokenizer()
    sentences = [tokenizer(" " + first_sentence(tale))["input_ids"] for tale in load_corpus("tales")["prompts"]]
    ordinary = range(len(tokenizer.all_special_ids), len(tokenizer))
    return Passages(tokenizer(START)["input_ids"], sentences, random_strings(ordinary))


@functools.cache
def base_texts() -> Tensor:
    """The 30 prompts from tales with what the base model writes greedily, shape (30, 128): most end in loops."""
    prompts = held_out("tales")[:, :PROMPT_TOKENS]
    return torch.cat([prompts, kept_continuations(base_model(), prompts)], dim=1)


@functools.cache
def strongest_heads() -> list[tuple[int, int]]:
    """The heads of the base model with the highest prefix-matching scores, as (block, head), the highest first."""
    scores = induction_scores(base_model(), passages().strings)
    order = scores.flatten().topk(min(STRONGEST_HEADS, scores.numel())).indices.tolist()
    return [divmod(index, scores.shape[1]) for index in order]


# Parts of rows


def copying_row(model: CausalLM, every: int = 1) -> Row:
    """How strongly a model copies: passages, loops of the base model, and its attention heads.

    With ``every`` = 3, the first, fourth, seventh ... of the passages and texts are read: compare such a row with the
    same texts of another.
    """
    start, sentences, strings = passages()
    sentences, strings = sentences[::every], strings[::every]
    row: Row = {}
    for name, texts in (("sentences", sentences), ("random", strings)):
        scores = [copy_score(model, text, start) for text in texts]
        for part in ("first", "last"):
            values = [round(getattr(score, part), 4) for score in scores]
            row |= {f"{part}_copy_{name}": sum(values) / len(values), f"{part}_copy_{name}_of_texts": values}
        row[f"copy_score_{name}"] = row[f"last_copy_{name}"] - row[f"first_copy_{name}"]
    persistence = [round(value, 5) for value in loop_persistence(model, base_texts()[::every], PROMPT_TOKENS)]
    heads = induction_scores(model, strings)
    return {
        **row,
        "loop_persistence": sum(persistence) / len(persistence),
        "loop_persistence_of_loops": persistence,
        "strongest_heads": sum(heads[head].item() for head in strongest_heads()) / len(strongest_heads()),
        "induction_of_heads": [[round(value, 3) for value in block] for block in heads.tolist()],
    }


def changed_rows(
    arm: Arm, way: str, model: CausalLM, corpora: Sequence[str] = TALES, more: Row | None = None
) -> Iterator[Row]:
    """All measures of a model that was made from an arm's, a row for each corpus of prompts.

    Copying is measured on a third of the texts (:data:`EVERY`): all of them take as long as everything else.
    """
    of_model = {"way": way, **(more or {}), **copying_row(model, EVERY)}
    yield from model_rows(arm, model, of_model, arm.splits()["train"], corpora)


# Rows


def copying_rows(arm: Arm) -> Iterator[Row]:
    """How strongly an arm's model copies: one row, to be joined with that of the arm."""
    model = arm.trained()[0]
    yield {"arm": arm.label, "rank": arm.rank, "seed": arm.seed, **copying_row(model)}


def trained_rows(arm: Arm, corpora: Sequence[str] = TALES) -> Iterator[Row]:
    """All measures of an arm's model as it was trained."""
    model, history = arm.trained()
    yield from changed_rows(arm, "trained", model, corpora, run_row(arm, model, history, arm.splits()["train"]))


def rotated_rows(arm: Arm, corpora: Sequence[str]) -> Iterator[Row]:
    """An arm's model, and the same with its trained change in random directions, as far from the base model."""
    model = arm.trained()[0]
    assert isinstance(model, PeftModel), "only adapters are turned"
    yield from changed_rows(arm, "trained", model, corpora)
    factor = damage(model, base_model(), held_out("tales"), arm.seed)
    yield from changed_rows(arm, "random directions", model, corpora, {"factor": factor})


def switched_rows(arm: Arm, parts: Mapping[str, Sequence[int]]) -> Iterator[Row]:
    """An arm's model with the adapters of some blocks off, and with those of these blocks on only.

    Args:
        arm: with adapters on all blocks.
        parts: numbers of blocks by their name.
    """
    model = arm.trained()[0]
    yield from changed_rows(arm, "trained", model)
    for name, blocks in parts.items():
        others = [number for number in range(len(blocks_of(model))) if number not in blocks]
        for way, off in ((f"{name} off", blocks), (f"only {name} on", others)):
            with adapters_off(model, off):
                yield from changed_rows(arm, way, model)


def spectrum_rows(arm: Arm) -> Iterator[Row]:
    """The spectrum after the last block taken from an arm's model, given to the base model, and a random map.

    The maps are fitted on the arm's validation texts, which nothing else is measured on.
    """
    texts, model, base = arm.splits()["validation"], arm.trained()[0], Arm().trained()[0]
    block = len(blocks_of(model)) - 1
    ours, theirs = (_states_after(each, block, texts) for each in (model, base))
    compressed = rescaled_spectrum(ours, like=theirs)
    turned = turned_spectrum(ours, compressed, copy.deepcopy(model), model, block, texts, arm.seed)
    yield from changed_rows(arm, "trained", model)
    changes = {
        "spectrum of the base model": (model, compressed),
        "random map": (model, turned),
        "base model with the arm's spectrum": (base, rescaled_spectrum(theirs, like=ours)),
    }
    for way, (changed, change) in changes.items():
        with mapped_output(changed, block, change):
            yield from changed_rows(arm, way, changed)


def _states_after(model: CausalLM, block: int, texts: Tensor) -> Tensor:
    """After one block at all positions but the first of each text, shape (n, d)."""
    return torch.cat([states[block][SKIP:] for states in stream_states(model, texts)])


def patched_rows(arm: Arm, block: int) -> Iterator[Row]:
    """An arm's states after a block put into the base model where its text copies, and the other way round."""
    base, model = Arm().trained()[0], arm.trained()[0]
    for way, changed, donor in (
        ("base model with states of the arm", base, model),
        ("with states of the base model", model, base),
    ):
        with patched_output(changed, donor, block):
            yield from changed_rows(arm, way, changed, more={"block": block})


def headless_rows(count: int) -> Iterator[Row]:
    """The base model without its heads that copy most, and without as many others of the same blocks."""
    model, strongest = Arm().trained()[0], strongest_heads()[:count]
    number = model.config.get_text_config().num_attention_heads
    draw = torch.Generator().manual_seed(0)
    others: list[tuple[int, int]] = []
    for block, _ in strongest:
        free = [(block, head) for head in range(number) if (block, head) not in [*strongest_heads(), *others]]
        others.append(free[int(torch.randint(len(free), (1,), generator=draw))])
    for way, heads in (("without heads that copy", strongest), ("without other heads", others)):
        with heads_off(model, heads):
            yield from changed_rows(Arm(), way, model, more={"heads": [list(head) for head in heads]})
