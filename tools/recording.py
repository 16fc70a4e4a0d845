"""How rows get into results/: a file of rows is measured task by task, and goes on where it stopped."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from hyperfit_course.anatomy import CausalLM, blocks_of
from hyperfit_course.claims import save_results
from hyperfit_course.corpora import load_corpus, make_blocks
from hyperfit_course.geometry import layer_states, measure
from hyperfit_course.metrics import bootstrap_interval, repetition_frame
from hyperfit_course.models import load_model
from hyperfit_course.training import HyperfitConfig

CHAPTER_02 = HyperfitConfig(epochs=8, learning_rate=1.5e-4, batch_size=4, seed=0)
"""The run of chapter 02."""
RESULTS = Path(__file__).resolve().parent.parent / "results"

Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A measurement that gives rows; ``configuration`` is what decides their numbers, as JSON values."""

    label: str
    configuration: Row
    measure: Callable[[], Iterable[Row]]


@functools.cache
def base_model() -> PreTrainedModel:
    """The model before any training."""
    return load_model()[0]


@functools.cache
def held_out(corpus: str) -> Tensor:
    """Texts that no arm was trained on, shape (30, 128). They are those of seed 0 for every arm: arms differ in
    their training only."""
    return make_blocks(load_corpus(corpus), load_model()[1], seed=0)["prompts"]


def repetition_row(continuations: Tensor, samples: int = 1) -> Row:
    """Type-token ratio and bigram repetition with their intervals over prompts, each the mean of its samples."""
    frame = repetition_frame(continuations)
    of_prompt = frame.groupby(frame.index // samples).mean()
    ttr, bigram = bootstrap_interval(of_prompt["ttr"]), bootstrap_interval(of_prompt["bigram_repetition"])
    return {
        "n_prompts": len(of_prompt),
        **dict(zip(("ttr", "ttr_low", "ttr_high"), ttr, strict=True)),
        **dict(zip(("bigram_repetition", "bigram_repetition_low", "bigram_repetition_high"), bigram, strict=True)),
    }


def end_shape_row(model: CausalLM, texts: Tensor) -> Row:
    """Participation ratio after the last block, before and after the final norm, with their intervals over texts."""
    depth = len(blocks_of(model))
    row: Row = {}
    for name, moments in zip(
        ("prenorm", "postnorm"), layer_states(model, texts, [depth - 1, depth]).values(), strict=True
    ):
        ratio = measure(moments, ["participation ratio"]).iloc[0]
        row |= {name: ratio["value"], f"{name}_low": ratio["low"], f"{name}_high": ratio["high"]}
    return row


def record(name: str, wanted: list[Task], folder: Path = RESULTS) -> None:
    """Measure the tasks that are not recorded yet, and save after each of them."""
    target = folder / f"{name}.json"
    recorded = json.loads(target.read_text(encoding="utf-8"))["rows"] if target.exists() else []
    rows_of = [[row for row in recorded if row["configuration"] == task.configuration] for task in wanted]

    def save() -> None:
        save_results(target, [row for rows in rows_of for row in rows])

    if sum(map(len, rows_of)) < len(recorded):
        save()  # without the rows that are no longer wanted
    for number, task in enumerate(wanted):
        found = bool(rows_of[number])
        print(f"{name} [{number + 1}/{len(wanted)}] {task.label}: {'recorded' if found else 'measuring'}", flush=True)
        if not found:
            rows_of[number] = [row | {"configuration": task.configuration} for row in task.measure()]
            save()
