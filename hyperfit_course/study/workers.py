"""Which processes measure the arms of a study? This one, several of this machine, or the workers of a Dask cluster.

Arms and their seeds need nothing of one another, so joblib may hand them to any number of processes. All write into
one folder and one cache. So a process that is killed takes nothing with it but the part that it was measuring.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

import torch
from joblib import Parallel, delayed, parallel_config

from hyperfit_course.artifacts import CACHE_VARIABLE, cache_dir, key_digest
from hyperfit_course.corpora import load_corpus
from hyperfit_course.models import begin_token, best_device, model_key
from hyperfit_course.optimizers import BITS_VARIABLE, OptimizerError, moment_bits
from hyperfit_course.study.arms import Subject, base_model, held_out, tokenizer_of
from hyperfit_course.study.battery import StudyArm
from hyperfit_course.study.config import StudyConfig, StudyError

PRECISION_VARIABLE = "ACCELERATE_MIXED_PRECISION"
TEXTS = {
    "train": "training texts",
    "validation": "validation texts",
    "prompts": "prompts",
}  #: Their names in sentences.
IDLE = 10  #: Seconds after which a process of this machine that has nothing more to do ends.


@dataclass(frozen=True)
class Workers:
    """The processes that measure arms, and how many threads PyTorch gets in each, by the name of its machine."""

    count: int = 1
    threads: Mapping[str, int] = field(default_factory=dict)
    backend: Any = None  #: Of joblib, for a cluster; ``None`` for this machine.

    @property
    def elsewhere(self) -> bool:
        """Whether other processes than this one measure."""
        return self.count > 1 or self.backend is not None

    def line(self) -> str:
        """What is said of them at the start."""
        each = " or ".join(map(str, sorted(set(self.threads.values()))))
        return f"{self.count} processes measure at the same time, with {each} thread(s) of PyTorch each."

    def run(self, measure: Callable[..., None], calls: list[tuple[Any, ...]], tell: Callable[[], Told]) -> None:
        """Call a function once for every arm, with the arguments of each, and wait until all are done.

        Args:
            measure: named in a module of the library, so that other processes find it.
            tell: says what other processes have to know; it is asked only if there are any.

        Raises:
            StudyError: a process was killed, or is not fit to measure. What is finished is kept.
        """
        if not self.elsewhere:
            for _ in Parallel(n_jobs=1, batch_size=1, return_as="generator")(delayed(measure)(*call) for call in calls):
                pass
            return
        backend = {"backend": self.backend} if self.backend else {"backend": "loky", "idle_worker_timeout": IDLE}
        told = tell()
        with parallel_config(**backend), _killed():
            parallel = Parallel(
                n_jobs=max(2, self.count), batch_size=1, pre_dispatch="all", return_as="generator_unordered"
            )
            for _ in parallel(delayed(_called)(told, self.threads, measure, *call) for call in calls):
                pass


@contextlib.contextmanager
def _killed() -> Iterator[None]:
    """What joblib says of a killed process, as a sentence."""
    try:
        yield
    except BrokenProcessPool as error:
        raise StudyError(
            "A process of the study was killed, often for want of memory: what is finished is kept, so start the same "
            "command again, with fewer --jobs if memory was short."
        ) from error


def longest_first(arms: Iterable[StudyArm]) -> list[StudyArm]:
    """The order in which several processes begin arms: then none is busy for long after the others have ended.

    The earlier the first trained block, the more has to be computed at every step. The base model is not trained.
    """

    def first_trained(arm: StudyArm) -> float:
        return min(arm.blocks(base_model(arm.subject))) if arm.config else math.inf

    return sorted(arms, key=first_trained)


def on_this_machine(jobs: int, config: StudyConfig) -> Workers:
    """So many processes here, and no more than there are arms. The threads that PyTorch has here are divided."""
    count = min(jobs, arm_count(config))
    return Workers(count, {platform.node(): max(1, torch.get_num_threads() // count)})


def arm_count(config: StudyConfig) -> int:
    """How many models a resolved study measures: the base model, and every arm with every seed."""
    return 1 + len(config.arms or ()) * len(config.seeds or ())


def check_options(jobs: int, cluster: str | None, plan: bool = False) -> None:
    """Complain of what contradicts itself, before anything is done.

    Raises:
        StudyError: there are such options.
    """
    if jobs < 1:
        raise StudyError(f"--jobs is a number of processes, at least 1, and not {jobs}.")
    if cluster is not None and jobs != 1:
        raise StudyError(
            "--jobs is for processes of this machine, and --cluster for the workers of a cluster: choose one of them."
        )
    if cluster is not None and plan:
        raise StudyError(
            "--plan tries the machine that it runs on: run it on a machine of the cluster, without --cluster."
        )


# In the other processes


@dataclass(frozen=True)
class Told:
    """What a process has to know before it measures: where the cache is, and what is studied."""

    subject: Subject
    corpus: str
    hashes: Mapping[str, str]  #: Of what the asking process has loaded: see :func:`hashes_of`.
    environment: Mapping[str, str]

    @classmethod
    def of(cls, subject: Subject, corpus: str) -> Told:
        """The same cache, precision, moments, model and texts as in this process."""
        # All are said always: a worker remembers those of its last study.
        environment = {CACHE_VARIABLE: str(cache_dir()), PRECISION_VARIABLE: os.environ.get(PRECISION_VARIABLE, "")}
        environment[BITS_VARIABLE] = os.environ.get(BITS_VARIABLE, "32")
        return cls(subject, corpus, hashes_of(subject, corpus), environment)

    def follow(self) -> None:
        """Set this process up.

        Raises:
            StudyError: it cannot load what is studied, or finds something else.
        """
        os.environ |= self.environment
        try:
            moment_bits(best_device())
        except OptimizerError as error:
            raise StudyError(f"A process on {platform.node()} cannot measure. {error}") from error
        if self.hashes == _known.get(self.subject):
            return
        for kept in (base_model, held_out, tokenizer_of):  # a worker may outlive a study, and a model its files
            kept.cache_clear()
        try:
            found = hashes_of(self.subject, self.corpus)
        except (OSError, ValueError, RuntimeError) as error:
            raise StudyError(
                f"A process on {platform.node()} cannot load what is studied ({error}): give --model and --corpus "
                "whole paths in a folder that all machines share."
            ) from error
        if differing := [name for name, value in self.hashes.items() if found[name] != value]:
            raise StudyError(
                f"A process on {platform.node()} finds {' and '.join(differing)} under the same names: give --model, "
                "with its tokenizer, and --corpus whole paths in a folder that all machines share, or remove the old "
                "copies there."
            )
        _known.clear()
        _known[self.subject] = self.hashes


def hashes_of(subject: Subject, corpus: str) -> dict[str, str]:
    """Hashes of the model, and of all texts as its tokenizer reads them, by what is said where one differs."""
    texts, tokenizer = load_corpus(corpus), tokenizer_of(subject)
    hashes = {"another model": key_digest(model_key(base_model(subject)))}
    for split, name in TEXTS.items():
        ids = tokenizer(texts[split], add_special_tokens=False, verbose=False)["input_ids"]
        hashes[f"other tokens in the {name}"] = key_digest({"begin": begin_token(tokenizer), "ids": ids})
    return hashes


_known: dict[Subject, Mapping[str, str]] = {}  #: What is in this process's memory, and its hashes.


def _called(told: Told, threads: Mapping[str, int], measure: Callable[..., None], *given: Any) -> None:
    """Call a function in another process, in silence: lines of several would be mixed."""
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        torch.set_num_threads(threads.get(platform.node(), 1))
        told.follow()
        measure(*given)
