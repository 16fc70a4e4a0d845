from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, tiny_model
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from hyperfit_course import late_stage, losses, training
from hyperfit_course.late_stage import (
    LateStageError,
    choose_blocks,
    frozen_depth,
    frozen_prefix,
    late_stage_lora,
    trained_modules,
)
from hyperfit_course.training import HyperfitConfig, TrainingError, hyperfit

STEPS = 50


@pytest.fixture
def texts() -> Tensor:
    return torch.randint(0, 64, (6, 16), generator=torch.Generator().manual_seed(3))


def logits(model: PreTrainedModel | PeftModel, texts: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=texts).logits


# Choosing blocks


@pytest.mark.parametrize(
    ("count", "place", "expected"),
    [
        (2, "last", [4, 5]),
        (2, "first", [0, 1]),
        (2, "middle", [2, 3]),
        (3, "spread", [1, 3, 5]),
        (6, "spread", [0, 1, 2, 3, 4, 5]),
        (6, "middle", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_choice_of_blocks(count: int, place: str, expected: list[int]) -> None:
    assert choose_blocks(FAMILIES["llama"](blocks=6), count, place) == expected


def test_middle_five_of_thirty_blocks_are_13_to_17() -> None:
    assert choose_blocks(FAMILIES["llama"](blocks=30), 5, "middle") == [13, 14, 15, 16, 17]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (9, r"The model has 6 blocks: choose between 1 and 6 of them, not 9\."),
        (0, "not 0"),
        ([], "The list of blocks is empty"),
        ([2, 6], r"The model has the blocks 0 to 5, and not \[6\]"),
        ([-1], r"not \[-1\]"),
        ([2, 2], "named twice"),
    ],
)
def test_blocks_that_are_not_there_are_refused(blocks: int | list[int], message: str) -> None:
    model = FAMILIES["llama"](blocks=6)
    with pytest.raises(LateStageError, match=message):
        late_stage_lora(model, blocks)
    assert all(parameter.requires_grad for parameter in model.parameters()), "the model was touched"


def test_unknown_place_and_rank_are_refused(model: PreTrainedModel) -> None:
    with pytest.raises(LateStageError, match="There is no place 'end': choose from first, middle, last, spread"):
        choose_blocks(model, 1, "end")
    with pytest.raises(LateStageError, match="at least 1, not 0"):
        late_stage_lora(model, 1, rank=0)


def test_second_adapters_are_refused(model: PreTrainedModel) -> None:
    adapted = late_stage_lora(model, 1)
    for again in (adapted, model):
        with pytest.raises(LateStageError, match="has adapters already"):
            late_stage_lora(again, 1)


# Adapters


@pytest.mark.parametrize("family", FAMILIES)
def test_exactly_the_chosen_blocks_train(family: str) -> None:
    model = late_stage_lora(FAMILIES[family](), [1, 3], rank=2)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {int(part) for name in trained for part in name.split(".") if part.isdigit()} == {1, 3}
    table = trained_modules(model)
    assert table["block"].unique().tolist() == [1, 3]
    assert table["parameters"].sum() == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert len(table) == len(trained) / 2, "every linear map has an A and a B"


def test_block_1_is_not_taken_for_block_11() -> None:
    model = late_stage_lora(FAMILIES["llama"](blocks=12), [1], rank=2)
    assert trained_modules(model)["block"].unique().tolist() == [1]


def test_number_of_parameters_of_known_shapes(model: PreTrainedModel) -> None:
    # Per block: q and o 32 x 32, k and v 32 x 16, three of 32 x 64; an adapter of rank r has r (in + out).
    expected = 3 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))
    assert trained_modules(late_stage_lora(model, 1, rank=3))["parameters"].sum() == expected


def test_adapters_change_nothing_before_training_and_their_start_depends_on_the_seed(texts: Tensor) -> None:
    expected = logits(tiny_model(), texts)
    models = [tiny_model() for _ in range(3)]
    random_state = torch.get_rng_state()
    first, again, other = (late_stage_lora(model, 1, seed=seed) for model, seed in zip(models, (0, 0, 1), strict=True))
    assert torch.equal(torch.get_rng_state(), random_state)
    starts = [dict(model.named_parameters()) for model in (first, again, other)]
    name = next(name for name in starts[0] if "lora_A" in name)
    torch.testing.assert_close(logits(first, texts), expected)
    assert torch.equal(starts[0][name], starts[1][name])
    assert not torch.equal(starts[0][name], starts[2][name])


def test_adapters_can_be_saved_loaded_and_merged(texts: Tensor, tmp_path: Path) -> None:
    adapted = late_stage_lora(tiny_model(), 1, rank=2)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    expected = logits(adapted, texts)
    assert not torch.allclose(expected, logits(tiny_model(), texts))
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path).eval()
    torch.testing.assert_close(logits(loaded, texts), expected)
    torch.testing.assert_close(logits(adapted.merge_and_unload(), texts), expected, rtol=1e-4, atol=1e-5)


# The cached prefix


def losses_and_gradients(model: PeftModel, texts: Tensor, cached: bool, precision: torch.dtype) -> list[list[Tensor]]:
    """Fifty steps of training; of every fifth, the loss and all gradients."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    order, plain_head = torch.Generator().manual_seed(0), losses.has_plain_head(model)
    autocast = torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32)
    with autocast:
        prefix = frozen_prefix(model, texts, frozen_depth(model), batch_size=4) if cached else None
    seen = []
    for step in range(STEPS):
        index = torch.randperm(len(texts), generator=order)[:3]
        with autocast, prefix.replayed(index) if prefix else contextlib.nullcontext():
            loss = losses.next_token_loss(model, texts[index], plain_head)
        loss.backward()
        if step % 5 == 0:
            seen.append([loss.detach(), *(parameter.grad.clone() for parameter in trained)])
        optimizer.step()
        optimizer.zero_grad()
    return seen


@pytest.mark.parametrize("blocks", [[3], [2, 3]], ids=["last", "last two"])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_prefix_gives_the_losses_and_gradients_of_plain_training(
    family: str, blocks: list[int], texts: Tensor
) -> None:
    runs = [
        losses_and_gradients(late_stage_lora(FAMILIES[family](), blocks, rank=2), texts, cached, torch.float32)
        for cached in (False, True)
    ]
    for plain, cached in zip(*runs, strict=True):
        for expected, actual in zip(plain, cached, strict=True):
            assert (actual - expected).norm() <= 1e-5 * expected.norm() + 1e-9


def test_cached_prefix_in_bfloat16_differs_by_its_rounding_only(texts: Tensor) -> None:
    runs = [
        losses_and_gradients(late_stage_lora(FAMILIES["llama"](), 1, rank=2), texts, cached, torch.bfloat16)
        for cached in (False, True)
    ]
    # bfloat16 has 8 bits: 0.4 % a number.
    for plain, cached in zip(*runs, strict=True):
        torch.testing.assert_close(cached[0], plain[0], rtol=4e-3, atol=0)
        assert sum((a - b).norm() for a, b in zip(plain[1:], cached[1:], strict=True)) < 0.02 * sum(
            a.norm() for a in plain[1:]
        )


def test_replay_skips_the_blocks_and_only_inside(texts: Tensor) -> None:
    model = late_stage_lora(FAMILIES["llama"](), 1)
    prefix = frozen_prefix(model, texts, 3)
    with torch.no_grad():
        for block in prefix.blocks:  # now the blocks compute nonsense, and nobody asks them
            for parameter in block.parameters():
                parameter.mul_(2)
    expected = logits(late_stage_lora(FAMILIES["llama"](), 1), texts[[4, 1]])
    with prefix.replayed(torch.tensor([4, 1])):
        torch.testing.assert_close(logits(model, texts[[4, 1]]), expected)
    assert not torch.allclose(logits(model, texts[[4, 1]]), expected)


@pytest.mark.parametrize(
    ("blocks", "expected"), [([3], 3), ([1, 3], 1), ([0], 0)], ids=["last", "first of two", "from the start"]
)
def test_frozen_depth(blocks: list[int], expected: int) -> None:
    assert frozen_depth(late_stage_lora(FAMILIES["llama"](), blocks)) == expected


def test_no_block_is_frozen_where_the_embeddings_train() -> None:
    model = late_stage_lora(FAMILIES["llama"](), 1)
    model.get_input_embeddings().weight.requires_grad_()
    assert frozen_depth(model) == 0
    assert frozen_depth(tiny_model()) == 0


def test_what_cannot_be_exact_is_refused(texts: Tensor) -> None:
    model = late_stage_lora(FAMILIES["llama"](), [2, 3])
    with pytest.raises(LateStageError, match="only the first 2 are frozen"):
        frozen_prefix(model, texts, 3)
    with pytest.raises(LateStageError, match="one block at least"):
        frozen_prefix(model, texts, 0)
    model.get_input_embeddings().weight.requires_grad_()
    with pytest.raises(LateStageError, match="only the first 0 are frozen, with the embeddings"):
        frozen_prefix(model, texts, 2)


def test_dropout_is_refused(texts: Tensor) -> None:
    model = late_stage_lora(FAMILIES["gpt2"](), 1)  # GPT-2 has dropout by default
    model.train()
    with pytest.raises(LateStageError, match=r"Dropout is on \(attn_pdrop, embd_pdrop, resid_pdrop.*model\.eval\(\)"):
        frozen_prefix(model, texts, 1)


def test_model_whose_blocks_share_more_than_the_stream_is_refused(texts: Tensor) -> None:
    model = FAMILIES["llama"]()
    layers = model.model.layers
    layers[0].register_forward_hook(lambda module, inputs, output: setattr(model, "first", output))
    layers[3].register_forward_pre_hook(lambda module, inputs: (inputs[0] + model.first.roll(1, dims=1), *inputs[1:]))
    adapted = late_stage_lora(model, 1)
    with pytest.raises(LateStageError, match="passes more from block to block than the residual stream"):
        frozen_prefix(adapted, texts, 3)
    history = hyperfit(adapted, split(texts), CONFIG)  # slower, but it trains
    assert history.iloc[-1]["running_loss"] < history.iloc[1]["running_loss"]


def test_states_beyond_the_budget_go_to_a_file_that_is_checked(
    texts: Tensor, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = late_stage_lora(FAMILIES["llama"](), 1)
    in_memory = frozen_prefix(model, texts, 3)
    on_disk = frozen_prefix(model, texts, 3, memory=100)
    assert torch.equal(in_memory.states, on_disk.states)
    file = next((cache / "prefix").glob("*/states.bin"))
    assert file.stat().st_size == in_memory.states.numel() * 4

    with monkeypatch.context() as patch:  # found again: nothing is computed but the first text
        patch.setattr(late_stage, "artifact", lambda kind, key, make: file.parent)
        frozen_prefix(model, texts, 3, memory=100)
    with file.open("r+b") as stream:
        stream.write(b"damaged!")
    with pytest.warns(UserWarning, match="damaged .*made again"):
        rebuilt = frozen_prefix(model, texts, 3, memory=100)
    assert torch.equal(in_memory.states, rebuilt.states)


def test_other_weights_or_texts_have_another_file(texts: Tensor, cache: Path) -> None:
    model, other = (late_stage_lora(FAMILIES["llama"](seed=seed), 1) for seed in (0, 1))
    for arguments in ((model, texts, 3), (other, texts, 3), (model, texts.flip(0), 3), (model, texts, 2)):
        expected = frozen_prefix(*arguments)
        assert torch.equal(frozen_prefix(*arguments, memory=0).states, expected.states)
    assert len(list((cache / "prefix").glob("*/states.bin"))) == 4


# The same call of hyperfit

CONFIG = HyperfitConfig(epochs=4, learning_rate=1e-2, batch_size=3, evaluate_every=2, evaluation_prompts=2)


@pytest.fixture(autouse=True)
def short_continuations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "NEW_TOKENS", 8)


def split(texts: Tensor) -> dict[str, Tensor]:
    return {"train": texts, "validation": texts[:2], "prompts": texts.repeat(1, 2)}


def test_hyperfit_trains_the_adapters_alone_and_uses_the_prefix(
    texts: Tensor, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    monkeypatch.setattr(training, "frozen_prefix", lambda *a: used.append(a[2]) or frozen_prefix(*a))
    model, before = late_stage_lora(FAMILIES["llama"](), 1), FAMILIES["llama"]()
    history = hyperfit(model, split(texts), CONFIG)
    assert used == [3]
    assert history.iloc[-1]["train_loss"] < history.iloc[0]["train_loss"]
    frozen = {name: tensor for name, tensor in before.state_dict().items() if ".3." not in name}
    after = model.get_base_model().state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in frozen.items())
    saved = next((cache / "hyperfitted").glob("*/model.safetensors"))
    assert saved.stat().st_size < 100_000, "the frozen weights were saved as well"

    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("it trained again"))
    again = late_stage_lora(FAMILIES["llama"](), 1)
    hyperfit(again, split(texts), CONFIG)
    torch.testing.assert_close(logits(again, texts), logits(model, texts))


def test_strength_of_the_adapters_makes_another_run(texts: Tensor) -> None:
    outputs = []
    for alpha in (2, 8):
        model = late_stage_lora(FAMILIES["llama"](), 1, rank=2, alpha=alpha)
        hyperfit(model, split(texts), CONFIG)
        outputs.append(logits(model, texts))
    assert not torch.allclose(*outputs)


def test_model_that_is_frozen_altogether_is_refused(texts: Tensor) -> None:
    with pytest.raises(TrainingError, match="Nothing in the model is trainable"):
        hyperfit(tiny_model().requires_grad_(False), split(texts), CONFIG)
