"""Record what takes too long for a notebook: `make results` writes the files in results/ that the chapters plot.

    full_arms.json         the base model, and models all weights of which were trained: seeds, news, stopped early
    equal_loss.json        LoRA on five blocks at several places, and on all, trained to an equal training loss
    equal_steps.json       the same for equal steps
    sampled.json           these models sampled, and the base model at the temperature at which it is as sharp
    order_and_shape.json   the order of the tokens from one model, the shape of the distribution from another
    shared_overrides.json  which overrides of a hyperfitted model are those of one that was stopped early
    biases.json            static biases: read off a hyperfitted model, or trained
    windows.json           five trained blocks at other depths
    rates.json             the last and the middle five blocks with other learning rates
    damage.json            the change of the middle five blocks turned into random directions
    whole_blocks.json      all weights of the last or the middle five blocks, without adapters
    last_blocks.json       LoRA of other ranks on the last five blocks, and on other numbers of last blocks
    temperatures.json      the base model sampled at many temperatures
    curves.json            the participation ratio at every layer of some models, on three corpora
    lab_NAME.json          of each lab, what the function `tasks` of its module asks for

The work can be interrupted: rows that are recorded already with the configuration that the code has now are not
measured again, and trained models are kept in the cache. All is trained in float32, so that rows of different machines
can be compared. What the models wrote stands in results/texts/.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from hyperfit_course.decoding import PROMPT_TOKENS
from hyperfit_course.late_stage import PLACES
from hyperfit_course.models import EMBEDDED
from hyperfit_course.reweighting import static_bias
from hyperfit_course.sources import PACKAGE
from hyperfit_course.study.arms import Arm, base_model
from hyperfit_course.study.controls import learned_bias, probable_bias
from hyperfit_course.study.measures import (
    SAMPLES,
    SHAPED_SAMPLES,
    arm_rows,
    bias_rows,
    curve_rows,
    damaged_rows,
    order_and_shape_rows,
    sampled_rows,
    shared_override_rows,
    temperature_rows,
)
from hyperfit_course.study.recording import Row, Task, record
from hyperfit_course.training import HyperfitConfig

RESULTS = Path(__file__).resolve().parent.parent / "results"
PROMPT_CORPORA = ("tales", "news")
CURVE_CORPORA = ("tales", "news", "wiki")
SEEDS = (0, 1, 2, 3, 4)
"""Of the arms that headlines rest on."""
FEW_SEEDS = SEEDS[:3]
"""Of all others."""

FULL = HyperfitConfig(epochs=8, learning_rate=1.5e-4, batch_size=4, evaluate_every=0, evaluation_prompts=1)
"""The run of chapter 02, evaluated only at the end."""
EARLY = replace(FULL, epochs=2)
"""The same, stopped where the validation loss is lowest of the epochs that chapter 02 measures."""
HALFWAY = replace(FULL, epochs=4)
"""The same, stopped at a training loss of about 0.7."""
RANK = 12
"""The rank of chapter 06. A sixth of it, on all 30 blocks, has as many parameters as the whole of it on five."""
EQUAL_STEPS = replace(FULL, epochs=12, learning_rate=4e-3)
"""The run of chapter 06."""
EQUAL_LOSS = replace(EQUAL_STEPS, epochs=24, target_loss=0.3)
"""Until the mean loss of an epoch is that of about the eighth of the last five blocks; at most twice the steps."""
WHOLE_BLOCKS = replace(FULL, epochs=24, target_loss=0.3)
"""The weights of five blocks instead of adapters, with the learning rate of full fine-tuning, to the same loss."""
WINDOWS = (5, 10, 18, 21)
"""First blocks of five; the windows from 0, 13 and 25 on are the first, the middle and the last five."""
RATES = (1e-3, 2e-3, 8e-3)
RANKS = (1, 3, 48)
LAST = (1, 2, 3, 8)
TEMPERATURES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
ALPHAS = (0.01, 0.1, 0.25, 0.5, 1.0)


def seeds(arm: Arm, numbers: Iterable[int] = FEW_SEEDS) -> list[Arm]:
    """One kind of arm with some training seeds."""
    assert arm.config
    return [replace(arm, config=replace(arm.config, seed=seed)) for seed in numbers]


def five(config: HyperfitConfig, place: str | int, rank: int | None = RANK) -> Arm:
    """Five trained blocks at a place."""
    return Arm(config, rank=rank, count=5, place=place)


def by_seed(arms: Iterable[Arm]) -> list[Arm]:
    """Kinds of arms, one seed after the other: so whole comparisons are there early."""
    return [arm for of_seed in zip(*(seeds(arm, SEEDS) for arm in arms), strict=True) for arm in of_seed]


def trained_arms() -> dict[str, list[Arm]]:
    """The models that are measured in one form, by the name of their file."""
    on_all = {config: Arm(config, rank=RANK // 6) for config in (EQUAL_STEPS, EQUAL_LOSS)}
    return {
        "full_arms": [
            Arm(),
            *seeds(Arm(FULL), SEEDS),
            *(arm for others in (Arm(EARLY), Arm(HALFWAY), Arm(FULL, "news")) for arm in seeds(others)),
        ],
        "equal_loss": by_seed([*(five(EQUAL_LOSS, place) for place in PLACES), on_all[EQUAL_LOSS]]),
        "equal_steps": [
            *by_seed([*(five(EQUAL_STEPS, place) for place in PLACES), on_all[EQUAL_STEPS]]),
            *seeds(Arm(EQUAL_STEPS, rank=RANK)),
        ],
        "windows": [arm for start in WINDOWS for arm in seeds(five(EQUAL_LOSS, start))],
        "rates": [
            arm
            for rate in RATES
            for place in ("last", "middle")
            for arm in seeds(five(replace(EQUAL_LOSS, learning_rate=rate), place))
        ],
        "whole_blocks": [arm for place in ("last", "middle") for arm in seeds(five(WHOLE_BLOCKS, place, None))],
        "last_blocks": [
            *(arm for rank in RANKS for arm in seeds(five(EQUAL_STEPS, "last", rank))),
            *(arm for count in LAST for arm in seeds(Arm(EQUAL_STEPS, rank=RANK, count=count, place="last"))),
        ],
    }


def curve_arms() -> list[Arm]:
    """The models of chapter 05."""
    return [Arm(), Arm(FULL), Arm(EQUAL_STEPS, rank=RANK), *(five(EQUAL_STEPS, p) for p in ("first", "middle", "last"))]


@functools.cache
def model_bias(arm: Arm, tokens: int | None) -> Tensor:
    """The static bias of an arm, from its validation texts, shape (vocabulary,): of some tokens, those that became more
    probable, or of all."""
    model, texts = arm.trained()[0], arm.splits()["validation"]
    if tokens is None:
        return static_bias(base_model(arm.subject), model, None, texts)
    return probable_bias(base_model(arm.subject), model, texts, tokens)


@functools.cache
def trained_bias(arm: Arm) -> Tensor:
    """The bias that is trained on the texts of an arm, shape (vocabulary,)."""
    return learned_bias(base_model(arm.subject), arm.splits()["train"], arm.seed)


def measure_bias(kind: str, arm: Arm, alpha: float) -> Iterator[Row]:
    """Decode with a bias, which is made when it is first wanted."""
    bias = trained_bias(arm) if kind == "learned" else model_bias(arm, 500 if kind == "500 tokens" else None)
    model = arm.trained()[0] if kind == "taken out" else base_model(arm.subject)
    for row in bias_rows(kind, bias, alpha, model, arm.splits()["train"]):
        yield {"seed": arm.seed, **row}


BIASES = {"500 tokens": ALPHAS, "all tokens": ALPHAS, "learned": ALPHAS[2:], "taken out": (-1.0,)}
"""Strengths of each bias: two are read off a model and put on the base model, one is trained, and one is taken from
the model itself."""


def described(arm: Arm) -> list[str]:
    """What tells arms of one label apart, for progress lines."""
    if not arm.config:
        return []
    rank = [f"rank {arm.rank}"] if arm.rank else []
    return [*rank, f"{arm.config.epochs} epochs", f"rate {arm.config.learning_rate:g}", f"seed {arm.seed}"]


def arm_tasks(arms: Iterable[Arm], measure: Callable[..., Iterable[Row]], **more: object) -> list[Task]:
    """A measurement of each arm; ``more`` decides its numbers beside the arm."""
    return [
        Task(
            ", ".join(f"{part}" for part in (arm.label, arm.trained_on, *described(arm))),
            {**arm.configuration(), "prompt_tokens": PROMPT_TOKENS, **more},
            functools.partial(measure, arm),
        )
        for arm in arms
    ]


def tasks() -> dict[str, list[Task]]:
    """Everything that is recorded, by the name of its file, the most wanted first."""
    common = {"model": EMBEDDED, "prompt_tokens": PROMPT_TOKENS, "prompts": "tales"}
    full = seeds(Arm(FULL))
    measured = functools.partial(arm_rows, corpora=PROMPT_CORPORA)
    arms = {
        name: arm_tasks(of_file, measured, prompts=list(PROMPT_CORPORA)) for name, of_file in trained_arms().items()
    }
    shared = [
        Task(
            f"seed {arm.seed}",
            {**common, "late": arm.configuration(), "early": early.configuration()},
            functools.partial(shared_override_rows, arm, early),
        )
        for arm, early in zip(full, seeds(Arm(EARLY)), strict=True)
    ]
    biases = [
        Task(
            f"bias {kind}, alpha = {alpha}, seed {arm.seed}",
            {**common, "bias": kind, "alpha": alpha, "arm": arm.configuration()},
            functools.partial(measure_bias, kind, arm, alpha),
        )
        for arm in full
        for kind, alphas in BIASES.items()
        for alpha in alphas
    ]
    temperatures = [
        Task(
            f"T = {temperature}",
            {**common, "temperature": temperature, "samples": SAMPLES},
            functools.partial(temperature_rows, temperature),
        )
        for temperature in TEMPERATURES
    ]
    curves = [
        Task(
            f"{arm.label} on {corpus}",
            {**arm.configuration(), "texts": corpus},
            functools.partial(curve_rows, arm, corpus),
        )
        for arm in curve_arms()
        for corpus in CURVE_CORPORA
    ]
    sampled = functools.partial(sampled_rows, corpora=PROMPT_CORPORA)
    damaged = functools.partial(damaged_rows, corpora=PROMPT_CORPORA)
    middle = seeds(five(EQUAL_LOSS, "middle"))
    return {
        "full_arms": arms.pop("full_arms"),
        "sampled": arm_tasks(
            [*seeds(Arm(FULL), SEEDS), *seeds(Arm(FULL, "news"))],
            sampled,
            prompts=list(PROMPT_CORPORA),
            samples=SAMPLES,
        ),
        "order_and_shape": arm_tasks(full, order_and_shape_rows, prompts=["tales"], samples=SHAPED_SAMPLES),
        "shared_overrides": shared,
        "biases": biases,
        **arms,
        "damage": arm_tasks(middle, damaged, prompts=list(PROMPT_CORPORA), change="random directions"),
        "temperatures": temperatures,
        "curves": curves,
        **lab_tasks(),
    }


def lab_tasks() -> dict[str, list[Task]]:
    """What the labs record: those whose module has a function ``tasks``."""
    names = sorted(path.stem for path in (PACKAGE / "labs").glob("[a-z]*.py"))
    labs = {name: importlib.import_module(f"hyperfit_course.labs.{name}") for name in names}
    return {f"lab_{name}": lab.tasks() for name, lab in labs.items() if hasattr(lab, "tasks")}


def record_named(known: dict[str, list[Task]], description: str | None) -> None:
    """Record every file of some tasks, or those that the command line names."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"such as {next(iter(known))} (default: all)")
    names = parser.parse_args().names
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"there is no {', '.join(unknown)}: choose from {', '.join(known)}")
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    for name in names or known:
        record(name, known[name], RESULTS)


def main() -> None:
    """Record the files of chapters 02 to 06."""
    record_named(tasks(), __doc__)


if __name__ == "__main__":
    main()
