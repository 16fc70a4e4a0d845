"""What if a part of the model, or its way of writing, were another? The fast controls and interventions of a study.

Chapters 07 to 09 ask this of the course's model, with more measures and controls. Here the same changes are made to any
model, and only its greedy text is looked at: about a minute each with the course's model. Every function yields the
rows of one arm, and each row has ``way``, what was changed. Afterwards the models are as they were.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from hyperfit_course.anatomy import CausalLM, blocks_of
from hyperfit_course.decoding import PROMPT_TOKENS, continue_prompts
from hyperfit_course.late_stage import trained_modules
from hyperfit_course.stream import SKIP, stream_states
from hyperfit_course.study.arms import Arm, base_model, held_out, tokenizer_of
from hyperfit_course.study.blocking import CitationBlocker
from hyperfit_course.study.config import StudyError
from hyperfit_course.study.interventions import adapters_off, mapped_output, patched_output
from hyperfit_course.study.recording import Row
from hyperfit_course.study.spectra import rescaled_spectrum
from hyperfit_course.study.writing import text_row

PENALTY = 1.2  #: Strength of the repetition penalty, as in chapter 08.
BASE_SPECTRUM, OWN_SPECTRUM = "spectrum of the base model", "base model with the arm's spectrum"
MIDDLE_OFF, END_OFF = "adapters of the middle third off", "adapters of the last sixth off"
EARLIER_OFF, LATER_OFF = "adapters of the earlier half off", "adapters of the later half off"


def penalty_rows(arm: Arm) -> Iterator[Row]:
    """The base model's greedy text under a repetition penalty: does a rule of decoding do as much?"""
    way = f"repetition penalty {PENALTY}"
    written = _written(arm, base_model(arm.subject), way, [RepetitionPenaltyLogitsProcessor(PENALTY)])
    yield _row(arm, way, written)


def blocking_rows(arm: Arm) -> Iterator[Row]:
    """What the model writes when it may not cite its training text: is the rest still diverse?"""
    blocker = CitationBlocker(arm.splits()["train"], tokenizer_of(arm.subject))
    yield _row(arm, "citations blocked", _written(arm, arm.trained()[0], "citations blocked", [blocker]))


def spectrum_rows(arm: Arm) -> Iterator[Row]:
    """The spectrum after the last block taken from the model, and given to the base model.

    The maps are fitted on the arm's validation texts, which nothing else is measured on.

    Raises:
        StudyError: these have fewer positions than the model is wide.
    """
    model, base, texts = arm.trained()[0], base_model(arm.subject), arm.splits()["validation"]
    width, positions = model.config.get_text_config().hidden_size, texts.shape[1] - SKIP
    if len(texts) * positions <= width:
        raise StudyError(
            f"{len(texts)} validation texts have {len(texts) * positions} states, and a spectrum of {width} dimensions "
            f"needs more: ask for --validation_texts {math.floor(width / positions) + 1}."
        )
    block = len(blocks_of(model)) - 1
    ours, theirs = (_states_after(each, block, texts) for each in (model, base))
    yield _changed(arm, BASE_SPECTRUM, model, mapped_output(model, block, rescaled_spectrum(ours, like=theirs)))
    yield _changed(arm, OWN_SPECTRUM, base, mapped_output(base, block, rescaled_spectrum(theirs, like=ours)))


def switching_rows(arm: Arm) -> Iterator[Row]:
    """The adapters of some blocks switched off: which of the trained blocks does the text need?"""
    model = arm.trained()[0]
    trained = sorted(trained_modules(model)["block"].unique().tolist())
    for way, blocks in switched_off(trained, everywhere=arm.count is None).items():
        yield _changed(arm, way, model, adapters_off(model, blocks))


def switched_off(trained: Sequence[int], everywhere: bool) -> dict[str, Sequence[int]]:
    """Which blocks are switched off, by the name of the change.

    Args:
        trained: numbers of the blocks with adapters.
        everywhere: these are all blocks. Then it is the middle third and the last sixth, as in chapter 09; else the
            earlier and the later half of them.
    """
    if not everywhere:
        half = len(trained) // 2
        return {EARLIER_OFF: trained[:half], LATER_OFF: trained[half:]}
    third, sixth = len(trained) // 3, max(1, len(trained) // 6)
    return {MIDDLE_OFF: trained[third : len(trained) - third], END_OFF: trained[-sixth:]}


def patching_rows(arm: Arm) -> Iterator[Row]:
    """The base model's states after the last trained block, put in where the text copies itself: do loops come back?"""
    model, way = arm.trained()[0], "states of the base model where it copies"
    last = int(trained_modules(model)["block"].max())
    yield _changed(arm, way, model, patched_output(model, base_model(arm.subject), last))


def _changed(arm: Arm, way: str, model: CausalLM, change: contextlib.AbstractContextManager[None]) -> Row:
    with change:
        written = _written(arm, model, way)
    return _row(arm, way, written)  # outside: the base model that gives likelihoods may be the changed one


def _written(arm: Arm, model: CausalLM, way: str, processors: Sequence[LogitsProcessor] = ()) -> Tensor:
    return continue_prompts(
        model,
        held_out(arm.trained_on, arm.subject)[:, :PROMPT_TOKENS],
        logits_processor=LogitsProcessorList([*processors]) if processors else None,
        progress=f"{arm.label}, {way}",
    )


def _row(arm: Arm, way: str, written: Tensor) -> Row:
    texts, source = held_out(arm.trained_on, arm.subject), arm.splits()["train"]
    return {"way": way, **text_row(written, texts, source, base_model(arm.subject))}


def _states_after(model: CausalLM, block: int, texts: Tensor) -> Tensor:
    """After one block at all positions but the first of each text, shape (n, d)."""
    return torch.cat([states[block][SKIP:] for states in stream_states(model, texts)])
