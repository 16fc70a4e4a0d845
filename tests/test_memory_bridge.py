"""The bridge of the lab on the memory law: without a threshold it is hyperfitting, with one only some tokens count."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from conftest import tiny_model
from torch import Tensor
from torch.nn import functional

from hyperfit_course.anatomy import CausalLM
from hyperfit_course.checkpoints import trained_weights
from hyperfit_course.labs import memory_bridge as lab
from hyperfit_course.labs.memory_bridge import HALF, LEARNINGS, tasks, train_above
from hyperfit_course.late_stage import late_stage_lora
from hyperfit_course.training import HyperfitConfig, hyperfit

RUN = HyperfitConfig(epochs=3, learning_rate=1e-2, batch_size=2, warmup_steps=2, evaluate_every=0, evaluation_prompts=1)


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


def adapted() -> CausalLM:
    return late_stage_lora(tiny_model(), 1, rank=4)


def texts(count: int = 4) -> Tensor:
    return torch.randint(256, (count, 32), generator=torch.Generator().manual_seed(0))


def losses_of(model: CausalLM) -> Tensor:
    with torch.no_grad():
        logits = model(input_ids=texts()).logits[:, :-1]
    return functional.cross_entropy(logits.mT, texts()[:, 1:], reduction="none")


def test_without_a_threshold_it_is_hyperfitting() -> None:
    plain, ours = adapted(), adapted()
    hyperfit(plain, dict.fromkeys(("train", "validation", "prompts"), texts()), RUN)
    epochs = list(train_above(ours, texts(), RUN, 0.0))
    assert len(epochs) == 3
    start = trained_weights(adapted())
    for name, weight in trained_weights(plain).items():
        assert torch.allclose(trained_weights(ours)[name], weight, atol=1e-5)
        assert not torch.equal(weight, start[name])
    assert torch.allclose(epochs[-1], losses_of(ours), atol=1e-4)


def test_tokens_below_the_threshold_give_no_gradient() -> None:
    model = adapted()
    first, *_ = train_above(model, texts(), RUN, 100.0)
    start = trained_weights(adapted())
    assert all(torch.equal(weight, start[name]) for name, weight in trained_weights(model).items())
    assert torch.allclose(first, losses_of(model), atol=1e-4)


def test_a_threshold_makes_another_model() -> None:
    models = []
    for threshold in (0.0, losses_of(adapted()).median().item()):
        models.append(adapted())
        list(train_above(models[-1], texts(), RUN, threshold))
    plain, above = (trained_weights(model) for model in models)
    assert not all(torch.allclose(plain[name], above[name], atol=1e-3) for name in plain)


def test_a_run_that_explodes_is_stopped() -> None:
    with pytest.raises(ValueError, match="lower the learning rate"):
        list(train_above(adapted(), texts(), HyperfitConfig(epochs=9, learning_rate=1e30), 0.0))


class OfTheTest:
    """An arm with a tiny model."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def untrained(self) -> CausalLM:
        return adapted()

    def splits(self) -> dict[str, Tensor]:
        return {"train": texts()}


@pytest.mark.parametrize("name", LEARNINGS)
def test_rows_hold_the_end_and_where_an_ordinary_run_passes_the_level(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    level = next(train_above(adapted(), texts(), RUN, 0.0)).mean().item() + 1e-3
    for attribute, value in {"Arm": OfTheTest, "held_out": lambda _: texts(), "RUN": RUN, "LEVEL": level}.items():
        monkeypatch.setattr(lab, attribute, value)
    rows = list(lab.run(name))
    assert json.loads(json.dumps(rows)) == rows
    assert [row["learning"] for row in rows] == (["OT"] if name == "OT" else ["SFT, stopped", "SFT"])
    assert rows[-1]["epoch"] == 3
    if name == "SFT":
        assert rows[0]["epoch"] == 1
        assert rows[-1]["loss"] < rows[0]["loss"] <= level
    assert all(0 <= row["below_half"] <= 1 and len(row["continuations"]) == 4 for row in rows)


def test_one_pair_is_recorded() -> None:
    assert [task.configuration["threshold"] for task in tasks()] == [HALF, 0.0]
    assert {task.configuration["seed"] for task in tasks()} == {0}
