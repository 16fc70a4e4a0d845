"""``hyperfit doctor``: what may go wrong here, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from hyperfit_course.artifacts import CACHE_VARIABLE, cache_dir, find_fault
from hyperfit_course.commands.cache import kept, size_of, unfinished
from hyperfit_course.commands.options import Examining
from hyperfit_course.commands.trained import load_trained
from hyperfit_course.models import best_device, context_length
from hyperfit_course.optimizers import OptimizerError, moment_bits
from hyperfit_course.study.meter import free_memory
from hyperfit_course.study.selfchecks import begin_rule
from hyperfit_course.training import training_precision

PACKAGES = ("hyperfit-course", "torch", "transformers", "peft", "accelerate", "numpy")
ROOM = 5e9  #: Bytes of disk that a study of a small model wants.
MEMORY = 4e9  #: Bytes of memory that full training of the course's model wants.
Finding = tuple[bool, str]  #: Whether it is well, and a sentence.


def examine(options: Examining) -> int:
    """Print what was found.

    Returns:
        0 if all is well, 1 if something is to be done.
    """
    well = True
    for good, text in (*_environment(), *_disk(), *_cache(), *_model(options.model)):
        print(f"  {'ok  ' if good else 'LOOK'} {text}", flush=True)
        well &= good
    print("All is well." if well else "Lines with LOOK say what to do.")
    return 0 if well else 1


def _environment() -> Iterator[Finding]:
    fits = sys.version_info[:2] >= (3, 10)
    yield (
        fits,
        f"Python {platform.python_version()} on {platform.platform()}" + ("" if fits else ": install 3.10 or newer"),
    )
    for name in PACKAGES:
        try:
            yield True, f"{name} {version(name)}"
        except PackageNotFoundError:
            yield False, f"{name} is not installed: pip install {name}"
    device = best_device()
    try:
        precision = f"{training_precision(device)!r}, with moments of {moment_bits(device)} bits"
        yield True, f"models run on {device}, {os.cpu_count()} cores, and train in precision {precision}"
    except OptimizerError as error:
        yield False, str(error)
    free = free_memory(device)
    if free is not None:
        hint = "" if free >= MEMORY else ": full training of the course's model takes about 3 GB; close other programs"
        yield free >= MEMORY, f"{free / 1e9:.1f} GB of memory are free{hint}"


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(cache_dir()).free
    hint = "" if free >= ROOM else f": free some, or set {CACHE_VARIABLE} to a folder with more room"
    yield free >= ROOM, f"{free / 1e9:.1f} GB of disk are free at {cache_dir()}{hint}"


def _cache() -> Iterator[Finding]:
    damaged = [path for path in kept() if find_fault(path) is not None]
    total = size_of(cache_dir()) / 1e9
    hint = f", {len(damaged)} damaged: run 'hyperfit cache prune'" if damaged else ", all whole"
    yield not damaged, f"the cache holds {total:.1f} GB{hint}"
    if left := unfinished():
        yield True, f"{len(left)} unfinished runs in the cache; they go on when they are started again"


def _model(name: str | None) -> Iterator[Finding]:
    try:
        model, tokenizer, _ = load_trained(name)
    except (ValueError, RuntimeError) as error:
        yield False, f"the model cannot be loaded: {error}"
        return
    count = sum(parameter.numel() for parameter in model.parameters())
    yield True, f"model {name or 'of the course'}: {count:,} parameters, context of {context_length(model):,} tokens"
    yield True, begin_rule(tokenizer)
