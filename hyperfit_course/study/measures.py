"""What is measured of a model, as rows: what it writes (:mod:`~hyperfit_course.study.writing`), how it predicts, and
the shape of its states."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from peft import PeftModel
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from hyperfit_course.anatomy import CausalLM, blocks_of
from hyperfit_course.checkpoints import trained_weights
from hyperfit_course.decoding import PROMPT_TOKENS, continue_prompts
from hyperfit_course.geometry import MEASURES, measure, measure_layers
from hyperfit_course.logits import at_positions
from hyperfit_course.reweighting import StaticBias, deep_tail_share, token_ranks
from hyperfit_course.stream import SKIP, Collection, stream_states
from hyperfit_course.study.arms import COURSE, Arm, Subject, base_model, held_out
from hyperfit_course.study.controls import ShapedLike, damage, kl_of_logits
from hyperfit_course.study.recording import TEXTS, Row
from hyperfit_course.study.writing import diversity_across, repetition_row, text_row
from hyperfit_course.temperature import match_temperature, predictive_entropy
from hyperfit_course.training import arithmetic

SAMPLES = 2  #: Sampled continuations of each prompt.
SHAPED_SAMPLES = 4  #: The same where order and shape are taken apart.
LOSSES = ("train_loss", "validation_loss")  #: Columns of a history that rows hold of its last epoch.
CURVES = ("participation ratio", "standardised")
"""Measures of the curves over all layers that are recorded for every arm."""
GRID = ("participation ratio", "uncentred", "standardised")
"""Measures of the layers at the end of the network, which are taken with the first position and without."""


# Parts of rows


def prediction_row(model: CausalLM, texts: Tensor, of: Subject = COURSE) -> Row:
    """How a model predicts some texts, beside the base model: sharpness, divergence, ranks of its first choices."""

    def of_logits(before: Tensor, after: Tensor) -> Tensor:
        ranks = token_ranks(before, after.argmax(dim=-1))
        return torch.stack([predictive_entropy(after), kl_of_logits(before, after), ranks.float()], dim=-1)

    entropy, divergence, ranks = at_positions(of_logits, base_model(of), model, texts=texts).unbind(dim=-1)
    deep = deep_tail_share(ranks)
    return {
        "prompt_entropy": entropy.double().mean().item(),
        "kl_from_base": divergence.double().mean().item(),
        "override_share": (ranks > 1).double().mean().item(),
        "override_share_of_prompts": (ranks > 1).double().mean(dim=1).tolist(),
        "deep_tail_of_all": deep.of_all,
        "deep_tail_of_overrides": None if math.isnan(deep.of_overrides) else deep.of_overrides,
    }


def token_accuracy(model: CausalLM, texts: Tensor) -> float:
    """Share of the texts' tokens that are the model's first choice, after the tokens before them."""
    choices = at_positions(lambda logits: logits.argmax(dim=-1), model, texts=texts)
    return (choices == texts[:, 1:].cpu()).double().mean().item()


def mean_entropy(model: CausalLM, texts: Tensor, temperature: float = 1.0) -> float:
    """Mean predictive entropy over the positions of the texts, in nats."""
    return at_positions(lambda logits: predictive_entropy(logits, temperature), model, texts=texts).mean().item()


def shape_row(model: CausalLM, texts: Tensor) -> Row:
    """Participation ratios at the end of the network: before and after the last block, and after the final norm.

    ``before_last``, ``prenorm`` and ``postnorm`` leave out the first position of each text; ``..._all`` do not. Each is
    also taken around zero (``uncentred``) and with all dimensions scaled to variance 1 (``standardised``).
    """
    depth = len(blocks_of(model))
    places = dict(zip(("before_last", "prenorm", "postnorm"), (depth - 2, depth - 1, depth), strict=True))
    row: Row = {}
    collections = {
        "": Collection(texts, list(places.values()), SKIP),
        "_all": Collection(texts, list(places.values()), 0),
    }
    for states in stream_states(model, texts):
        for collection in collections.values():
            collection.add(states)
    for positions, collection in collections.items():
        for place, moments in zip(places, collection.finished().values(), strict=True):
            for name, value in measure(moments, GRID).set_index("measure")["value"].items():
                kind = "" if name == GRID[0] else f"_{name}"
                row[f"{place}{kind}{positions}"] = value
    return row


# Rows of an arm


def arm_rows(arm: Arm, corpora: Sequence[str]) -> Iterator[Row]:
    """Everything that the chapters ask of a model, a row for each corpus of prompts."""
    model, history = arm.trained()
    source = arm.splits()["train"]
    yield from model_rows(arm, model, run_row(arm, model, history, source), source, corpora)


def run_row(arm: Arm, model: CausalLM, history: pd.DataFrame, source: Tensor) -> Row:
    """How the training of an arm ended, and how well the model knows the training texts ``source``."""
    last = history.iloc[-1] if arm.config else {"epoch": 0} | dict.fromkeys(LOSSES, math.nan)
    return {
        **{name: None if math.isnan(last[name]) else float(last[name]) for name in LOSSES},
        "epochs": int(last["epoch"]),
        "parameters": sum(weight.numel() for weight in trained_weights(model).values()) if arm.config else 0,
        "token_accuracy": token_accuracy(model, source),
    }


def damaged_rows(arm: Arm, corpora: Sequence[str], on: str = "tales") -> Iterator[Row]:
    """The same of an arm whose trained change was turned into random directions (:func:`damage`), which are as far
    from the base model on texts of the corpus ``on``."""
    model = arm.trained()[0]
    assert isinstance(model, PeftModel), "only adapters are turned"
    factor = damage(model, base_model(arm.subject), held_out(on, arm.subject), arm.seed)
    source = arm.splits()["train"]
    of_run = {"factor": factor, "token_accuracy": token_accuracy(model, source)}
    for row in model_rows(arm, model, of_run, source, corpora):
        yield row | {"arm": f"{arm.label}, random directions"}


def model_rows(arm: Arm, model: CausalLM, of_run: Row, source: Tensor, corpora: Sequence[str]) -> Iterator[Row]:
    """Rows of a model that was trained as an arm says, or made from such a model; ``of_run`` goes into each."""
    for corpus in corpora:
        texts = held_out(corpus, arm.subject)
        greedy = continue_prompts(model, texts[:, :PROMPT_TOKENS], progress=f"{arm.label}, prompts from {corpus}")
        yield {
            "arm": arm.label,
            "rank": arm.rank,
            "learning_rate": arm.config.learning_rate if arm.config else None,
            "trained_on": arm.trained_on if arm.config else "nothing",
            "seed": arm.seed,
            "precision": arithmetic(model.device),
            "prompts": corpus,
            **of_run,
            **text_row(greedy, texts, source, base_model(arm.subject)),
            **prediction_row(model, texts, arm.subject),
            **shape_row(model, texts),
        }


def sampled_rows(arm: Arm, corpora: Sequence[str]) -> Iterator[Row]:
    """A model sampled, and the base model sampled at the temperature at which it is as sharp: chapter 03."""
    model, base = arm.trained()[0], base_model(arm.subject)
    for corpus in corpora:
        texts = held_out(corpus, arm.subject)
        target = mean_entropy(model, texts)
        t_star = match_temperature(base, target, texts)
        ways = {"base at T*": (base, t_star), "hyperfitted": (model, 1.0)}
        for way, (sampled, temperature) in ways.items():
            yield {
                "way": way,
                "trained_on": arm.trained_on,
                "seed": arm.seed,
                "prompts": corpus,
                "prompt_entropy": target,
                "temperature": temperature,
                **sampled_row(sampled, texts, temperature),
            }


def order_and_shape_rows(arm: Arm, corpus: str = "tales") -> Iterator[Row]:
    """Every pair of an order of the tokens and a shape of the distribution, of the base model and an arm's: chapter 03.

    Sampled after the prompts from a corpus, :data:`SHAPED_SAMPLES` a prompt.
    """
    models = {"base": base_model(arm.subject), "hyperfitted": arm.trained()[0]}
    texts = held_out(corpus, arm.subject)
    for order, model in models.items():
        for shape, other in models.items():
            processor = ShapedLike(other) if other is not model else None
            row = sampled_row(model, texts, 1.0, SHAPED_SAMPLES, processor)
            yield {"order": order, "shape": shape, "seed": arm.seed, "prompts": corpus, **row}


def shared_override_rows(arm: Arm, early: Arm) -> Iterator[Row]:
    """How many of an arm's overrides of the base model's first choice another arm makes too: chapter 04."""
    texts = held_out("tales", arm.subject)
    models = [base_model(arm.subject), arm.trained()[0], early.trained()[0]]
    choices = at_positions(lambda *logits: torch.stack([each.argmax(-1) for each in logits], -1), *models, texts=texts)
    before, late, soon = choices.unbind(dim=-1)
    both = (late != before) & (soon != before)
    overrides = (late != before).double().sum()
    yield {
        "seed": arm.seed,
        "override_share": (late != before).double().mean().item(),
        "early_override_share": (soon != before).double().mean().item(),
        "overridden_by_both": (both.double().sum() / overrides).item(),
        "same_choice": ((both & (late == soon)).double().sum() / overrides).item(),
    }


def curve_rows(arm: Arm, corpus: str) -> Iterator[Row]:
    """The shape of the states at every layer of a model, on texts of one corpus: a row a measure."""
    model, texts = arm.trained()[0], held_out(corpus, arm.subject)
    wanted = [(CURVES, SKIP)] if arm.rank else [(tuple(MEASURES), SKIP), (CURVES, 0)]
    for measures, skip in wanted:
        for name, rows in measure_layers(model, texts, measures, skip).groupby("measure", sort=False):
            yield {
                "model": arm.label,
                "corpus": corpus,
                "skip": skip,
                "measure": name,
                **{column: rows[column].round(4).tolist() for column in ("value", "low", "high")},
            }


# Rows of one model, decoded in another way


def sampled_row(
    model: CausalLM,
    texts: Tensor,
    temperature: float,
    samples: int = SAMPLES,
    processor: LogitsProcessor | None = None,
) -> Row:
    """Repetition of sampled continuations, several a prompt, and these."""
    prompts = texts[:, :PROMPT_TOKENS].repeat_interleave(samples, dim=0)
    drawn = continue_prompts(
        model,
        prompts,
        sample=True,
        temperature=temperature,
        logits_processor=LogitsProcessorList([processor]) if processor else None,
        progress=f"sampled at T = {temperature:.2f}",
    )
    return {**repetition_row(drawn, samples), **diversity_across(drawn), TEXTS: drawn.tolist()}


def temperature_rows(temperature: float) -> Iterator[Row]:
    """The base model sampled at one temperature: one row."""
    texts, base = held_out("tales", COURSE), base_model(COURSE)
    entropy = mean_entropy(base, texts, temperature)
    yield {"temperature": temperature, "entropy": entropy, **sampled_row(base, texts, temperature)}


def bias_rows(
    kind: str, bias: Tensor, alpha: float, model: CausalLM, source: Tensor, corpus: str = "tales", of: Subject = COURSE
) -> Iterator[Row]:
    """Greedy decoding of a model with a static bias, shape (vocabulary,), times alpha: one row."""
    processor, texts = LogitsProcessorList([StaticBias(bias, alpha)]), held_out(corpus, of)
    prompts = texts[:, :PROMPT_TOKENS]
    greedy = continue_prompts(model, prompts, logits_processor=processor, progress=f"{kind}, alpha = {alpha}")
    yield {"bias": kind, "alpha": alpha, **text_row(greedy, texts, source, base_model(of))}
