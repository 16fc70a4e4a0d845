"""A study in several processes of one machine: the same numbers, and nothing lost when one of them is killed."""

from __future__ import annotations

import copy
import functools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
from conftest import tiny_model
from filelock import FileLock
from test_study import TINY, data_of, without_times
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerBase

from hyperfit_course.corpora import SPLITS, load_corpus
from hyperfit_course.optimizers import BITS_VARIABLE
from hyperfit_course.study import one_arm, plan, run, workers
from hyperfit_course.study.arms import base_model, held_out, tokenizer_of
from hyperfit_course.study.battery import arms_of, forget
from hyperfit_course.study.config import Names, Numbers, StudyConfig, StudyError
from hyperfit_course.study.locks import STUDY_LOCK, held, is_locked, marked, only_study
from hyperfit_course.study.progress import Progress
from hyperfit_course.training import arithmetic

PATIENCE = 300  #: Seconds after which a process that shows nothing counts as stuck; all of this takes less than ten.


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, in this process and in others: sums of several are rounded differently."""
    for name, value in (("ACCELERATE_MIXED_PRECISION", "no"), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    for cached in (base_model, held_out, tokenizer_of):
        cached.cache_clear()
    forget()


@pytest.fixture
def config(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> StudyConfig:
    """Of a tiny Llama in a folder, with five arms."""
    tiny_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return replace(TINY, model=str(tmp_path / "model"), seeds=Numbers([0, 1]))


def finished(folder: Path) -> dict[str, bytes]:
    """The files of rows that are there, and what is in them: with the seconds that each part took."""
    return {path.name: path.read_bytes() for path in (folder / "rows").glob("*.json")}


def wait_for(what: Callable[[], Any]) -> Any:
    """The first value that is not empty."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.02)
    raise TimeoutError("nothing happened")


# The same numbers


def test_two_processes_leave_the_json_of_one(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.study(config, str(tmp_path / "one")) == 0
    monkeypatch.setenv("HYPERFIT_CACHE", str(tmp_path / "another cache"))  # so that all is trained again
    capsys.readouterr()
    assert run.study(config, str(tmp_path / "two"), jobs=2) == 0
    shown = capsys.readouterr().out
    assert without_times(data_of(tmp_path / "two")) == without_times(data_of(tmp_path / "one"))
    assert (tmp_path / "another cache" / "hyperfitted").is_dir()
    assert shown.count(": finished") == len(data_of(tmp_path / "two")["parts"])
    assert "[1/19] " in shown
    assert "[19/19] " in shown


def test_killed_process_and_killed_study_lose_nothing_that_was_finished(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.study(config, str(tmp_path / "undisturbed"))
    out, cache = tmp_path / "study", tmp_path / "another cache"
    options = ["--model", str(config.model), "--arms", "full,last2", "--seeds", "0,1", "--out", str(out), "--jobs", "2"]
    for name in ("train_texts", "validation_texts", "prompts", "epochs", "lora_epochs", "rank"):
        options += [f"--{name}", str(getattr(config, name))]
    command = [sys.executable, "-m", "hyperfit_course.cli", "study", *options, "--parts", ",".join(config.parts or ())]
    surroundings = {**os.environ, "HYPERFIT_CACHE": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}

    def begin() -> subprocess.Popen[str]:
        """Start it, and come back when it has finished something new."""
        before = finished(out)
        process = subprocess.Popen(
            command, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wait_for(lambda: set(finished(out)) - set(before) or process.poll() is not None)
        return process

    process = begin()
    measuring = [child for child in psutil.Process(process.pid).children() if child.memory_info().rss > 1e8]
    measuring[0].kill()
    said, _ = process.communicate(timeout=PATIENCE)
    after_worker = finished(out)
    assert process.returncode == 2, said
    assert "A process of the study was killed" in said
    assert "Traceback" not in said

    process = begin()
    others = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate(timeout=PATIENCE)
    psutil.wait_procs(others, timeout=PATIENCE)  # they finish what they are measuring
    after_study = finished(out)
    assert after_worker.items() <= after_study.items(), "a finished part was measured again"

    monkeypatch.setenv("HYPERFIT_CACHE", str(cache))
    assert run.study(config, str(out)) == 0
    assert after_study.items() <= finished(out).items(), "a finished part was measured again"
    assert without_times(data_of(out)) == without_times(data_of(tmp_path / "undisturbed"))


def test_arm_that_kills_its_process_is_not_tried_for_ever(config: StudyConfig, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    for _ in range(one_arm.TRIES):
        kept = one_arm._counted(counter, "last 2, seed 0")
        kept.__enter__()  # and never ended
    with (
        pytest.raises(StudyError, match="Each of 3 processes that measured last 2, seed 0 was killed, often"),
        one_arm._counted(counter, "last 2, seed 0"),
    ):
        pass
    counter.unlink()
    for _ in range(2 * one_arm.TRIES):  # what ends is not counted
        with one_arm._counted(counter, "last 2, seed 0"):
            pass


def another(config: StudyConfig, corpus: Path, tokenizer: PreTrainedTokenizerBase) -> dict[str, Callable[[], object]]:
    """What may be another one under the same name on another machine: for each the way to change it."""

    def rewritten(split: str) -> None:
        text = load_corpus(corpus)[split][0]
        corpus.write_text(corpus.read_text(encoding="utf-8").replace(text[:9], text[:9].upper()), encoding="utf-8")

    def other_settings() -> None:
        model = tiny_model()
        model.config.rms_norm_eps = 1e-3
        model.save_pretrained(str(config.model))

    def begins_with_a_space() -> None:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.save_pretrained(str(config.model))

    return {
        "weights": lambda: tiny_model(seed=1).save_pretrained(str(config.model)),
        "settings": other_settings,
        **{split: functools.partial(rewritten, split) for split in SPLITS},
        "tokenizer": begins_with_a_space,
    }


IN_ALL = " and ".join(f"other tokens in the {name}" for name in ("training texts", "validation texts", "prompts"))


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("weights", "another model"),
        ("settings", "another model"),
        ("train", "other tokens in the training texts"),
        ("validation", "other tokens in the validation texts"),
        ("prompts", "other tokens in the prompts"),
        ("tokenizer", IN_ALL),
    ],
)
def test_process_that_finds_something_else_under_the_same_names_says_what_and_stops(
    what: str, found: str, config: StudyConfig, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    corpus = tmp_path / "texts.jsonl"
    rows = [{"text": f"tale {number} {'and on ' * 40}"} for number in range(20)]
    corpus.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    told = workers.Told.of(run.subject_of(config.resolved()), str(corpus))
    told.follow()
    another(config, corpus, copy.deepcopy(tokenizer))[what]()
    workers._known.clear()  # as in a new process
    with pytest.raises(StudyError) as raised:
        told.follow()
    assert str(raised.value) == (
        f"A process on {platform.node()} finds {found} under the same names: give --model, with its tokenizer, and "
        "--corpus whole paths in a folder that all machines share, or remove the old copies there."
    )


def test_worker_forgets_the_moments_and_the_precision_of_its_last_study(
    config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = (BITS_VARIABLE, workers.PRECISION_VARIABLE)
    for name in variables:
        monkeypatch.delenv(name, raising=False)
    told, usual = workers.Told.of(run.subject_of(config.resolved()), "tales"), arithmetic(torch.device("cpu"))
    for name, value in zip(variables, ("8", "fp16"), strict=True):
        monkeypatch.setenv(name, value)
    told.follow()
    assert arithmetic(torch.device("cpu")) == usual


def test_worker_that_cannot_have_the_moments_says_so(config: StudyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    told = workers.Told.of(run.subject_of(config.resolved()), "tales")
    monkeypatch.setenv(BITS_VARIABLE, "32")  # given back after the test
    monkeypatch.setattr("hyperfit_course.optimizers.find_spec", lambda name: None)
    with pytest.raises(
        StudyError, match=rf"on {platform.node()} cannot measure\. .*: pip install 'bitsandbytes>=0.50'"
    ):
        replace(told, environment={**told.environment, BITS_VARIABLE: "8"}).follow()


def test_process_that_cannot_load_what_is_studied_stops(config: StudyConfig) -> None:
    told = workers.Told.of(run.subject_of(config.resolved()), "tales")
    gone = replace(told, subject=replace(told.subject, model="/nowhere/model"))
    with pytest.raises(StudyError, match=rf"on {platform.node()} cannot load .*nowhere.*: give --model and"):
        gone.follow()


def test_threads_are_divided_and_there_are_no_more_processes_than_arms(
    config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.resolved()
    assert workers.arm_count(config) == len(arms_of(config)) == 5
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    for jobs, count, threads in ((1, 1, 8), (3, 3, 2), (5, 5, 1), (64, 5, 1)):
        found = workers.on_this_machine(jobs, config)
        assert (found.count, found.threads) == (count, {platform.node(): threads})
    assert not workers.on_this_machine(1, config).elsewhere


# Folders that are shared


def test_second_study_in_a_folder_is_refused_while_the_first_runs(config: StudyConfig, tmp_path: Path) -> None:
    out = tmp_path / "study"
    run.study(replace(config, arms=Names(["full"]), parts=Names(["prediction"])), str(out))
    with only_study(out):
        with pytest.raises(StudyError, match=r"Another process runs a study in .*, or name another folder"):
            run.study(config, str(out), resume=True)
        with pytest.raises(StudyError, match=r"Another process runs a study in .* has ended\."):
            run.study(StudyConfig(), source=str(out))
    assert run.study(StudyConfig(), source=str(out)) == 0


def test_folder_that_a_killed_study_left_empty_is_used(config: StudyConfig, tmp_path: Path) -> None:
    out = tmp_path / "study"
    (out / "rows").mkdir(parents=True)
    (out / STUDY_LOCK).touch()
    assert run.study(replace(config, arms=Names(["full"]), parts=Names(["prediction"])), str(out)) == 0


@pytest.mark.parametrize("number", [38, 37, 95], ids=["no system call", "no locks", "not supported"])
def test_folder_without_locks_is_named(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*of: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", fails)
    message = r"cannot be locked \(.*\), and .* disturb each other: put it on a file system with locks"
    with pytest.raises(StudyError, match=message), marked(tmp_path):
        raise AssertionError("a mark without a lock")
    assert not list(tmp_path.iterdir())


def test_marks_are_seen_as_locked_by_others_and_go_away(tmp_path: Path) -> None:
    with marked(tmp_path) as mark:
        program = f"from hyperfit_course.study.locks import is_locked, Path; print(is_locked(Path({str(mark)!r})))"
        command = [sys.executable, "-c", program]
        assert subprocess.run(command, capture_output=True, text=True).stdout == "True\n"
    assert not list(tmp_path.iterdir())
    (tmp_path / "free").touch()
    assert not is_locked(tmp_path / "free")


def test_waiting_for_a_lock_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, taken = FileLock(tmp_path / "lock"), []
    monkey = pytest.MonkeyPatch()
    other.acquire()
    original = FileLock.acquire

    def freed_in_time(self: FileLock, *given: Any, **named: Any) -> Any:
        taken.append(named)
        if len(taken) == 2:  # the first was in vain
            other.release()
        return original(self, *given, **named)

    monkey.setattr(FileLock, "acquire", freed_in_time)
    try:
        with held(tmp_path / "lock", "another process measures"):
            pass
    finally:
        monkey.undo()
    assert "(another process measures: waiting until it is done)" in capsys.readouterr().out


# What is said


class Named:
    """What stands in for an arm in lines of progress."""

    def __init__(self, label: str) -> None:
        self.label, self.seed = label, 0


def test_progress_counts_what_others_finish_and_divides_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    arms: list[Any] = [Named("base"), Named("last 2")]
    tasks = [(part, arm) for arm in arms for part in ("writing", "prediction")]
    there = {tasks[0]: 1.0}
    progress = Progress(tasks, processes=2)
    with progress.watching(lambda part, arm: there.get((part, arm))):
        there[tasks[2]] = 240.0
    assert capsys.readouterr().out.splitlines() == [
        "1 of 4 parts are there already.",
        "[2/4] writing, last 2, seed 0: finished (about 4 minutes left)",  # two parts like it, two at a time
    ]


def test_progress_of_one_process_says_what_begins(capsys: pytest.CaptureFixture[str]) -> None:
    arm: Any = Named("base")
    tasks = [(part, arm) for part in ("writing", "prediction", "geometry")]
    progress = Progress(tasks)
    progress.begins(*tasks[0])
    progress.took("writing", 60)
    progress.begins(*tasks[1])
    assert capsys.readouterr().out.splitlines() == [
        "[1/3] writing, base, seed 0",
        "[2/3] prediction, base, seed 0 (about 2 minutes left)",
    ]


def test_progress_counts_the_seconds_of_a_short_rest(capsys: pytest.CaptureFixture[str]) -> None:
    arm: Any = Named("base")
    tasks = [(part, arm) for part in ("writing", "prediction", "geometry")]
    progress = Progress(tasks)
    progress.took("writing", 6)
    progress.begins(*tasks[1])
    assert capsys.readouterr().out == "[2/3] prediction, base, seed 0 (about 12 seconds left)\n"


def test_several_processes_begin_with_the_arms_that_train_most(config: StudyConfig) -> None:
    asked = replace(config, arms=Names(["last1", "full", "first1"]), seeds=Numbers([0, 1])).resolved()
    order = [(arm.label, arm.seed) for arm in workers.longest_first(arms_of(asked))]
    assert order == [
        *(("hyperfitted", 0), ("first 1", 0), ("hyperfitted", 1), ("first 1", 1), ("last 1", 0), ("last 1", 1)),
        ("base", 0),
    ]


def test_plan_of_several_jobs_packs_arms_and_wants_the_memory_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan.lasts([4, 3, 2, 1], 1) == 10
    assert plan.lasts([4, 3, 2, 1], 2) == 5
    assert plan.lasts([1, 1, 9], 2) == 10
    table = pd.DataFrame({"part": ["training"], "arm": ["last 2"], "bytes": [3e9]})
    monkeypatch.setattr(plan, "free_memory", lambda device: 10e9)
    monkeypatch.setattr(plan.Meter, "held", staticmethod(lambda: 2e9))
    device = torch.device("cpu")
    assert plan._too_little_memory(table, device, 3) == []
    assert plan._too_little_memory(table, device, 4) == [
        "Memory: 10.0 GB are free, which is too little for 4 jobs: choose --jobs 3."
    ]
    table["bytes"] = 13e9
    assert "too little for training of last 2: close other programs" in plan._too_little_memory(table, device, 4)[0]


def test_plan_of_two_jobs_says_that_they_need_twice_the_memory(
    config: StudyConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.study(config, plan=True, jobs=2) == 0
    assert "(2 jobs need 2 times the " in capsys.readouterr().out
