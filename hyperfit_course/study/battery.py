"""What does a study measure of which model? Its arms, and for each part the rows that it gives."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from hyperfit_course.anatomy import CausalLM, blocks_of
from hyperfit_course.decoding import PROMPT_TOKENS, continue_prompts
from hyperfit_course.losses import has_plain_head, next_token_loss
from hyperfit_course.metrics import repetition_frame
from hyperfit_course.reweighting import static_bias
from hyperfit_course.study.arms import Arm, Subject, base_model, held_out, tokenizer_of
from hyperfit_course.study.changes import (
    blocking_rows,
    patching_rows,
    penalty_rows,
    spectrum_rows,
    switching_rows,
)
from hyperfit_course.study.config import PART_NAMES, StudyConfig, StudyError, parsed_arm
from hyperfit_course.study.controls import learned_bias, probable_bias
from hyperfit_course.study.measures import (
    bias_rows,
    curve_rows,
    damaged_rows,
    order_and_shape_rows,
    prediction_row,
    run_row,
    sampled_rows,
    shape_row,
)
from hyperfit_course.study.recording import Row
from hyperfit_course.study.selfchecks import check_adapters
from hyperfit_course.study.writing import text_row
from hyperfit_course.training import HyperfitConfig, arithmetic

PROMOTED = 500  #: Tokens with an offset in the static bias of Li et al. (2026).
STRENGTHS = (0.01, 0.1, 0.25, 0.5, 1.0)
ALPHAS = {"500 tokens": STRENGTHS, "all tokens": STRENGTHS, "learned": STRENGTHS[2:]}
"""Strengths of each static bias, as in chapter 04."""
TOGETHER = 4  #: Prompts that are continued together and one by one.


@dataclass(frozen=True)
class StudyArm(Arm):
    """An arm that keeps its model while its parts are measured."""

    def trained(self) -> tuple[CausalLM, pd.DataFrame]:
        """The arm's model and its history; of the base model no second copy is made."""
        return _trained(self) if self.config else (base_model(self.subject), pd.DataFrame())

    def untrained(self) -> CausalLM:
        """A new copy of the model to train.

        Raises:
            StudyError: the arm wants adapters, and the model is a mixture that cannot have them.
        """
        if self.rank is not None:
            check_adapters(base_model(self.subject))
        return super().untrained()


@functools.lru_cache(maxsize=1)
def _trained(arm: StudyArm) -> tuple[CausalLM, pd.DataFrame]:
    return Arm.trained(arm)


def forget() -> None:
    """Let go of the trained model that is in memory."""
    _trained.cache_clear()
    _bias.cache_clear()


def subject_of(config: StudyConfig) -> Subject:
    """What a resolved configuration studies."""
    sizes = (config.train_texts, config.validation_texts, config.prompts, config.length)
    return Subject(config.model, *(size or 0 for size in sizes))


def arms_of(config: StudyConfig) -> list[StudyArm]:
    """The base model, and every arm with every seed: whole comparisons are there early.

    Raises:
        StudyError: the rank cannot be shared among all blocks.
    """
    subject = subject_of(config)
    base = StudyArm(trained_on=config.corpus, subject=subject)
    return [base, *(_arm(config, subject, name, seed) for seed in config.seeds or () for name in config.arms or ())]


def _arm(config: StudyConfig, subject: Subject, name: str, seed: int) -> StudyArm:
    count, place = parsed_arm(name)
    full = name == "full"
    run = HyperfitConfig(
        epochs=(config.epochs if full else config.lora_epochs) or 0,
        learning_rate=(config.learning_rate if full else config.lora_learning_rate) or 0.0,
        batch_size=config.batch_size or 0,
        target_loss=config.target_loss or 0.0,
        evaluate_every=0,
        evaluation_prompts=1,
        seed=seed,
    )
    rank = None if full else config.rank
    if name == "all" and rank:
        depth = len(blocks_of(base_model(subject)))
        rank = round(rank * min(5, depth) / depth)  # as many parameters as the rank has on five blocks
        if not rank:
            raise StudyError(
                f"--rank {config.rank} is too small for the arm all, whose {depth} blocks share the rank of five: "
                f"choose {math.ceil(depth / 5)} or more."
            )
    return StudyArm(run, config.corpus, rank, count, place, subject)


@dataclass(frozen=True)
class Part:
    """One kind of measurement."""

    measure: Callable[[StudyArm], Iterator[Row]]
    of: Callable[[StudyArm], bool]  #: The arms that have it.


def tasks_of(config: StudyConfig) -> list[tuple[str, StudyArm]]:
    """All that a study measures: the name of a part and an arm, arm after arm, in the order of :data:`PART_NAMES`."""
    wanted = [name for name in PART_NAMES if name in (config.parts or ())]
    return [(name, arm) for arm in arms_of(config) for name in wanted if PARTS[name].of(arm)]


# Parts


def _named(arm: StudyArm, row: Row) -> Row:
    """A row with the arm that it is of."""
    return {"arm": arm.label, "seed": arm.seed, **row}


def training(arm: StudyArm) -> Iterator[Row]:
    """How the training went."""
    model, history = arm.trained()
    base, splits = base_model(arm.subject), arm.splits()
    row = run_row(arm, model, history, splits["train"])
    with torch.no_grad():
        before = next_token_loss(base, splits["validation"].to(base.device), has_plain_head(base)).item()
    losses = history["running_loss"].dropna().tolist()
    named = {"precision": arithmetic(model.device), **row, "validation_loss_before": before}
    yield _named(arm, {**named, "running_losses": losses})


def writing(arm: StudyArm) -> Iterator[Row]:
    """What the model writes after the prompts, as token ids and as text."""
    model, texts = arm.trained()[0], held_out(arm.trained_on, arm.subject)
    prompts = texts[:, :PROMPT_TOKENS]
    greedy = continue_prompts(model, prompts, progress=f"{arm.label}, greedy")
    read = tokenizer_of(arm.subject).batch_decode
    row = text_row(greedy, texts, arm.splits()["train"], base_model(arm.subject))
    yield _named(arm, {**row, "prompt_texts": read(prompts), "written": read(greedy)})


def prediction(arm: StudyArm) -> Iterator[Row]:
    """How the model predicts held-out texts."""
    row = prediction_row(arm.trained()[0], held_out(arm.trained_on, arm.subject), arm.subject)
    yield _named(arm, row)


def geometry(arm: StudyArm) -> Iterator[Row]:
    """The shape of the states at the end of the network."""
    yield _named(arm, shape_row(arm.trained()[0], held_out(arm.trained_on, arm.subject)))


def layers(arm: StudyArm) -> Iterator[Row]:
    """The shape of the states at every layer."""
    for row in curve_rows(arm, arm.trained_on):
        if row["skip"]:  # with the first position, a few massive activations decide all of it
            yield _named(arm, row)


def sampling(arm: StudyArm) -> Iterator[Row]:
    """Sampled text at equal mean sharpness."""
    for row in sampled_rows(arm, [arm.trained_on]):
        yield _named(arm, row)


def order(arm: StudyArm) -> Iterator[Row]:
    """Order and shape, apart."""
    for row in order_and_shape_rows(arm, arm.trained_on):
        yield _named(arm, row)


def bias(arm: StudyArm) -> Iterator[Row]:
    """Static biases on the base model."""
    for kind, alphas in ALPHAS.items():
        for alpha in alphas:
            source, offsets = arm.splits()["train"], _bias(arm, kind)
            rows = bias_rows(kind, offsets, alpha, base_model(arm.subject), source, arm.trained_on, arm.subject)
            for row in rows:
                yield _named(arm, row)


@functools.lru_cache(maxsize=1)
def _bias(arm: StudyArm, kind: str) -> Tensor:
    base, splits = base_model(arm.subject), arm.splits()
    if kind == "learned":
        return learned_bias(base, splits["train"], arm.seed)
    if kind == "all tokens":
        return static_bias(base, arm.trained()[0], None, splits["validation"])
    size = min(PROMOTED, base.get_output_embeddings().weight.shape[0])
    return probable_bias(base, arm.trained()[0], splits["validation"], size)


def damage(arm: StudyArm) -> Iterator[Row]:
    """The trained change turned into random directions, which changes the model: it is read anew afterwards."""
    try:
        yield from damaged_rows(arm, [arm.trained_on], arm.trained_on)
    finally:
        forget()


def batch(arm: StudyArm) -> Iterator[Row]:
    """Greedy text of the same prompts, continued together and one by one: rounding differs, and text may part."""
    model = arm.trained()[0]
    prompts = held_out(arm.trained_on, arm.subject)[:TOGETHER, :PROMPT_TOKENS]
    together = continue_prompts(model, prompts)
    alone = torch.cat([continue_prompts(model, prompt[None]) for prompt in prompts])
    same = (together == alone).cummin(dim=1).values.sum(dim=1)
    ttr = [float(repetition_frame(texts)["ttr"].mean()) for texts in (together, alone)]
    yield _named(arm, {"ttr_together": ttr[0], "ttr_alone": ttr[1], "equal_tokens_of_prompts": same.tolist()})


def _any(arm: StudyArm) -> bool:
    return True


def _base(arm: StudyArm) -> bool:
    return arm.config is None


def _trains(arm: StudyArm) -> bool:
    return arm.config is not None


def _all_weights(arm: StudyArm) -> bool:
    return arm.config is not None and arm.rank is None


def _adapts(arm: StudyArm) -> bool:
    return arm.rank is not None


def _adapts_several(arm: StudyArm) -> bool:
    return arm.rank is not None and arm.count != 1


def _adapts_before_the_end(arm: StudyArm) -> bool:
    return arm.rank is not None and arm.place not in (None, "last")


def _change(rows: Callable[[Arm], Iterator[Row]], of: Callable[[StudyArm], bool]) -> Part:
    """A part of :mod:`~hyperfit_course.study.changes`."""
    return Part(lambda arm: (_named(arm, row) for row in rows(arm)), of)


PARTS = {
    "training": Part(training, _trains),
    "writing": Part(writing, _any),
    "prediction": Part(prediction, _any),
    "geometry": Part(geometry, _any),
    "layers": Part(layers, _any),
    "sampling": Part(sampling, _trains),
    "order": Part(order, _trains),
    "bias": Part(bias, _all_weights),
    "penalty": _change(penalty_rows, _base),
    "blocking": _change(blocking_rows, _all_weights),
    "spectrum": _change(spectrum_rows, _all_weights),
    "switching": _change(switching_rows, _adapts_several),
    "patching": _change(patching_rows, _adapts_before_the_end),
    "damage": Part(damage, _adapts),
    "batch": Part(batch, _base),
}
