"""Kill a study of a tiny model at random moments, start it again, and compare it with an undisturbed one.

    .venv/bin/python tools/study_kills.py --kills 10 --seed 0

Each study runs in a process of its own with a cache of its own, and is killed as by `kill -9`: nothing is cleaned up. A
study that ends before its next kill is compared, and another one begins. All have to end with the JSON of the
undisturbed one, times and machine aside. It takes about a minute on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hyperfit_course.artifacts import CACHE_VARIABLE
from hyperfit_course.study.config import CHANGES, Names, StudyConfig
from hyperfit_course.study.run import study

PARTS = ("training", "writing", "prediction", "geometry", *CHANGES, "batch")
SHORTEST = 0.02  #: Seconds from the start of a process to the earliest kill.


def main(arguments: list[str] | None = None) -> int:
    """Run the studies; returns 0 if all are the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        return compare(Path(folder), options.kills, random.Random(options.seed))


def compare(folder: Path, kills: int, moments: random.Random) -> int:
    """Run one study undisturbed and others with that many kills, and compare what they leave."""
    save_model(folder / "model")
    began = time.monotonic()
    start(folder, "undisturbed").join()
    lasts = time.monotonic() - began
    expected = left_by(folder / "undisturbed")
    print(f"Undisturbed: {lasts:.1f} s, {len(expected['rows'])} rows", flush=True)
    number = hit = 0
    while True:
        process = start(folder, f"study{number}")
        process.join(None if hit == kills else moments.uniform(SHORTEST, lasts))
        if process.is_alive():
            process.kill()
            process.join()
            hit += 1
            rows = len([*(folder / f"study{number}").glob("rows/*.json")])
            print(f"Kill {hit}: study {number} has {rows} finished parts", flush=True)
            continue
        same = process.exitcode == 0 and left_by(folder / f"study{number}") == expected
        print(f"Study {number} ended: {'the same JSON' if same else 'ANOTHER JSON'}", flush=True)
        if not same or hit == kills:
            return 0 if same else 1
        number += 1


def save_model(folder: Path) -> None:
    """A random Llama of four blocks, with a token a byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<end>")
    ends: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), len(tokenizer) - 1)
    sizes: dict[str, Any]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def start(folder: Path, name: str) -> Any:
    """Begin or go on with a study in a process that is forked, so that the libraries are loaded once."""
    process = multiprocessing.get_context("fork").Process(target=run, args=(folder, name))
    process.start()
    return process


def run(folder: Path, name: str) -> None:
    """The study, silently; what is trained is kept in a cache that no other study sees."""
    torch.set_num_threads(1)
    os.environ |= {CACHE_VARIABLE: str(folder / f"cache of {name}"), "ACCELERATE_MIXED_PRECISION": "no"}
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    sizes: dict[str, Any]
    sizes = {"train_texts": 4, "validation_texts": 2, "prompts": 2, "epochs": 2, "lora_epochs": 2, "rank": 2}
    arms, parts = Names(["full", "first2"]), Names(PARTS)
    config = StudyConfig(str(folder / "model"), arms=arms, parts=parts, lora_learning_rate=0.05, **sizes)
    sys.exit(study(config, str(folder / name)))


def left_by(folder: Path) -> dict[str, Any]:
    """The JSON of a study without times and machines."""
    data: dict[str, Any] = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    for row in data["rows"]:
        del row["cost"], row["made"]
    del data["made"]
    return data


if __name__ == "__main__":
    sys.exit(main())
