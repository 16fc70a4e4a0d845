"""Kill `hyperfit study` or `hyperfit train` at random moments, start it again, and compare it with an undisturbed run.

    .venv/bin/python tools/kill_commands.py study --kills 10 --seed 0

A tiny model is used. Each run is in a process of its own with a cache of its own, and is killed as by `kill -9`:
nothing is cleaned up. A run that ends before its next kill is compared, and another one begins. All have to leave what
the undisturbed one left: the JSON of a study, times and machine aside, or the files of a trained model, byte by byte.
It takes a minute or two on 2 cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hyperfit_course.artifacts import CACHE_VARIABLE
from hyperfit_course.commands.options import Training
from hyperfit_course.commands.train import train
from hyperfit_course.study.config import CHANGES, Names, StudyConfig
from hyperfit_course.study.run import study

PARTS = ("training", "writing", "prediction", "geometry", *CHANGES, "batch")
SHORTEST = 0.02  #: Seconds from the start of a process to the earliest kill.
EPOCHS = 10  #: Of a training: so many moments at which it can go on.


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0 if all runs leave the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        return compare(options.command, Path(folder), options.kills, random.Random(options.seed))


def compare(command: str, folder: Path, kills: int, moments: random.Random) -> int:
    """Run a command undisturbed and with that many kills, and compare what the runs leave."""
    left_by = COMMANDS[command][1]
    save_model(folder / "model")
    began = time.monotonic()
    start(command, folder, "undisturbed").join()
    lasts = time.monotonic() - began
    expected = left_by(folder / "undisturbed")
    print(f"Undisturbed: {lasts:.1f} s, {len(expected)} parts", flush=True)
    number = hit = starts = 0
    while True:
        name = f"{command}{number}"
        process = start(command, folder, name)
        starts += 1
        process.join(None if hit == kills else moments.uniform(SHORTEST, lasts))
        was_killed = process.is_alive()
        if was_killed:
            process.kill()
            process.join()
            hit += 1
            kept = [*(folder / name).glob("rows/*.json"), *(folder / f"cache of {name}").rglob("latest.json")]
            print(f"Kill {hit}: {name} has kept {len(kept)} finished parts or checkpoints", flush=True)
            if command == "study" or not (folder / name).exists():
                continue  # a training that has put its model in place was over: its place is taken for another start
        same = (was_killed or process.exitcode == 0) and left_by(folder / name) == expected
        print(f"{name} ended: {'the same' if same else 'NOT THE SAME'}", flush=True)
        if not same or hit == kills:
            print(f"Started {starts}, killed {hit}, finished {number + same}, not the same {int(not same)}", flush=True)
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


def start(command: str, folder: Path, name: str) -> Any:
    """Begin or go on with a run in a process that is forked, so that the libraries are loaded once."""
    process = multiprocessing.get_context("fork").Process(target=run, args=(command, folder, name))
    process.start()
    return process


def run(command: str, folder: Path, name: str) -> None:
    """Run a command silently; what is trained is kept in a cache that no other run sees."""
    torch.set_num_threads(1)
    os.environ |= {CACHE_VARIABLE: str(folder / f"cache of {name}"), "ACCELERATE_MIXED_PRECISION": "no"}
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    sys.exit(COMMANDS[command][0](str(folder / "model"), folder / name))


def run_study(model: str, out: Path) -> int:
    """A study of two arms."""
    sizes: dict[str, Any]
    sizes = {"train_texts": 4, "validation_texts": 2, "prompts": 2, "epochs": 2, "lora_epochs": 2, "rank": 2}
    arms, parts = Names(["full", "first2"]), Names(PARTS)
    return study(StudyConfig(model, arms=arms, parts=parts, lora_learning_rate=0.05, **sizes), str(out))


def study_parts(out: Path) -> dict[str, Any]:
    """The parts of the JSON of a study without times and machines."""
    data: dict[str, Any] = json.loads((out / "study.json").read_text(encoding="utf-8"))
    for row in data["rows"]:
        del row["cost"], row["made"]
    rest = {name: part for name, part in data.items() if name not in ("rows", "made")}
    return rest | {f"row {number}": row for number, row in enumerate(data["rows"])}


def run_training(model: str, out: Path) -> int:
    """A training of all weights, with a checkpoint after each epoch."""
    return train(Training(out, model, epochs=EPOCHS, train_texts=16, batch_size=1))


def model_files(out: Path) -> dict[str, Any]:
    """The hashes of what a training left."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}


COMMANDS: dict[str, tuple[Callable[[str, Path], int], Callable[[Path], dict[str, Any]]]] = {
    "study": (run_study, study_parts),
    "train": (run_training, model_files),
}
"""How each command is run, and what has to be the same afterwards."""


if __name__ == "__main__":
    sys.exit(main())
