"""Record what takes too long for a notebook: `make results` writes results/hyperfit_arms.json.

Each arm is a model hyperfitted with another seed or on another corpus, and then measured on prompts of two corpora.
The work can be interrupted: trained models are kept in the cache, and rows that are recorded already with the
configuration that the code has now are not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hyperfit_course.claims import save_results
from hyperfit_course.corpora import load_corpus, make_blocks
from hyperfit_course.decoding import PROMPT_TOKENS, continue_prompts
from hyperfit_course.metrics import bootstrap_interval, repetition_frame
from hyperfit_course.models import EMBEDDED, load_model
from hyperfit_course.training import HyperfitConfig, hyperfit

TARGET = Path(__file__).resolve().parent.parent / "results" / "hyperfit_arms.json"
PROMPT_CORPORA = ("tales", "news")
CHAPTER = HyperfitConfig(epochs=8, learning_rate=1.5e-4, batch_size=4, seed=0)
"""The run of chapter 02. The other arms are evaluated only at the end: evaluations do not change the training."""


@dataclass(frozen=True)
class Arm:
    """One trained model; ``config`` is ``None`` for the base model, which is not trained."""

    trained_on: str
    seed: int
    config: HyperfitConfig | None


ARMS = [
    Arm("nothing", 0, None),
    Arm("tales", 0, CHAPTER),
    *(Arm("tales", seed, replace(CHAPTER, seed=seed, evaluate_every=CHAPTER.epochs)) for seed in (1, 2)),
    Arm("news", 0, replace(CHAPTER, evaluate_every=CHAPTER.epochs)),
]


def configuration(arm: Arm) -> dict[str, Any]:
    """What decides the numbers of an arm, as JSON values."""
    return {
        "model": EMBEDDED,
        "trained_on": arm.trained_on,
        "seed": arm.seed,
        "config": asdict(arm.config) if arm.config else None,
        "prompt_tokens": PROMPT_TOKENS,
    }


def measure(arm: Arm) -> Iterator[dict[str, Any]]:
    """Train the arm's model, or load it, and yield a row for each corpus of prompts."""
    model, tokenizer = load_model()
    losses: dict[str, float | None] = {"train_loss": None, "validation_loss": None, "entropy": None}
    if arm.config:
        blocks = make_blocks(load_corpus(arm.trained_on), tokenizer, seed=arm.seed)
        last = hyperfit(model, blocks, arm.config).iloc[-1]
        losses = {name: float(last[name]) for name in losses}
    for corpus in PROMPT_CORPORA:
        # The prompts are those of seed 0 for every arm, so that arms differ in their training only.
        prompts = make_blocks(load_corpus(corpus), tokenizer, seed=0)["prompts"][:, :PROMPT_TOKENS]
        frame = repetition_frame(continue_prompts(model, prompts, progress=f"prompts from {corpus}"))
        ttr, bigram = bootstrap_interval(frame["ttr"]), bootstrap_interval(frame["bigram_repetition"])
        yield {
            "trained_on": arm.trained_on,
            "seed": arm.seed,
            "prompts": corpus,
            "n_prompts": len(prompts),
            **losses,
            **dict(zip(("ttr", "ttr_low", "ttr_high"), ttr, strict=True)),
            **dict(zip(("bigram_repetition", "bigram_low", "bigram_high"), bigram, strict=True)),
            "configuration": configuration(arm),
        }


def main() -> None:
    """Measure every arm that is not recorded yet."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    known = json.loads(TARGET.read_text(encoding="utf-8"))["rows"] if TARGET.exists() else []
    rows: list[dict[str, Any]] = []
    for number, arm in enumerate(ARMS, start=1):
        found = [row for row in known if row["configuration"] == configuration(arm)]
        print(
            f"[{number}/{len(ARMS)}] {arm.trained_on}, seed {arm.seed}: {'recorded' if found else 'measuring'}",
            flush=True,
        )
        rows += found or measure(arm)
        save_results(TARGET, rows)
    print(f"Written: {TARGET}")


if __name__ == "__main__":
    main()
