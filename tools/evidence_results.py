"""Record the evidence of chapters 07 to 09: `make results` writes these files too, after those of the other chapters.

    copying.json      how strongly every recorded model copies: passages, loops of the base model, heads
    rotated.json      the change of the middle or the last five blocks, and the same in random directions
    spectra.json      the spectrum after the last block taken away, given to the base model, and a random map
    switched.json     adapters on all blocks, those of some blocks switched off
    blocked.json      hyperfitted models that may not cite their training text
    chance.json       how much of unseen texts stands in the training text by chance
    stopped.json      runs that were stopped early: by validation loss, and between four epochs and the end
    fresh.json        as many updates on texts none of which comes twice
    decodings.json    the base model with a repetition penalty, top-p and min-p
    domains.json      trained on one corpus and tested on the others
    patched.json      states of the middle-five model put into the base model where its text copies, and the reverse
    orders.json       the same texts in another order
    amounts.json      8 to 128 texts at equal updates
    unsure.json       the middle five blocks with a penalty on confidence
    epochs.json       the middle and the last five blocks after 1 to 12 epochs
    headless.json     the base model without the attention heads that copy most
    long.json         greedy texts of 480 tokens

Most of it measures models that course_results.py trains, which are in the cache then. The whole takes about six and a
half hours of one core, and the last four files one of these. The committed rows were not made by this script alone: on
a GPU, 14 processes took its tasks and read texts in batches, with the same numbers up to rounding. A first
look at the adapters that are switched off and at the turned changes was taken with seed 0, so these files hold the
seeds 1 to 5.
"""

from __future__ import annotations

import functools
from dataclasses import replace

from course_results import (
    CURVE_CORPORA,
    EARLY,
    EQUAL_LOSS,
    EQUAL_STEPS,
    FEW_SEEDS,
    FULL,
    PROMPT_CORPORA,
    RANK,
    SEEDS,
    arm_tasks,
    five,
    record_named,
    seeds,
    trained_arms,
)

from hyperfit_course.decoding import PROMPT_TOKENS
from hyperfit_course.models import EMBEDDED
from hyperfit_course.study.arms import Arm
from hyperfit_course.study.causes import (
    TALES,
    copying_rows,
    headless_rows,
    patched_rows,
    rotated_rows,
    spectrum_rows,
    switched_rows,
    trained_rows,
)
from hyperfit_course.study.measures import arm_rows
from hyperfit_course.study.recording import Task
from hyperfit_course.study.rivals import blocked_rows, chance_rows, decoded_rows, long_rows, order_rows
from hyperfit_course.study.variants import Unsure, Variant

LATER_SEEDS = (1, 2, 3, 4, 5)
"""Those that nobody had looked at when the predictions were written."""
LATER_FEW = LATER_SEEDS[:3]
PARTS = {"0-9": range(10), "10-19": range(10, 20), "20-24": range(20, 25), "25-29": range(25, 30)}
"""Blocks of parts of the network."""
PATCHED = {17: LATER_FEW, 29: LATER_FEW, 12: (1,), 24: (1,), 28: (1,)}
"""After which blocks states are patched, with which seeds."""
OTHER_ORDER = 100  #: What is added to a seed for another order of its texts.
AMOUNTS = {16: FEW_SEEDS, 8: FEW_SEEDS, 64: SEEDS[:1], 128: SEEDS[:1]}
"""Numbers of texts other than 32, with the seeds of each."""
UPDATES_TEXTS = FULL.epochs * 32  #: How many texts the run of chapter 02 reads, each as often as it comes.
STOPS = (3, 6)
"""Epochs between those that are recorded with the other full runs."""
EPOCHS = (1, 2, 4, 8, 12)
"""After which the middle and the last five blocks are measured; the twelfth is the end of the run."""
DECODINGS = {"repetition penalty": (1.1, 1.2, 1.3), "top-p": (0.9,), "min-p": (0.1,)}
HEADS = (3, 10)
LONG = 480  #: Tokens of a long text: with the prompt 512.
LONG_PROMPTS = 15
ORDER = (
    "copying",
    "rotated",
    "spectra",
    "switched",
    "blocked",
    "chance",
    "stopped",
    "fresh",
    "decodings",
    "domains",
    "patched",
    "orders",
    "amounts",
    "unsure",
    "epochs",
    "headless",
    "long",
)
"""The files, the most wanted first."""


def domain_arms() -> dict[Arm, tuple[str, ...]]:
    """Models trained on each corpus, with the corpora that are not recorded with the other full runs."""
    trained = {arm: ("wiki",) for corpus in PROMPT_CORPORA for arm in seeds(Arm(FULL, corpus))}
    return {Arm(): ("wiki",), **trained, **dict.fromkeys(seeds(Variant(FULL, "wiki")), CURVE_CORPORA)}


def cause_tasks() -> dict[str, list[Task]]:
    """The files of chapter 09."""
    middle, last = (five(EQUAL_LOSS, place) for place in ("middle", "last"))
    turned = [arm for seed in LATER_SEEDS for kind in (middle, last) for arm in seeds(kind, (seed,))]
    after = [
        arm
        for epochs in EPOCHS
        for place in ("middle", "last")
        for arm in seeds(five(replace(EQUAL_STEPS, epochs=epochs), place), LATER_FEW[:2])
    ]
    unsure = Unsure(EQUAL_STEPS, rank=RANK, count=5, place="middle")
    parts = {name: list(blocks) for name, blocks in PARTS.items()}
    known = trained_arms()
    return {
        "copying": arm_tasks([*known["full_arms"], *known["equal_loss"]], copying_rows, measured="copying"),
        "rotated": arm_tasks(turned, functools.partial(rotated_rows, corpora=TALES), prompts=list(TALES)),
        "spectra": arm_tasks(seeds(Arm(FULL), LATER_SEEDS), spectrum_rows, prompts=list(TALES)),
        "switched": arm_tasks(
            seeds(Arm(EQUAL_STEPS, rank=RANK // 6), LATER_SEEDS),
            functools.partial(switched_rows, parts=parts),
            prompts=list(TALES),
            parts=parts,
        ),
        "patched": [
            task
            for block, numbers in PATCHED.items()
            for task in labelled(
                f"after block {block}",
                arm_tasks(
                    seeds(middle, numbers),
                    functools.partial(patched_rows, block=block),
                    prompts=list(TALES),
                    block=block,
                ),
            )
        ],
        "unsure": arm_tasks(seeds(unsure, LATER_FEW), trained_rows, prompts=list(TALES)),
        "epochs": arm_tasks(after, trained_rows, prompts=list(TALES)),
        "headless": [
            Task(
                f"{count} heads",
                {"model": EMBEDDED, "prompt_tokens": PROMPT_TOKENS, "prompts": list(TALES), "heads": count},
                functools.partial(headless_rows, count),
            )
            for count in HEADS
        ],
    }


def rival_tasks() -> dict[str, list[Task]]:
    """The files of chapters 07 and 08."""
    prompts = list(PROMPT_CORPORA)
    measured = functools.partial(arm_rows, corpora=PROMPT_CORPORA)
    amounts = [
        arm
        for number, numbers in AMOUNTS.items()
        for arm in seeds(Variant(replace(FULL, epochs=UPDATES_TEXTS // number), texts=number), numbers)
    ]
    fresh = Variant(replace(FULL, epochs=1), "wiki", texts=UPDATES_TEXTS)
    stopped = [
        *seeds(Arm(EARLY), LATER_SEEDS[2:]),
        *seeds(Arm(FULL), LATER_SEEDS[4:]),
        *(arm for epochs in STOPS for arm in seeds(Arm(replace(FULL, epochs=epochs)), SEEDS[:1])),
    ]
    orders = [(arm, Variant(replace(FULL, seed=arm.seed + OTHER_ORDER), drawn=arm.seed)) for arm in seeds(Arm(FULL))]
    return {
        "blocked": arm_tasks(
            seeds(Arm(FULL), SEEDS), functools.partial(blocked_rows, corpora=PROMPT_CORPORA), prompts=prompts
        ),
        "chance": arm_tasks(
            seeds(Arm(FULL), SEEDS), functools.partial(chance_rows, corpora=PROMPT_CORPORA), prompts=prompts
        ),
        "stopped": arm_tasks(stopped, measured, prompts=prompts),
        "fresh": arm_tasks(
            seeds(fresh), functools.partial(arm_rows, corpora=CURVE_CORPORA), prompts=list(CURVE_CORPORA)
        ),
        "decodings": [
            Task(
                f"{decoding} {strength}",
                {
                    "model": EMBEDDED,
                    "prompt_tokens": PROMPT_TOKENS,
                    "prompts": prompts,
                    "decoding": decoding,
                    "strength": strength,
                },
                functools.partial(decoded_rows, decoding, strength, PROMPT_CORPORA),
            )
            for decoding, strengths in DECODINGS.items()
            for strength in strengths
        ],
        "domains": [
            task
            for arm, corpora in domain_arms().items()
            for task in arm_tasks([arm], functools.partial(arm_rows, corpora=corpora), prompts=list(corpora))
        ],
        "orders": [
            task
            for arm, other in orders
            for task in arm_tasks([other], functools.partial(order_rows, arm, corpora=PROMPT_CORPORA), prompts=prompts)
        ],
        "amounts": arm_tasks(amounts, measured, prompts=prompts),
        "long": arm_tasks(
            [Arm(), *seeds(Arm(FULL))],
            functools.partial(long_rows, new_tokens=LONG, prompts=LONG_PROMPTS),
            new_tokens=LONG,
            n_prompts=LONG_PROMPTS,
        ),
    }


def labelled(part: str, tasks: list[Task]) -> list[Task]:
    """Tasks whose progress lines say more."""
    return [replace(task, label=f"{task.label}, {part}") for task in tasks]


def tasks() -> dict[str, list[Task]]:
    """Everything that is recorded, by the name of its file."""
    known = cause_tasks() | rival_tasks()
    return {name: known[name] for name in ORDER}


def main() -> None:
    """Record every file, or those that are named."""
    record_named(tasks(), __doc__)


if __name__ == "__main__":
    main()
