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

from hyperfit_course.corpora import load_corpus, make_texts
from hyperfit_course.models import load_model
from hyperfit_course.temperature import match_temperature

TARGET_ENTROPY = 1.5
POSITIONS = 4096


@torch.no_grad()
def whole(model: PreTrainedModel, texts: Tensor) -> float:
    """Match with all logits in memory."""
    logits = torch.cat([model(input_ids=text[None]).logits[0, :-1] for text in texts])
    return match_temperature(logits, TARGET_ENTROPY)


def streamed(model: PreTrainedModel, texts: Tensor) -> float:
    """Match with the model, a few positions at a time."""
    return match_temperature(model, TARGET_ENTROPY, texts)


def main() -> None:
    """Measure both ways and write their peaks."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    model, tokenizer = load_model()
    texts = make_texts(load_corpus("news"), tokenizer, n_train=32, length=POSITIONS // 32 + 1)["train"]
    model(input_ids=texts[:1])  # what the first call allocates once belongs to neither way
    rows = []
    for way in (streamed, whole):
        gc.collect()
        reset_peak_memory()
        loaded = peak_memory_megabytes()
        start = time.perf_counter()
        temperature = way(model, texts)
        seconds = time.perf_counter() - start
        above = peak_memory_megabytes() - loaded
        rows.append(
            {
                "way": way.__name__,
                "positions": texts[:, 1:].numel(),
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
