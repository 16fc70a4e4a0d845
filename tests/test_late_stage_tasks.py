"""The arms of chapters 05 and 06, on a tiny model."""

from __future__ import annotations

from collections import Counter
from typing import Any

import late_stage_tasks
import pandas as pd
import pytest
import recording
from conftest import tiny_model
from late_stage_tasks import Arm, arms, measure_arm
from peft import PeftModel
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from hyperfit_course.late_stage import late_stage_lora, trained_modules


def test_every_arm_is_there_once_with_every_seed() -> None:
    found = [arm for of_file in arms().values() for arm in of_file]
    assert len(set(found)) == len(found)
    for of_file in arms().values():
        seeds = Counter(arm.seed for arm in of_file)
        assert set(seeds) == {0, 1, 2}
        assert len(set(seeds.values())) == 1


def test_arms_that_are_compared_have_equally_many_parameters_and_steps() -> None:
    config = tiny_model().config
    config.num_hidden_layers = 30

    def parameters(arm: Arm) -> int:
        blocks = 30 if arm.count is None else arm.count
        return int(trained_modules(late_stage_lora(LlamaForCausalLM(config), blocks, arm.rank))["parameters"].sum())

    equal = [arm for arm in arms()["late_stage_arms"] if (arm.place, arm.rank) != (None, late_stage_tasks.RANK)]
    assert len({parameters(arm) for arm in set(equal) if arm.seed == 0}) == 1
    assert len({(arm.config.epochs, arm.config.batch_size, arm.config.learning_rate) for arm in equal}) == 1
    assert {arm.config.seed for arm in equal} == {0, 1, 2}


def test_an_arm_trains_the_blocks_that_it_names(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_model().config
    config.num_hidden_layers = 8
    for module in (late_stage_tasks, recording):
        monkeypatch.setattr(module, "load_model", lambda: (LlamaForCausalLM(config).eval(), tokenizer))
    monkeypatch.setattr(late_stage_tasks, "EQUAL_STEPS", late_stage_tasks.HyperfitConfig(1, evaluation_prompts=1))
    recording.held_out.cache_clear()
    seen = []
    real = late_stage_tasks.hyperfit

    def watched(model: PeftModel, *rest: Any) -> pd.DataFrame:
        seen.append(trained_modules(model))
        return real(model, *rest)

    monkeypatch.setattr(late_stage_tasks, "hyperfit", watched)
    row = next(iter(measure_arm(Arm("middle", 5, 2, "equal steps", seed=1))))
    recording.held_out.cache_clear()
    assert sorted(seen[0]["block"].unique()) == [2, 3, 4, 5, 6]
    assert row["arm"] == "middle 5"
    assert row["parameters"] == seen[0]["parameters"].sum()
    assert len(row["ttr_of_prompts"]) == row["n_prompts"] == 30
    assert row["ttr"] == pytest.approx(sum(row["ttr_of_prompts"]) / 30, abs=1e-6)
    assert row["prenorm_low"] <= row["prenorm"] <= row["prenorm_high"]
