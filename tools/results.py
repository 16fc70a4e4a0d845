"""Record what takes too long for a notebook: `make results` writes the files in results/ that the chapters plot.

    hyperfit_arms.json      other seeds and another corpus: repetition, matched temperature and ranks of each model
    temperature_sweep.json  the base model sampled at many temperatures
    bias_sweep.json         the base model with a static bias of many strengths
    late_stage_arms.json    LoRA on all blocks and on five at other places, for equal steps
    equal_loss_arms.json    the same to an equal training loss
    late_stage_sweeps.json  LoRA of other ranks on the last five blocks, and on other numbers of last blocks
    layer_curves.json       the participation ratio at every place of these models, on three corpora

The work can be interrupted: trained models are kept in the cache, and rows that are recorded already with the
configuration that the code has now are not measured again.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import late_stage_tasks
import torch
from recording import CHAPTER_02, Row, Task, base_model, held_out, record, repetition_row
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel

from hyperfit_course.corpora import load_corpus, make_blocks
from hyperfit_course.decoding import PROMPT_TOKENS, continue_prompts
from hyperfit_course.distributions import (
    StaticBias,
    deep_tail_share,
    match_temperature,
    predictive_entropy,
    static_bias,
    stream_logits,
    token_ranks,
)
from hyperfit_course.metrics import repetition_frame
from hyperfit_course.models import EMBEDDED, load_model
from hyperfit_course.training import HyperfitConfig, hyperfit

PROMPT_CORPORA = ("tales", "news")
TEMPERATURES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
SAMPLES = 2
"""Sampled continuations of each prompt."""
ALPHAS = (0.01, 0.1, 0.25, 0.5, 1.0)
BIASED_TOKENS = {"500 tokens": 500, "all tokens": None}


@dataclass(frozen=True)
class Arm:
    """One trained model; ``config`` is ``None`` for the base model, which is not trained."""

    trained_on: str
    seed: int
    config: HyperfitConfig | None


ARMS = [
    Arm("nothing", 0, None),
    Arm("tales", 0, CHAPTER_02),
    *(Arm("tales", seed, replace(CHAPTER_02, seed=seed, evaluate_every=0)) for seed in (1, 2)),
    Arm("news", 0, replace(CHAPTER_02, evaluate_every=0)),
]


def sampled_row(model: PreTrainedModel, texts: Tensor, temperature: float) -> Row:
    """Repetition of sampled continuations, ``SAMPLES`` a prompt."""
    prompts = texts[:, :PROMPT_TOKENS].repeat_interleave(SAMPLES, dim=0)
    label = f"sampled at T = {temperature:.2f}"
    return repetition_row(
        continue_prompts(model, prompts, sample=True, temperature=temperature, progress=label), SAMPLES
    )


def mean_entropy(model: PreTrainedModel, texts: Tensor, temperature: float = 1.0) -> float:
    """Mean predictive entropy over the positions of the texts, in nats."""
    return torch.cat([predictive_entropy(part, temperature) for part in stream_logits(model, texts)]).mean().item()


def configuration(arm: Arm) -> Row:
    """What decides the numbers of an arm."""
    return {
        "model": EMBEDDED,
        "trained_on": arm.trained_on,
        "seed": arm.seed,
        "config": asdict(arm.config) if arm.config else None,
        "prompt_tokens": PROMPT_TOKENS,
        "samples": SAMPLES,
    }


def measure_arm(arm: Arm) -> Iterator[Row]:
    """Train the arm's model, or load it, and yield a row for each corpus of prompts."""
    model, tokenizer = load_model()
    losses: dict[str, float | None] = {"train_loss": None, "validation_loss": None, "entropy": None}
    if arm.config:
        blocks = make_blocks(load_corpus(arm.trained_on), tokenizer, seed=arm.seed)
        last = hyperfit(model, blocks, arm.config).iloc[-1]
        losses = {name: float(last[name]) for name in losses}
    for corpus in PROMPT_CORPORA:
        texts = held_out(corpus)
        greedy = continue_prompts(model, texts[:, :PROMPT_TOKENS], progress=f"prompts from {corpus}")
        yield {
            "trained_on": arm.trained_on,
            "seed": arm.seed,
            "prompts": corpus,
            **losses,
            **repetition_row(greedy),
            **(compare_with_base(model, texts) if arm.config else {}),
        }


def compare_with_base(model: PreTrainedModel, texts: Tensor) -> Row:
    """What chapters 03 and 04 ask of a hyperfitted model: is it a temperature, and which tokens does it choose?"""
    prompt_entropy = mean_entropy(model, texts)
    t_star = match_temperature(base_model(), prompt_entropy, texts)
    ways = {"base_at_t_star": sampled_row(base_model(), texts, t_star), "sampled": sampled_row(model, texts, 1.0)}
    pairs = zip(stream_logits(base_model(), texts), stream_logits(model, texts), strict=True)
    ranks = torch.cat([token_ranks(before, after.argmax(dim=-1)) for before, after in pairs])
    deep = deep_tail_share(ranks)
    return {
        "prompt_entropy": prompt_entropy,
        "t_star": t_star,
        **{
            f"{way}_{name}": row[name]
            for way, row in ways.items()
            for name in ("ttr", "ttr_low", "ttr_high", "bigram_repetition")
        },
        "override_share": (ranks > 1).double().mean().item(),
        "deep_tail_of_all": deep.of_all,
        "deep_tail_of_overrides": deep.of_overrides,
    }


def measure_temperature(temperature: float) -> Iterator[Row]:
    """Sample from the base model at one temperature."""
    texts = held_out("tales")
    entropy = mean_entropy(base_model(), texts, temperature)
    yield {"temperature": temperature, "entropy": entropy, **sampled_row(base_model(), texts, temperature)}


@functools.cache
def bias(kind: str) -> Tensor:
    """The static bias of the chapter's hyperfitted model, from validation tales, shape (vocabulary,)."""
    tuned, tokenizer = load_model()
    blocks = make_blocks(load_corpus("tales"), tokenizer, seed=0)
    hyperfit(tuned, blocks, CHAPTER_02)
    return static_bias(base_model(), tuned, BIASED_TOKENS[kind], blocks["validation"])


def measure_bias(kind: str, alpha: float) -> Iterator[Row]:
    """Decode greedily from the base model with a static bias."""
    prompts = held_out("tales")[:, :PROMPT_TOKENS]
    processor = LogitsProcessorList([StaticBias(bias(kind), alpha)])
    continuations = continue_prompts(base_model(), prompts, logits_processor=processor, progress=f"alpha = {alpha}")
    per_prompt = repetition_frame(continuations)["ttr"].round(6).tolist()
    yield {"bias": kind, "alpha": alpha, **repetition_row(continuations), "ttr_of_prompts": per_prompt}


def tasks() -> dict[str, list[Task]]:
    """Everything that is recorded, by the name of its file."""
    common = {"model": EMBEDDED, "prompt_tokens": PROMPT_TOKENS, "prompts": "tales"}
    arms = [
        Task(f"{arm.trained_on}, seed {arm.seed}", configuration(arm), functools.partial(measure_arm, arm))
        for arm in ARMS
    ]
    temperatures = [
        Task(
            f"T = {temperature}",
            {**common, "temperature": temperature, "samples": SAMPLES},
            functools.partial(measure_temperature, temperature),
        )
        for temperature in TEMPERATURES
    ]
    biases = [
        Task(
            f"bias of {kind}, alpha = {alpha}",
            {**common, "bias": kind, "alpha": alpha, "config": asdict(CHAPTER_02)},
            functools.partial(measure_bias, kind, alpha),
        )
        for kind in BIASED_TOKENS
        for alpha in ALPHAS
    ]
    return {
        "hyperfit_arms": arms,
        "temperature_sweep": temperatures,
        "bias_sweep": biases,
        **late_stage_tasks.tasks(),
    }


def main() -> None:
    """Record every file."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for name, wanted in tasks().items():
        record(name, wanted)


if __name__ == "__main__":
    main()
