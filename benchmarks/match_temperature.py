"""How much memory does entropy matching take, compared with holding all logits?

Both ways find the temperature at which the embedded model has a given mean entropy over 4,096 positions:

- ``streamed``: :func:`hyperfit_course.distributions.match_temperature` with the model, a few positions at a time;
- ``whole``: the same function with the logits of all positions, computed first.

What counts is the peak above the memory of the loaded model. Writes results/benchmarks.json.
"""

from __future__ import annotations

import argparse
import gc
import time

import torch
from measuring import peak_memory_megabytes, reset_peak_memory, save_benchmark
from torch import Tensor
from transformers import PreTrainedModel

from hyperfit_course.corpora import load_corpus, make_blocks
from hyperfit_course.distributions import match_temperature
from hyperfit_course.models import load_model

TARGET_ENTROPY = 1.5
POSITIONS = 4096


@torch.no_grad()
def whole(model: PreTrainedModel, blocks: Tensor) -> float:
    """Match with all logits in memory."""
    logits = torch.cat([model(input_ids=block[None]).logits[0, :-1] for block in blocks])
    return match_temperature(logits, TARGET_ENTROPY)


def streamed(model: PreTrainedModel, blocks: Tensor) -> float:
    """Match with the model, a few positions at a time."""
    return match_temperature(model, TARGET_ENTROPY, blocks)


def main() -> None:
    """Measure both ways and write their peaks."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    model, tokenizer = load_model()
    blocks = make_blocks(load_corpus("news"), tokenizer, n_train=32, block_size=POSITIONS // 32 + 1)["train"]
    model(input_ids=blocks[:1])  # what the first call allocates once belongs to neither way
    rows = []
    for way in (streamed, whole):
        gc.collect()
        reset_peak_memory()
        loaded = peak_memory_megabytes()
        start = time.perf_counter()
        temperature = way(model, blocks)
        seconds = time.perf_counter() - start
        above = peak_memory_megabytes() - loaded
        rows.append(
            {
                "way": way.__name__,
                "positions": blocks[:, 1:].numel(),
                "temperature": round(temperature, 4),
                "seconds": round(seconds, 1),
                "megabytes_above_the_model": round(above),
            }
        )
        print(
            "{way:>8}: {megabytes_above_the_model} MB above the model, {seconds} s, T* = {temperature}".format(
                **rows[-1]
            )
        )
    save_benchmark("match_temperature", rows)


if __name__ == "__main__":
    main()
