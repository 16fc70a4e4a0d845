from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from samples import random_splits

from hyperfit_course import optimizers, processes
from hyperfit_course.optimizers import BITS_VARIABLE, OptimizerError, adamw, as_kept, as_tensors, moment_bits
from hyperfit_course.training import HyperfitConfig, TrainingError, arithmetic, hyperfit

CPU = torch.device("cpu")
CONFIG = HyperfitConfig(batch_size=1, evaluation_prompts=1)


def test_moments_are_of_32_bits_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BITS_VARIABLE, raising=False)
    assert moment_bits(CPU) == 32
    assert isinstance(adamw([torch.nn.Parameter(torch.zeros(2))], 1e-3), torch.optim.AdamW)


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ("16", "HYPERFIT_MOMENT_BITS is '16': set it to 8 or 32"),
        ("8", "need one more package: pip install .bitsandbytes>=0.50., or unset"),
    ],
)
def test_bits_that_cannot_be_had_are_refused_before_training(
    bits: str, message: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BITS_VARIABLE, bits)
    monkeypatch.setattr(optimizers, "find_spec", lambda name: None)
    with pytest.raises(OptimizerError, match=message):
        hyperfit(tiny_model(), random_splits(), CONFIG)
    assert not cache.exists()


def test_hardware_and_package_that_cannot_do_it_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BITS_VARIABLE, "8")
    monkeypatch.setattr(optimizers, "find_spec", lambda name: name)
    with pytest.raises(OptimizerError, match="need an NVIDIA GPU or a CPU, not mps: unset HYPERFIT_MOMENT_BITS"):
        moment_bits(torch.device("mps"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)  # it cannot be imported
    with pytest.raises(OptimizerError, match=r"bitsandbytes does not work here .*: pip install 'bitsandbytes>=0.50'"):
        adamw([torch.nn.Parameter(torch.zeros(2))], 1e-3)


def test_moments_of_8_bits_are_named_and_not_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BITS_VARIABLE, "8")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setattr(optimizers, "find_spec", lambda name: name)
    monkeypatch.setattr(processes, "divides_models", lambda: True)
    assert arithmetic(CPU) == "no, moments of 8 bits"
    with pytest.raises(TrainingError, match="not divided among processes: unset HYPERFIT_MOMENT_BITS, or use no FSDP"):
        hyperfit(tiny_model(), random_splits(), CONFIG)


def test_what_is_kept_comes_back_from_tensors_as_it_was() -> None:
    table = torch.arange(3.0)
    nested = {"step": 7, "inner": {"state1": torch.tensor([1, 2], dtype=torch.uint8), "qmap1": table}}
    tensors = as_tensors(nested)
    assert tensors["qmap1"].data_ptr() != table.data_ptr(), "a file cannot hold one tensor twice"
    kept = {name: as_kept(tensor) for name, tensor in tensors.items()}
    assert kept["step"] == 7
    assert isinstance(kept["step"], int)
    assert torch.equal(kept["state1"], nested["inner"]["state1"])  # type: ignore[index]
    assert torch.is_tensor(as_kept(torch.tensor(7.0))), "PyTorch's AdamW counts in a tensor"


@pytest.mark.slow
def test_training_with_moments_of_8_bits(tmp_path: Path) -> None:
    """With bitsandbytes in a folder of its own: where it is installed, PEFT imports and loads it at every start."""
    folder = str(tmp_path / "packages")
    install = ["pip", "install", "--quiet", "--no-deps", "--target", folder, "bitsandbytes>=0.50,<0.51"]
    assert not subprocess.run([sys.executable, "-m", *install]).returncode, "bitsandbytes has to be fetched"
    tests = ["pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).with_name("eight_bits.py"))]
    done = subprocess.run(
        [sys.executable, "-m", *tests], env=os.environ | {"PYTHONPATH": folder}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
