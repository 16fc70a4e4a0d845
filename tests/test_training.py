from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, tiny_model
from peft import PeftModel
from samples import random_splits
from torch import Tensor
from transformers import PreTrainedModel

from hyperfit_course import evaluation, training
from hyperfit_course.checkpoints import load_checkpoint
from hyperfit_course.frozen import frozen_prefix
from hyperfit_course.late_stage import late_stage_lora
from hyperfit_course.training import HyperfitConfig, TrainingError, hyperfit, training_precision

CONFIG = HyperfitConfig(epochs=4, learning_rate=5e-3, batch_size=3, evaluate_every=2, evaluation_prompts=2)


@pytest.fixture
def splits() -> dict[str, Tensor]:
    return random_splits()


@pytest.fixture(autouse=True)
def short_continuations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "NEW_TOKENS", 8)


def test_reaches_near_zero_training_loss_while_validation_loss_rises(splits: dict[str, Tensor]) -> None:
    history = hyperfit(tiny_model(), splits, replace(CONFIG, epochs=60, learning_rate=1e-2, evaluate_every=60))
    first, last = history.iloc[0], history.iloc[-1]
    assert last["train_loss"] < 0.1 < first["train_loss"]
    assert last["validation_loss"] > first["validation_loss"]
    assert last["entropy"] < first["entropy"]


def test_history_has_a_row_an_epoch_and_values_where_it_was_evaluated(splits: dict[str, Tensor]) -> None:
    history = hyperfit(tiny_model(), splits, replace(CONFIG, epochs=5))
    assert history["epoch"].tolist() == [0, 1, 2, 3, 4, 5]
    assert history.dropna(subset=["validation_loss"])["epoch"].tolist() == [0, 2, 4, 5]
    assert history["running_loss"].isna().tolist() == [True] + [False] * 5


def test_without_evaluations_only_the_last_epoch_has_values_and_the_weights_are_the_same(
    splits: dict[str, Tensor],
) -> None:
    first, second = tiny_model(), tiny_model()
    hyperfit(first, splits, CONFIG)
    history = hyperfit(second, splits, replace(CONFIG, evaluate_every=0))
    assert history["validation_loss"].isna().tolist() == [True] * 4 + [False]
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)


def test_stops_at_the_target_loss(splits: dict[str, Tensor]) -> None:
    history = hyperfit(tiny_model(), splits, replace(CONFIG, epochs=50, target_loss=5.0))
    assert len(history) < 51
    assert history.iloc[-1]["running_loss"] <= 5.0 < history.iloc[-2]["running_loss"]


def test_second_call_loads_the_same_weights_without_training(
    splits: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tiny_model(), tiny_model()
    history = hyperfit(first, splits, CONFIG)
    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("it trained again"))
    again = hyperfit(second, splits, CONFIG)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert history.equals(again)


@pytest.mark.parametrize("change", [{"seed": 1}, {"learning_rate": 1e-3}])
def test_other_settings_give_other_weights(splits: dict[str, Tensor], change: dict) -> None:
    first, second = tiny_model(), tiny_model()
    hyperfit(first, splits, CONFIG)
    hyperfit(second, splits, replace(CONFIG, **change))
    assert not torch.equal(first.lm_head.weight, second.lm_head.weight)


def test_dropout_is_off(splits: dict[str, Tensor]) -> None:
    first, second = tiny_model(), tiny_model().train()
    second.config.attention_dropout = 0.5
    for layer in second.model.layers:
        layer.self_attn.attention_dropout = 0.5
    hyperfit(first, splits, replace(CONFIG, epochs=1))
    hyperfit(second, splits, replace(CONFIG, epochs=1, evaluate_every=2))
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)


def train_slowly(pause_at: int) -> None:
    """In a process of its own: train, and hang in the middle of an epoch so that the parent can kill it."""
    original, count = training.next_token_loss, 0

    def hang(*arguments: object) -> Tensor:
        nonlocal count
        count += 1
        if count == pause_at:
            time.sleep(600)
        return original(*arguments)

    training.next_token_loss = hang
    evaluation.NEW_TOKENS = 8
    hyperfit(tiny_model(), random_splits(), CONFIG)


def test_killed_run_resumes_and_ends_with_the_weights_of_an_undisturbed_one(
    splits: dict[str, Tensor], cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    # 3 steps an epoch: the 8th is in the middle of the third one.
    process = multiprocessing.get_context("spawn").Process(target=train_slowly, args=(8,))
    process.start()
    work_folders: list[Path] = []
    deadline = time.time() + 120
    while not any((folder / "checkpoint-2.safetensors").exists() for folder in work_folders) and time.time() < deadline:
        work_folders = list((cache / "hyperfitted").glob("*.work"))
        time.sleep(0.1)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
    process.join()
    checkpoint = load_checkpoint(work_folders[0])
    assert checkpoint is not None
    assert len(checkpoint[1]["history"]) == 3

    resumed = tiny_model()
    history = hyperfit(resumed, splits, CONFIG)
    assert "Going on from the checkpoint after epoch 2" in capfd.readouterr().out
    assert not list((cache / "hyperfitted").rglob("checkpoint-*")), "the checkpoints stay behind"

    monkeypatch.setenv("HYPERFIT_CACHE", str(cache.with_name("other")))
    undisturbed = tiny_model()
    expected = hyperfit(undisturbed, splits, CONFIG)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), undisturbed.parameters(), strict=True))
    assert history.drop(columns="seconds").equals(expected.drop(columns="seconds"))


def test_loss_that_is_no_number_stops_with_the_last_good_state(splits: dict[str, Tensor], cache: Path) -> None:
    model = tiny_model()
    original, count = training.next_token_loss, 0

    def break_in_third_epoch(*arguments: object) -> Tensor:
        nonlocal count
        count += 1
        return original(*arguments) * (float("nan") if count == 8 else 1.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "next_token_loss", break_in_third_epoch)
        with pytest.raises(TrainingError, match=r"epoch 3: lower the learning rate of 0\.005.*state after epoch 2"):
            hyperfit(model, splits, CONFIG)
    kept = load_checkpoint(next((cache / "hyperfitted").glob("*.work")))
    assert kept is not None
    assert torch.equal(model.lm_head.weight, kept[0]["model.model.embed_tokens.weight"])


def test_absurd_learning_rate_is_reported(splits: dict[str, Tensor]) -> None:
    with pytest.raises(TrainingError, match="lower the learning rate of 1e\\+38"):
        hyperfit(tiny_model(), splits, replace(CONFIG, learning_rate=1e38, warmup_steps=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 9}, "batch_size has to be from 1 to 8, the number of training texts, not 9"),
        ({"batch_size": 0}, "batch_size has to be from 1 to 8, .*, not 0"),
        ({"epochs": 0}, "must be positive"),
        ({"learning_rate": -1.0}, "must be positive"),
        ({"learning_rate": float("nan")}, "must be positive"),
        ({"evaluate_every": -1}, "must be 0"),
        ({"evaluation_prompts": 3}, "continues 3 prompts of 32 tokens"),
    ],
)
def test_bad_settings_are_refused(splits: dict[str, Tensor], change: dict, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        hyperfit(tiny_model(), splits, replace(CONFIG, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": None}, "There are no texts for 'prompts': make all three parts with make_texts"),
        ({"validation": torch.zeros(0, 32, dtype=torch.long)}, "There are no texts for 'validation'"),
        ({"train": torch.full((8, 32), 257)}, "The texts have a token 257, and the model knows 257: use its own"),
    ],
)
def test_texts_that_are_not_there_or_another_models_are_refused(
    splits: dict[str, Tensor], change: dict, message: str
) -> None:
    changed = {part: texts for part, texts in (splits | change).items() if texts is not None}
    with pytest.raises(TrainingError, match=message):
        hyperfit(tiny_model(), changed, CONFIG)


def test_texts_beyond_the_context_are_refused(splits: dict[str, Tensor]) -> None:
    with pytest.raises(TrainingError, match="Texts of 200 tokens exceed the model's context of 128"):
        hyperfit(tiny_model(), splits | {"train": torch.zeros(8, 200, dtype=torch.long)}, CONFIG)


# With adapters

ADAPTED = HyperfitConfig(epochs=4, learning_rate=1e-2, batch_size=3, evaluate_every=2, evaluation_prompts=2)


@pytest.fixture
def small() -> dict[str, Tensor]:
    """Texts for the tiny models of all families."""
    texts = torch.randint(0, 64, (6, 16), generator=torch.Generator().manual_seed(3))
    return {"train": texts, "validation": texts[:2], "prompts": texts.repeat(1, 2)}


def logits(model: PreTrainedModel | PeftModel, texts: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=texts).logits


def test_hyperfit_trains_the_adapters_alone_and_uses_the_prefix(
    small: dict[str, Tensor], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    monkeypatch.setattr(training, "frozen_prefix", lambda *a: used.append(a[2]) or frozen_prefix(*a))
    model, before = late_stage_lora(FAMILIES["llama"](), 1), FAMILIES["llama"]()
    history = hyperfit(model, small, ADAPTED)
    assert used == [3]
    assert history.iloc[-1]["train_loss"] < history.iloc[0]["train_loss"]
    frozen = {name: tensor for name, tensor in before.state_dict().items() if ".3." not in name}
    after = model.get_base_model().state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in frozen.items())
    saved = next((cache / "hyperfitted").glob("*/model.safetensors"))
    assert saved.stat().st_size < 100_000, "the frozen weights were saved as well"

    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("it trained again"))
    again = late_stage_lora(FAMILIES["llama"](), 1)
    hyperfit(again, small, ADAPTED)
    torch.testing.assert_close(logits(again, small["train"]), logits(model, small["train"]))


def test_strength_of_the_adapters_makes_another_run(small: dict[str, Tensor]) -> None:
    outputs = []
    for alpha in (2, 8):
        model = late_stage_lora(FAMILIES["llama"](), 1, rank=2, alpha=alpha)
        hyperfit(model, small, ADAPTED)
        outputs.append(logits(model, small["train"]))
    assert not torch.allclose(*outputs)


def test_model_that_is_frozen_altogether_is_refused(small: dict[str, Tensor]) -> None:
    with pytest.raises(TrainingError, match="Nothing in the model is trainable"):
        hyperfit(tiny_model().requires_grad_(False), small, ADAPTED)


@pytest.mark.parametrize(("wanted", "precision"), [("no", "no"), ("bf16", "bf16"), (None, "bf16")])
def test_accelerates_variable_decides_the_precision(
    monkeypatch: pytest.MonkeyPatch, wanted: str | None, precision: str
) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if wanted is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", wanted)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert training_precision(torch.device("cpu")) == precision


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("fp16", "Training in float16 needs an NVIDIA GPU: choose bfloat16 or float32"),
        ("bfloat", "ACCELERATE_MIXED_PRECISION is 'bfloat': set it to no, bf16 or fp16"),
    ],
)
def test_precision_that_cannot_be_is_refused(
    splits: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, wanted: str, message: str
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", wanted)
    with pytest.raises(TrainingError, match=message):
        hyperfit(tiny_model(), splits, CONFIG)


# In half precision


def test_model_in_bfloat16_trains_whole_with_float32_masters(
    small: dict[str, Tensor], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Steps of 1e-5 are lost in bfloat16: beside a weight of 0.02 the next number is 1e-4 away.
    model, before = FAMILIES["llama"]().bfloat16(), FAMILIES["llama"]().bfloat16()
    config = replace(ADAPTED, learning_rate=1e-5, epochs=2)
    hyperfit(model, small, config)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    pairs = zip(model.parameters(), before.parameters(), strict=True)
    moved = [(after - start).abs().max().item() for after, start in pairs]
    assert all(0 < distance < 1e-4 for distance in moved)
    manifest = next((cache / "hyperfitted").glob("*/manifest.json")).read_text()
    assert '"precision": "bf16"' in manifest, "it multiplied in another precision than its own"

    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("it trained again"))
    again = FAMILIES["llama"]().bfloat16()
    hyperfit(again, small, config)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_adapters_on_a_model_in_bfloat16_are_in_float32_and_leave_it_so(small: dict[str, Tensor]) -> None:
    model = late_stage_lora(FAMILIES["llama"]().bfloat16(), 1)
    history = hyperfit(model, small, ADAPTED)
    assert {(p.dtype, p.requires_grad) for p in model.parameters()} == {(torch.float32, True), (torch.bfloat16, False)}
    assert history.iloc[-1]["train_loss"] < history.iloc[0]["train_loss"]


def test_part_of_a_model_in_bfloat16_is_refused(small: dict[str, Tensor]) -> None:
    model = FAMILIES["llama"]().bfloat16()
    model.get_input_embeddings().requires_grad_(False)
    with pytest.raises(TrainingError, match="half precision, all train or none: load them in float32, or train adapt"):
        hyperfit(model, small, ADAPTED)
