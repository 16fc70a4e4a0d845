"""Let the second model read what is recorded: how likely does a model that wrote none of these texts find them?

    .venv/bin/python tools/second_reader.py

Writes results/second_reader.json, for chapter 08: of each text after the 30 prompts from tales, the mean
log-probability under Qwen2.5-Coder-1.5B-Instruct, beside that under the course's own model. Nothing is trained and
nothing written: the texts stand in results/texts. Goes on where it stopped. It is no part of `make results`, since the
second model is large: 1.1 GB to fetch, 14 GB of memory to load it the first time, and a quarter of an hour to read.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hyperfit_course.anatomy import CausalLM
from hyperfit_course.decoding import NEW_TOKENS, PROMPT_TOKENS
from hyperfit_course.models import load_model
from hyperfit_course.study.arms import base_model, held_out, tokenizer_of
from hyperfit_course.study.recording import Row, Task, record, recorded_texts
from hyperfit_course.study.records import recorded
from hyperfit_course.study.second_model import SECOND_MODEL, fetch_second_model
from hyperfit_course.study.writing import likelihood_row

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
WRITERS: dict[str, tuple[str, Row]] = {
    "base": ("full_arms", {"arm": "base"}),
    "hyperfitted": ("full_arms", {"trained_on": "tales", "epochs": 8}),
    "base, penalty 1.2": ("decodings", {"decoding": "repetition penalty", "strength": 1.2}),
    "base, top-p 0.9": ("decodings", {"decoding": "top-p", "strength": 0.9}),
}
"""What is read beside the reference: a file of results, and the values that its rows have."""


@functools.cache
def second_reader() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The second model and its tokenizer, fetched on the first call."""
    return load_model(str(fetch_second_model()))


@torch.no_grad()
def likelihood_of_texts(
    prompts: Sequence[str], written: Sequence[str], model: CausalLM, tokenizer: PreTrainedTokenizerBase
) -> list[float]:
    """Log-probability of each continuation after its prompt, in nats: a sum over the model's own tokens.

    A token that begins in the prompt and ends behind it counts for the continuation.
    """
    sums = []
    for prompt, text in zip(prompts, written, strict=True):
        read = tokenizer(prompt + text, return_offsets_mapping=True, return_tensors="pt")
        tokens, ends = read["input_ids"][0].to(model.device), read["offset_mapping"][0, 1:, 1]
        logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1].float()
        each = -F.cross_entropy(logits, tokens[1:], reduction="none")
        sums.append(each[(ends > len(prompt)).to(each.device)].sum().item())
    return sums


def rows_of(writer: str, seed: int, written: list[list[int]]) -> Iterator[Row]:
    """One row: a writer's texts, as tokens of the course's model, read by both models."""
    texts, decode = held_out("tales"), tokenizer_of().batch_decode
    prompts = texts[:, :PROMPT_TOKENS]
    sums = likelihood_of_texts(decode(prompts), decode(written), *second_reader())
    values = [round(total / NEW_TOKENS, 6) for total in sums]
    yield {
        "writer": writer,
        "seed": seed,
        "prompts": "tales",
        "second_likelihood": sum(values) / len(values),
        "second_likelihood_of_prompts": values,
        **likelihood_row(torch.cat([prompts, torch.tensor(written)], dim=1), base_model()),
    }


def tasks() -> list[Task]:
    """One for each text to read, the reference first."""
    found = [("reference", 0, held_out("tales")[:, PROMPT_TOKENS:].tolist())]
    for writer, (name, wanted) in WRITERS.items():
        texts = recorded_texts(name, RESULTS)
        for row in recorded(name):
            if {key: row[key] for key in wanted} == wanted and row["prompts"] == "tales":
                found.append((writer, row.get("seed", 0), texts[row["texts"]]))
    return [
        Task(
            f"{writer}, seed {seed}",
            {
                "reader": SECOND_MODEL.sha256,
                "texts": hashlib.sha256(json.dumps(written).encode()).hexdigest(),
                "writer": writer,
                "seed": seed,
            },
            functools.partial(rows_of, writer, seed, written),
        )
        for writer, seed, written in found
    ]


if __name__ == "__main__":
    record("second_reader", tasks(), RESULTS)
