"""What will a study cost? Time, memory and disk of each part, from a few seconds of the same work here."""

from __future__ import annotations

import contextlib
import heapq
import math
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch

from hyperfit_course.anatomy import CausalLM, blocks_of
from hyperfit_course.artifacts import CACHE_VARIABLE, cache_dir
from hyperfit_course.decoding import NEW_TOKENS, PROMPT_TOKENS, continue_prompts
from hyperfit_course.frozen import PrefixError, frozen_depth, frozen_prefix
from hyperfit_course.logits import at_positions
from hyperfit_course.losses import has_plain_head, next_token_loss
from hyperfit_course.models import EMBEDDED
from hyperfit_course.optimizers import adamw
from hyperfit_course.study.arms import Arm, base_model, check_arms, held_out, tokenizer_of
from hyperfit_course.study.battery import ALPHAS, TOGETHER, StudyArm, arms_of, subject_of, tasks_of
from hyperfit_course.study.config import CHANGES, StudyConfig
from hyperfit_course.study.measures import SAMPLES, SHAPED_SAMPLES, shape_row
from hyperfit_course.study.meter import Meter, free_memory
from hyperfit_course.study.progress import duration
from hyperfit_course.study.selfchecks import check_subject
from hyperfit_course.study.workers import on_this_machine
from hyperfit_course.temperature import predictive_entropy
from hyperfit_course.training import training_precision

TRIAL_TOKENS = 6  #: New tokens of a trial of decoding.
READINGS = {"prediction": 2, "sampling": 8, "damage": 24}
"""How often a part reads all held-out texts; searches for a temperature or a factor read them several times."""
WRITES = ("writing", "sampling", "order", "bias", *CHANGES, "damage", "batch")  #: Parts that decode.
BIAS_READINGS = 7  #: Readings of texts that the static biases are made from.


@dataclass(frozen=True)
class Units:
    """Seconds and bytes of one piece of each kind of work, measured."""

    load: float  #: Loading the model.
    read: float  #: One text: its logits and a measure of them.
    token: Callable[[int], float]  #: One new token of so many prompts together.
    geometry: float  #: The end of the network, all held-out texts.
    step: dict[tuple[Any, ...], float]  #: One step of training, by the kind of arm.
    weights: int  #: Bytes of the model's weights.
    peak_reading: int
    peak_writing: int
    peak_step: dict[tuple[Any, ...], int]


def print_plan(config: StudyConfig, jobs: int = 1) -> int:
    """Print what each part of a resolved study takes here.

    Args:
        jobs: processes that measure arms at the same time. The work is tried with the threads that each will have; that
            they share the machine's memory bandwidth is not in the times.

    Returns:
        0 if it fits into memory and on the disk, 1 if not.
    """
    subject = subject_of(config)
    model, texts = base_model(subject), held_out(config.corpus, subject)
    check_subject(model, tokenizer_of(subject), texts)
    check_arms(arms_of(config), model)
    workers = on_this_machine(jobs, config)
    arms, seeds = (",".join(map(str, values or ())) for values in (config.arms, config.seeds))
    print(f"A study of {config.model or EMBEDDED} on {config.corpus}, arms {arms}, seeds {seeds}.")
    if len(config.seeds or ()) == 2:
        print("Two seeds give verdicts with very wide intervals: take three or more, as --seeds 0,1,2.")
    print("Trying a few seconds of each kind of work on this machine ...", flush=True)
    with _threads(workers.threads[platform.node()]):
        units = measured_units(config)
    table = planned(config, units, len(blocks_of(model)))
    shown = table.groupby(["part", "arm"], sort=False).agg(
        runs=("seconds", "size"),
        time=("seconds", lambda s: duration(s.sum())),
        gigabytes=("bytes", lambda b: b.max() / 1e9),
    )
    print(shown.round(2).to_string())
    disk = sum(units.weights for _ in arms_of(config)) / 1e9
    most, count = table["bytes"].max(), workers.count
    of_arms = table.groupby(["arm", "seed"], sort=False)["seconds"].sum()
    total, memory = duration(lasts(sorted(of_arms, reverse=True), count)), f"{most / 1e9:.1f} GB"
    if count > 1:
        memory = f"{count * most / 1e9:.1f} GB ({count} jobs need {count} times the {memory} of one)"
    print(f"\nIn all about {total}, {memory} of memory at most, {disk:.1f} GB of disk at most.")
    print("What is finished already in the folder of the study is not measured again.")
    room = shutil.disk_usage(cache_dir()).free / 1e9
    problems = _too_little_memory(table, model.device, count)
    if disk > room:
        problems.append(
            f"Disk: {room:.1f} GB are free at {cache_dir()}, which is too little: free some, or set {CACHE_VARIABLE} "
            "to a folder with more room."
        )
    print(*(problems or ["It fits here."]), sep="\n")
    return 1 if problems else 0


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """That many threads of PyTorch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def lasts(seconds: Sequence[float], jobs: int) -> float:
    """When the last of some arms is done: each is begun, in this order, by the first process that is free."""
    free_at = [0.0] * jobs
    for each in seconds:
        heapq.heapreplace(free_at, free_at[0] + each)
    return max(free_at)


def _too_little_memory(table: pd.DataFrame, device: torch.device, jobs: int) -> list[str]:
    """A sentence if some parts, or so many processes at once, need more memory than is free."""
    free = free_memory(device)
    if free is None:
        return []
    held = torch.cuda.memory_allocated() if device.type == "cuda" else Meter.held()
    most = table["bytes"].max()
    if most > free + held:
        worst = table[table["bytes"] > free + held]
        names = ", ".join(sorted(set(worst["part"] + " of " + worst["arm"])))
        return [
            f"Memory: {(free + held) / 1e9:.1f} GB are free, which is too little for {names}: close other programs, "
            "leave these --arms or --parts out, or choose a smaller --model or --batch_size."
        ]
    if jobs > 1 and jobs * most > free:  # what this process holds is not given to the others
        fit = max(1, int(free // most))
        return [f"Memory: {free / 1e9:.1f} GB are free, which is too little for {jobs} jobs: choose --jobs {fit}."]
    return []


def planned(config: StudyConfig, units: Units, depth: int) -> pd.DataFrame:
    """One row a part and arm of a resolved study: ``part``, ``arm``, ``seed``, ``seconds`` and ``bytes`` at most."""
    rows = []
    for part, arm in tasks_of(config):
        trained = units.weights if arm.config and arm.rank is None else 0
        writes = part in WRITES
        peak = (units.peak_writing if writes else units.peak_reading) + trained
        if part == "training":
            peak = units.peak_step[kind_of(arm)]
        row = {"part": part, "arm": arm.label, "seed": arm.seed}
        rows.append({**row, "seconds": seconds_of(part, arm, config, units, depth), "bytes": peak})
    return pd.DataFrame(rows)


def seconds_of(part: str, arm: StudyArm, config: StudyConfig, units: Units, depth: int) -> float:
    """How long one part of one arm takes."""
    prompts, train, validation = config.prompts or 0, config.train_texts or 0, config.validation_texts or 0
    readings = READINGS.get(part, 0) * prompts * units.read

    def writing(count: int) -> float:
        return NEW_TOKENS * units.token(count)

    written_once = writing(prompts) + prompts * units.read  # and read once, for its likelihood
    if part == "training":
        assert arm.config
        steps = arm.config.epochs * math.ceil(train / arm.config.batch_size)
        reading = (2 * train + 2 * validation) * units.read
        return 2 * units.load + steps * units.step[kind_of(arm)] + reading + writing(1)
    seconds = {
        "writing": written_once,
        "prediction": readings,
        "geometry": units.geometry,
        "layers": units.geometry * (depth + 1) / 3,
        "sampling": 2 * writing(SAMPLES * prompts) + readings,
        "order": 6 * writing(SHAPED_SAMPLES * prompts),
        "bias": sum(map(len, ALPHAS.values())) * written_once + BIAS_READINGS * train * units.read,
        "penalty": written_once,
        "blocking": written_once,
        "spectrum": 2 * written_once + 2 * validation * units.read,
        "switching": 2 * written_once,
        "patching": writing(prompts) + written_once,  # two models write it together
        "damage": written_once + readings + units.geometry,
        "batch": writing(TOGETHER) + TOGETHER * writing(1),
    }
    return units.load + seconds[part] if part in ("writing", "bias") else seconds[part]


def kind_of(arm: Arm) -> tuple[Any, ...]:
    """What decides the time of a training step, besides the model and the texts."""
    return arm.rank, arm.count, arm.place


def measured_units(config: StudyConfig) -> Units:
    """Try each kind of work for a moment."""
    subject = subject_of(config)
    model, texts = base_model(subject), held_out(config.corpus, subject)
    load, _ = _timed(lambda: Arm(subject=subject).trained(), model)
    read, reading = _timed(lambda: at_positions(predictive_entropy, model, texts=texts[:3]), model)
    geometry, shaping = _timed(lambda: shape_row(model, texts), model)
    alone, _ = _token(model, texts, 1)
    together, writing = _token(model, texts, config.prompts or 1)
    slope = max(0.0, together - alone) / max(1, (config.prompts or 1) - 1)
    arms = {kind_of(arm): arm for arm in arms_of(config) if arm.config}
    steps = {kind: _step(arm) for kind, arm in arms.items()}
    return Units(
        load=load,
        read=read / 3,
        token=lambda count: alone + slope * (count - 1),
        geometry=geometry,
        step={kind: seconds for kind, (seconds, _) in steps.items()},
        weights=sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()),
        peak_reading=max(reading, shaping),
        peak_writing=writing,
        peak_step={kind: peak for kind, (_, peak) in steps.items()},
    )


def _timed(work: Callable[[], Any], model: CausalLM) -> tuple[float, int]:
    with Meter(model.device) as meter:
        work()
    return meter.seconds, meter.peak


def _token(model: CausalLM, texts: torch.Tensor, count: int) -> tuple[float, int]:
    """Seconds a new token, without those of reading the prompts; and the peak."""
    prompts = texts[:1, :PROMPT_TOKENS].expand(count, -1)
    first, _ = _timed(partial(continue_prompts, model, prompts, 1), model)
    both, peak = _timed(partial(continue_prompts, model, prompts, 1 + TRIAL_TOKENS), model)
    return max(both - first, 1e-6) / TRIAL_TOKENS, peak


def _step(arm: StudyArm) -> tuple[float, int]:
    """Seconds and peak of a step of training, the second one of two."""
    untrained = arm.untrained()
    batch = arm.splits()["train"][: arm.config.batch_size if arm.config else 1].to(untrained.device)
    plain, depth = has_plain_head(untrained), frozen_depth(untrained)
    weights = [parameter for parameter in untrained.parameters() if parameter.requires_grad]
    optimizer = adamw(weights, 1e-6)
    try:
        prefix = frozen_prefix(untrained, batch.cpu(), depth) if depth else None
    except PrefixError:
        prefix = None
    index = torch.arange(len(batch))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(training_precision(untrained.device))

    def step() -> None:
        with torch.autocast(untrained.device.type, dtype=dtype, enabled=dtype is not None):
            if prefix:
                with prefix.replayed(index):
                    loss = next_token_loss(untrained, batch, plain)
            else:
                loss = next_token_loss(untrained, batch, plain)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    _timed(step, untrained)
    return _timed(step, untrained)
