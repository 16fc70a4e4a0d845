from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import several_processes
import torch
from accelerate import PartialState
from conftest import tiny_model
from peft import PeftModel
from safetensors.torch import load_file
from several_processes import CONFIG, STEPS, texts, untrained
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hyperfit_course import processes
from hyperfit_course.artifacts import CacheError
from hyperfit_course.checkpoints import trained_weights
from hyperfit_course.processes import ProcessError, artifact_of_all, check_processes, my_share
from hyperfit_course.training import hyperfit

# Without a GPU these start processes on CPUs. With --cpu, Accelerate 1.15 starts one process whatever the number.
WAYS = {"texts divided": "--multi_gpu", "model divided too": "--use_fsdp --fsdp_version 2"}
PLAIN = "--num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"


def launch(way: str, out: Path, killed_at: int = 0) -> subprocess.CompletedProcess[str]:
    """Two processes train; the main one may be killed at a step of the full run."""
    return start(way, str(Path(several_processes.__file__)), str(out), str(killed_at))


def start(way: str, *program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in two processes."""
    options = f"{WAYS[way]} {PLAIN}".split()
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, *program]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)


def left(out: Path, kind: str, rank: int) -> tuple[dict[str, Tensor], pd.DataFrame]:
    return load_file(out / f"{kind}-{rank}.safetensors"), pd.read_json(out / f"{kind}-{rank}.json")


def test_command_of_two_processes_writes_one_model(
    tmp_path: Path, cache: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    tiny_model().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    places = ["--model", str(tmp_path / "base"), "--out", str(tmp_path / "tuned")]
    command = ["-m", "hyperfit_course.cli", "train", *places, "--train_texts", "4", "--epochs", "1"]
    ended = start("texts divided", *command)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.count(f"The model is in {tmp_path / 'tuned'}") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"base", "tuned", cache.name}, "a lock stays behind"


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_train_as_one_does_and_go_on_after_a_kill(
    way: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # here, as Accelerate sets it where it starts processes
    killed = launch(way, tmp_path, killed_at=2 * STEPS + 2)
    assert killed.returncode != 0
    assert not list(tmp_path.glob("full-*")), "the processes went on without the main one"
    resumed = launch(way, tmp_path)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert f"Models are divided: {way == 'model divided too'}" in resumed.stdout
    assert resumed.stdout.count("Going on from the checkpoint after epoch 2") == 1
    assert resumed.stdout.count("Loaded from the cache") == 1, "of the late-stage run, by the main process"
    assert not list((cache / "hyperfitted").rglob("*checkpoint*"))

    monkeypatch.setattr("hyperfit_course.evaluation.NEW_TOKENS", 4)
    monkeypatch.setenv("HYPERFIT_CACHE", str(cache.with_name("other")))
    for kind in ("late", "full"):
        model, history = several_processes.run(kind)
        for rank in (0, 1):
            of_two, seen = left(tmp_path, kind, rank)
            for name, expected in trained_weights(model).items():
                torch.testing.assert_close(of_two[name], expected, rtol=1e-3, atol=1e-5)
            columns = ["running_loss", "train_loss", "validation_loss", "entropy"]
            pd.testing.assert_frame_equal(seen[columns], history[columns], rtol=1e-5)
        base = untrained("full")
        saved = (
            PeftModel.from_pretrained(base, tmp_path / kind)
            if kind == "late"
            else type(base).from_pretrained(tmp_path / kind)
        )
        with torch.no_grad():
            logits = [each.eval()(input_ids=texts()["train"]).logits for each in (model, saved)]
        torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-4)
        assert all(map(torch.equal, left(tmp_path, kind, 0)[0].values(), left(tmp_path, kind, 1)[0].values()))

    monkeypatch.setenv("HYPERFIT_CACHE", str(cache))
    monkeypatch.setattr("hyperfit_course.training._train", lambda *_: pytest.fail("one process trained it again"))
    again = trained_weights(several_processes.run("full")[0])
    assert all(torch.equal(again[name], tensor) for name, tensor in left(tmp_path, "full", 0)[0].items())


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("batch", [1, 3, 4])
def test_shares_hold_every_text_and_their_weighted_means_average_to_the_mean_of_all(
    batch: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, losses = torch.arange(batch) + 10, torch.randn(20, generator=torch.Generator().manual_seed(0))
    shares = []
    for rank in range(count):
        state = {"num_processes": count, "process_index": rank}
        monkeypatch.setattr(processes, "PartialState", lambda state=state: type("State", (), state))
        shares.append(my_share(index))
    assert sorted(int(number) for mine, weight in shares if weight for number in mine) == index.tolist()
    assert all(len(mine) for mine, _ in shares), "a process without a text would keep the others waiting"
    mean = sum(weight * losses[mine].mean() for mine, weight in shares) / count
    torch.testing.assert_close(mean, losses[index].mean())


def follower(monkeypatch: pytest.MonkeyPatch, told: list[tuple[str, Path]]) -> None:
    """This process is not the main one, which tells these things."""
    monkeypatch.setattr(processes, "is_main", lambda: False)
    monkeypatch.setattr(processes, "_broadcast", lambda _: told.pop(0))


def test_other_processes_make_what_the_main_one_makes_and_compute_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    follower(monkeypatch, [("make", tmp_path), ("done", tmp_path / "kept")])
    made: list[Path] = []
    folder = artifact_of_all("things", lambda: pytest.fail("it computed the key"), made.append)
    assert folder == tmp_path / "kept"
    assert made == [tmp_path]
    assert not cache.exists(), "it wrote to the cache"


def test_machine_without_the_cache_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follower(monkeypatch, [("make", tmp_path / "elsewhere")])
    with pytest.raises(CacheError, match=r"no folder .*elsewhere: set HYPERFIT_CACHE to one that all share"):
        artifact_of_all("things", dict, lambda _: pytest.fail("it began"))


@pytest.mark.parametrize("name", ["DEEPSPEED", "MEGATRON_LM"])
def test_other_ways_to_divide_the_model_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ProcessError, match=f"by FSDP, and not by {name}: start it with 'accelerate launch --use_fsdp"):
        hyperfit(untrained("late"), texts(), CONFIG)


def test_model_on_another_device_than_accelerate_works_on_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PartialState(cpu=True), "device", torch.device("cuda"))
    with pytest.raises(ProcessError, match="works on the cuda in this process, and the model is on the cpu: move"):
        check_processes(torch.device("cpu"))
