"""What chapters 05 and 06 read from results/: LoRA on other blocks, with other ranks and seeds, and where it shows."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import pandas as pd
from peft import PeftModel
from recording import CHAPTER_02, Row, Task, base_model, end_shape_row, held_out, repetition_row
from torch import Tensor

from hyperfit_course.anatomy import CausalLM, blocks_of
from hyperfit_course.corpora import load_corpus, make_blocks
from hyperfit_course.decoding import PROMPT_TOKENS, continue_prompts
from hyperfit_course.geometry import MEASURES, SKIP, measure_layers
from hyperfit_course.late_stage import PLACES, choose_blocks, late_stage_lora, trained_modules
from hyperfit_course.metrics import repetition_frame
from hyperfit_course.models import EMBEDDED, load_model
from hyperfit_course.training import HyperfitConfig, hyperfit, training_precision

RANK = 12
"""The rank of chapter 06. A sixth of it, on all 30 blocks, has as many parameters as the whole of it on five."""
EQUAL_STEPS = HyperfitConfig(epochs=12, learning_rate=4e-3, batch_size=4, evaluate_every=0, evaluation_prompts=1)
"""The run of chapter 06, evaluated only at the end."""
EQUAL_LOSS = replace(EQUAL_STEPS, epochs=24, target_loss=0.3)
"""Until the mean loss of an epoch is that of about the eighth of the last five blocks; at most twice the steps."""
SEEDS = (0, 1, 2)
RANKS = (1, 3, 48)
LAST = (1, 2, 3, 8)
CORPORA = ("tales", "news", "wiki")
CURVES = ("participation ratio", "standardised")


@dataclass(frozen=True)
class Arm:
    """LoRA on ``count`` blocks at a place (``None``: on all blocks), trained until ``stop``."""

    place: str | None
    count: int | None
    rank: int
    stop: str
    seed: int

    @property
    def config(self) -> HyperfitConfig:
        """The settings of its training."""
        return replace(EQUAL_LOSS if self.stop == "equal loss" else EQUAL_STEPS, seed=self.seed)

    @property
    def label(self) -> str:
        """Its name in the chapters: ``last 5``, ``all blocks`` ..."""
        return f"{self.place} {self.count}" if self.place else "all blocks"


def places(stop: str) -> list[Arm]:
    """Five blocks at each place, and all blocks with as many parameters."""
    return [
        arm
        for seed in SEEDS
        for arm in (Arm(None, None, RANK // 6, stop, seed), *(Arm(place, 5, RANK, stop, seed) for place in PLACES))
    ]


def arms() -> dict[str, list[Arm]]:
    """The models of chapter 06, by the name of their file."""
    return {
        "late_stage_arms": [*(Arm(None, None, RANK, "equal steps", seed) for seed in SEEDS), *places("equal steps")],
        "equal_loss_arms": places("equal loss"),
        "late_stage_sweeps": [
            *(Arm("last", 5, rank, "equal steps", seed) for rank in RANKS for seed in SEEDS),
            *(Arm("last", count, RANK, "equal steps", seed) for count in LAST for seed in SEEDS),
        ],
    }


def configuration(arm: Arm) -> Row:
    """What decides the numbers of an arm."""
    return {
        "model": EMBEDDED,
        **asdict(arm),
        "trained_on": "tales",
        "config": asdict(arm.config),
        "prompt_tokens": PROMPT_TOKENS,
    }


def train(arm: Arm) -> tuple[PeftModel, pd.DataFrame]:
    """The arm's model, trained or from the cache, and its history."""
    model, tokenizer = load_model()
    blocks = make_blocks(load_corpus("tales"), tokenizer, seed=arm.seed)
    chosen = choose_blocks(model, arm.count, arm.place) if arm.count and arm.place else range(len(blocks_of(model)))
    adapted = late_stage_lora(model, list(chosen), arm.rank, seed=arm.seed)
    return adapted, hyperfit(adapted, blocks, arm.config)


def measure_arm(arm: Arm) -> Iterator[Row]:
    """Repetition, losses and the participation ratio at the end of the model."""
    model, history = train(arm)
    last = history.iloc[-1]
    texts = held_out("tales")
    greedy = continue_prompts(model, texts[:, :PROMPT_TOKENS], progress=arm.label)
    yield {
        "arm": arm.label,
        "rank": arm.rank,
        "stop": arm.stop,
        "seed": arm.seed,
        "parameters": int(trained_modules(model)["parameters"].sum()),
        "epochs": int(last["epoch"]),
        "precision": training_precision(model.device),
        **{name: float(last[name]) for name in ("train_loss", "validation_loss", "entropy")},
        **repetition_row(greedy),
        "ttr_of_prompts": repetition_frame(greedy)["ttr"].round(6).tolist(),
        **end_shape_row(model, texts),
    }


def texts_of(corpus: str) -> Tensor:
    """30 texts that no model of chapter 05 was trained on, shape (30, 128)."""
    if corpus != "wiki":
        return held_out(corpus)
    # The prompts of this small corpus are too few, and nothing was trained on its other texts.
    return make_blocks(load_corpus(corpus), load_model()[1], n_train=30, n_prompts=1, seed=0)["train"]


def model_of(arm: Arm | str) -> CausalLM:
    """A trained arm, or ``base``, or the ``hyperfitted`` model of chapter 02."""
    if isinstance(arm, Arm):
        return train(arm)[0]
    if arm == "base":
        return base_model()
    model, tokenizer = load_model()
    hyperfit(model, make_blocks(load_corpus("tales"), tokenizer, seed=0), CHAPTER_02)
    return model


def measure_curves(arm: Arm | str, corpus: str) -> Iterator[Row]:
    """The shape of the states at every place of a model, on texts of one corpus."""
    model, texts = model_of(arm), texts_of(corpus)
    wanted = [(CURVES, SKIP)] if isinstance(arm, Arm) else [(tuple(MEASURES), SKIP), (CURVES, 0)]
    for measures, skip in wanted:
        for name, rows in measure_layers(model, texts, measures, skip).groupby("measure", sort=False):
            yield {
                "model": arm.label if isinstance(arm, Arm) else arm,
                "texts": corpus,
                "skip": skip,
                "measure": name,
                **{column: rows[column].round(4).tolist() for column in ("value", "low", "high")},
            }


def tasks() -> dict[str, list[Task]]:
    """What is recorded, by the name of its file."""
    trained = {
        name: [
            Task(
                f"{arm.label}, rank {arm.rank}, {arm.stop}, seed {arm.seed}",
                configuration(arm),
                functools.partial(measure_arm, arm),
            )
            for arm in of_file
        ]
        for name, of_file in arms().items()
    }
    shown: list[Arm | str] = ["base", "hyperfitted"]
    shown += [
        Arm(None, None, RANK, "equal steps", 0),
        *(Arm(place, 5, RANK, "equal steps", 0) for place in ("first", "middle", "last")),
    ]
    curves = [
        Task(
            f"{arm.label if isinstance(arm, Arm) else arm} on {corpus}",
            {
                **(configuration(arm) if isinstance(arm, Arm) else {"model": EMBEDDED, "trained": arm}),
                **({"config": asdict(CHAPTER_02)} if arm == "hyperfitted" else {}),
                "texts": corpus,
            },
            functools.partial(measure_curves, arm, corpus),
        )
        for arm in shown
        for corpus in CORPORA
    ]
    return {**trained, "layer_curves": curves}
