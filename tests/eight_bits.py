"""Tests that need bitsandbytes; test_optimizers.py runs them where it is. Without a GPU, it computes on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model
from samples import random_splits
from torch import Tensor

from hyperfit_course import evaluation, training
from hyperfit_course.optimizers import BITS_VARIABLE, adamw
from hyperfit_course.training import HyperfitConfig, hyperfit

CONFIG = HyperfitConfig(epochs=4, learning_rate=5e-3, batch_size=3, evaluate_every=0, evaluation_prompts=1)


@pytest.fixture(autouse=True)
def eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BITS_VARIABLE, "8")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setattr(evaluation, "NEW_TOKENS", 8)


def test_moments_of_large_tensors_take_a_byte_each() -> None:
    model = tiny_model()
    optimizer = adamw(list(model.parameters()), 1e-3)
    model(input_ids=torch.zeros(1, 8, dtype=torch.long), labels=torch.zeros(1, 8, dtype=torch.long)).loss.backward()
    optimizer.step()
    large, small = model.get_input_embeddings().weight, model.model.layers[0].mlp.up_proj.weight
    assert large.numel() > 4096 > small.numel()
    for weight, dtype in ((large, torch.uint8), (small, torch.float32)):
        assert [optimizer.state[weight][name].dtype for name in ("state1", "state2")] == [dtype, dtype]


def test_reaches_near_zero_training_loss_by_other_steps_than_with_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    long, of_8, of_32 = replace(CONFIG, epochs=60, learning_rate=1e-2), tiny_model(), tiny_model()
    assert hyperfit(of_8, random_splits(), long).iloc[-1]["train_loss"] < 0.1
    monkeypatch.setenv(BITS_VARIABLE, "32")
    hyperfit(of_32, random_splits(), long)  # with the first run in the cache
    assert not torch.equal(of_8.lm_head.weight, of_32.lm_head.weight)


def test_stopped_run_ends_with_the_weights_of_an_undisturbed_one(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original, count = training.next_token_loss, 0

    def stop_in_third_epoch(*arguments: Any) -> Tensor:
        nonlocal count
        count += 1
        if count == 8:  # of 3 an epoch
            raise KeyboardInterrupt
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "next_token_loss", stop_in_third_epoch)
        with pytest.raises(KeyboardInterrupt):
            hyperfit(tiny_model(), random_splits(), CONFIG)
    resumed, undisturbed = tiny_model(), tiny_model()
    hyperfit(resumed, random_splits(), CONFIG)
    assert "Going on from the checkpoint after epoch 2" in capsys.readouterr().out
    monkeypatch.setenv("HYPERFIT_CACHE", str(cache.with_name("other")))
    hyperfit(undisturbed, random_splits(), CONFIG)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), undisturbed.parameters(), strict=True))
