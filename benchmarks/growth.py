"""How do the time and the memory of training grow, and do the plan's formulas say so?

Random Llamas of four sizes train on random tokens. One thing grows at a time, and the rest stays as it is:

- ``texts``, ``length``, ``size``: one epoch, by one process with one thread;
- ``processes``: the same by one process and by two of ``accelerate launch``, with one thread each;
- ``workers``: a whole study of four arms with ``--jobs`` 1 and 2.

A row has the seconds by the clock, the CPU seconds of all processes together, and the peak memory of one process. An
epoch is the second of two, without loading, evaluation and checkpoints. Each measurement is made twice, in new
processes, and the smallest of each number counts. Beside them stands what study/predicted.py and study/plan.py give
for a machine with the peaks of the row ``machine``: the rates of a large product and of a copy, with one thread. To
the planned memory comes what the libraries hold before there is a model, which is measured.

In float32, on the CPU, without a network. About 10 minutes on two cores that have nothing else to do. Writes
results/growth.json; interrupted, it goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from decode_step import best_seconds
from joblib.externals.loky import get_reusable_executor
from measuring import TARGET
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hyperfit_course import training
from hyperfit_course.artifacts import CACHE_VARIABLE
from hyperfit_course.study.config import Names, Numbers, StudyConfig
from hyperfit_course.study.meter import Meter
from hyperfit_course.study.plan import lasts, planned
from hyperfit_course.study.predicted import Machine, Shape, predicted_units
from hyperfit_course.study.recording import Row, Task, record
from hyperfit_course.study.run import study
from hyperfit_course.training import HyperfitConfig, hyperfit

RUNS, BATCH, STUDY_EPOCHS = 2, 4, 4
SIZES = (
    Shape("1.4M", 4, 128, 384, 2, 2, 4096, tied=True),
    Shape("6.2M", 6, 256, 768, 4, 4, 4096, tied=True),
    Shape("16.9M", 8, 384, 1152, 6, 6, 4096, tied=True),
    Shape("49.8M", 14, 512, 1536, 8, 8, 4096, tied=True),
)
MIDDLE = SIZES[1]
BYTES = replace(MIDDLE, name="5.2M", vocabulary=257)
"""Of the study, which reads texts: a token a byte, and one for the end."""
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "CUDA_VISIBLE_DEVICES": "",
    "ACCELERATE_MIXED_PRECISION": "no",
}
LAUNCH = "-m accelerate.commands.launch --multi_gpu --num_machines 1 --mixed_precision no --dynamo_backend no"
LAUNCH += " --main_process_port 0"


@dataclass(frozen=True)
class Point:
    """One measurement."""

    series: str  #: What grows in it.
    shape: Shape = MIDDLE
    n_texts: int = 16
    length: int = 128  #: Tokens a text.
    processes: int = 1
    workers: int = 0  #: Jobs of a whole study; with 0, an epoch is measured.

    @classmethod
    def read(cls, text: str) -> Point:
        """The point that was written as JSON."""
        given = json.loads(text)
        return cls(**given | {"shape": Shape(**given["shape"])})

    def study(self, epochs: int, model: str | None = None) -> StudyConfig:
        """The study that trains in this way."""
        seeds, parts = ((0, 1, 2, 3), ("training", "writing")) if self.workers else ((0,), ("training",))
        sizes: dict[str, Any] = {"train_texts": self.n_texts, "length": self.length, "batch_size": BATCH}
        lists: dict[str, Any] = {"arms": Names(["full"]), "seeds": Numbers(seeds), "parts": Names(parts)}
        return StudyConfig(model, epochs=epochs, validation_texts=4, prompts=4, **lists, **sizes)


POINTS = (
    *(Point("texts", n_texts=n) for n in (8, 16, 32, 64)),
    *(Point("length", length=n) for n in (64, 128, 256, 512)),
    *(Point("size", shape) for shape in SIZES),
    *(Point("processes", processes=n) for n in (1, 2)),
    *(Point("workers", BYTES, workers=n) for n in (1, 2)),
)


def peaks() -> Row:
    """What this machine reaches with one thread: operations in a large product, bytes moved by a copy."""
    torch.set_num_threads(1)
    square, numbers = torch.randn(2048, 2048), torch.randn(1 << 26)
    copied = numbers.clone()
    taken = best_seconds({"product": lambda: square @ square, "copy": lambda: copied.copy_(numbers)}, 5)
    moved, work = 2 * numbers.nbytes, 2 * len(square) ** 3
    return {"gflops": work / taken["product"] / 1e9, "gigabytes_a_second": moved / taken["copy"] / 1e9}


def plan_of(point: Point, machine: Row) -> tuple[float, float]:
    """Seconds and megabytes by the plan's formulas; several processes share the work evenly.

    Args:
        machine: what :func:`peaks` gives.
    """
    rate, moved = (point.processes * 1e9 * machine[name] for name in ("gflops", "gigabytes_a_second"))
    here = Machine("here", memory=math.inf, half=rate, single=rate, bandwidth=moved)

    def table(epochs: int) -> pd.DataFrame:
        config = point.study(epochs).resolved()
        return planned(config, predicted_units(point.shape, here, config), point.shape.blocks)

    one, two, all_of_them = table(1), table(2), table(STUDY_EPOCHS)
    seconds = float(two["seconds"].sum() - one["seconds"].sum())  # what one epoch more takes
    if point.workers:
        seconds = lasts(all_of_them.groupby(["arm", "seed"], sort=False)["seconds"].sum().to_list(), point.workers)
    return seconds, one["bytes"].max() / 1e6


def llama(shape: Shape) -> LlamaForCausalLM:
    """A random model of this shape."""
    torch.manual_seed(0)
    sizes = {"hidden_size": shape.width, "intermediate_size": shape.inner, "num_hidden_layers": shape.blocks}
    heads = {"num_attention_heads": shape.heads, "num_key_value_heads": shape.key_heads}
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), shape.vocabulary - 1)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=shape.vocabulary, tie_word_embeddings=shape.tied, **sizes, **heads, **ends)
    ).eval()


def epoch_of(point: Point) -> Row:
    """Seconds, CPU seconds and megabytes of the second epoch of two, in this process."""
    marks: list[float] = []

    def mark(*_: Any) -> Row:
        marks.append(time.process_time())
        return {}

    # Both epochs end with one of these two. What else would follow is no part of an epoch.
    training.TrainingState.save = training.evaluate = mark
    training.put_weights = training.save_file = lambda *_: None
    texts = torch.randint(0, point.shape.vocabulary, (point.n_texts, point.length))
    splits = {"train": texts, "validation": texts[:1], "prompts": texts[:1]}
    config = HyperfitConfig(epochs=2, batch_size=BATCH, evaluate_every=0, evaluation_prompts=1)
    model = llama(point.shape)
    with Meter(model.device) as meter:
        history = hyperfit(model, splits, config)
    seconds = float(history["seconds"].iloc[-1])
    return {"seconds": seconds, "cpu_seconds": marks[1] - marks[0], "megabytes": meter.peak / 1e6}


def study_of(point: Point, folder: Path) -> Row:
    """Seconds, CPU seconds and megabytes of a whole study by so many jobs, started by this process."""
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    raw = Tokenizer(models.BPE(vocab=letters, merges=[]))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<end>").save_pretrained(folder / "m")
    llama(point.shape).save_pretrained(folder / "m")
    config = point.study(STUDY_EPOCHS, str(folder / "m"))
    begun, used = time.perf_counter(), time.process_time()
    if study(config, str(folder / "study"), jobs=point.workers):
        raise SystemExit("a part of the study could not be measured")
    seconds, used = time.perf_counter() - begun, time.process_time() - used
    if point.workers > 1:
        get_reusable_executor().shutdown(wait=True)  # what its processes used is told when they have ended
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = json.loads((folder / "study" / "study.json").read_text(encoding="utf-8"))["rows"]
    peak = max(row["cost"]["peak_gigabytes"] for row in rows)
    return {"seconds": seconds, "cpu_seconds": used + others.ru_utime + others.ru_stime, "megabytes": 1e3 * peak}


def measure_here(point: Point, folder: Path) -> None:
    """Measure in this process, and leave the numbers in the folder, in a file of its own for each process."""
    libraries = {"libraries_megabytes": Meter.held() / 1e6}
    found = study_of(point, folder) if point.workers else epoch_of(point)
    path = folder / f"process{os.environ.get('RANK', 0)}.json"
    path.write_text(json.dumps(found | libraries), encoding="utf-8")


def run_once(point: Point) -> Row:
    """The numbers of one run in new processes: the slowest clock, all CPU seconds, the largest memory of a process."""
    several = f"{LAUNCH} --num_processes {point.processes}".split() if point.processes > 1 else []
    with tempfile.TemporaryDirectory() as name:
        environment = {**os.environ, **SETTINGS, CACHE_VARIABLE: f"{name}/cache"}
        command = [sys.executable, *several, __file__, "--only", json.dumps(asdict(point)), "--out", name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip()[-1500:]
            raise SystemExit(f"A measurement failed; those before it are kept. The end of what it said:\n{said}")
        found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(name).glob("process*.json"))]
    cpu = sum(each["cpu_seconds"] for each in found)
    return {key: max(each[key] for each in found) for key in found[0]} | {"cpu_seconds": cpu}


def measure(point: Point, out: Path) -> Iterator[Row]:
    """The row of a point, with the plan's numbers for the machine that is recorded in the folder."""
    rows = json.loads((out / "growth.json").read_text(encoding="utf-8"))["rows"]
    runs = [run_once(point) for _ in range(RUNS)]
    best = {key: round(min(run[key] for run in runs), 3) for key in runs[0]}
    seconds, megabytes = plan_of(point, next(row for row in rows if row["series"] == "machine"))
    yield {
        **{name: value for name, value in asdict(point).items() if name != "shape"},
        "parameters": point.shape.parameters(),
        **best,
        "plan_seconds": seconds,
        "plan_megabytes": megabytes + best["libraries_megabytes"],
        "all_seconds": [round(run["seconds"], 3) for run in runs],
    }


def tasks(out: Path) -> list[Task]:
    """The peaks of the machine, and a row for each point."""
    found = [Task("peaks of this machine", {"series": "machine"}, lambda: [{"series": "machine", **peaks()}])]
    for point in POINTS:
        number = f"{point.workers} worker(s)" if point.workers else f"{point.processes} process(es)"
        label = f"{point.series}: {point.shape.name}, {point.n_texts} texts of {point.length} tokens, {number}"
        found.append(Task(label, {**asdict(point), "batch_size": BATCH, "runs": RUNS}, partial(measure, point, out)))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Record what is not recorded yet, or measure one point here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TARGET.parent, help="folder of growth.json (default: results/)")
    parser.add_argument("--only", type=Point.read, metavar="JSON", help="measure this point once, in this process")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.only:
        measure_here(options.only, options.out)
    else:
        record("growth", tasks(options.out), options.out)


if __name__ == "__main__":
    main()
