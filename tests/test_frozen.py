from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, tiny_model
from peft import PeftModel
from torch import Tensor

from hyperfit_course import evaluation, frozen, losses
from hyperfit_course.frozen import PrefixError, frozen_depth, frozen_prefix
from hyperfit_course.late_stage import late_stage_lora
from hyperfit_course.training import HyperfitConfig, hyperfit

STEPS = 50


@pytest.fixture
def texts() -> Tensor:
    return torch.randint(0, 64, (6, 16), generator=torch.Generator().manual_seed(3))


def logits(model: PeftModel, texts: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=texts).logits


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
    with pytest.raises(PrefixError, match="only the first 2 are frozen"):
        frozen_prefix(model, texts, 3)
    with pytest.raises(PrefixError, match="one block at least"):
        frozen_prefix(model, texts, 0)
    model.get_input_embeddings().weight.requires_grad_()
    with pytest.raises(PrefixError, match="only the first 0 are frozen, with the embeddings"):
        frozen_prefix(model, texts, 2)


def test_dropout_is_refused(texts: Tensor) -> None:
    model = late_stage_lora(FAMILIES["gpt2"](), 1)  # GPT-2 has dropout by default
    model.train()
    with pytest.raises(PrefixError, match=r"Dropout is on \(attn_pdrop, embd_pdrop, resid_pdrop.*model\.eval\(\)"):
        frozen_prefix(model, texts, 1)


def test_model_whose_blocks_share_more_than_the_stream_is_refused(
    texts: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "NEW_TOKENS", 8)
    config = HyperfitConfig(epochs=4, learning_rate=1e-2, batch_size=3, evaluate_every=2, evaluation_prompts=2)
    model = FAMILIES["llama"]()
    layers = model.model.layers
    layers[0].register_forward_hook(lambda module, inputs, output: setattr(model, "first", output))
    layers[3].register_forward_pre_hook(lambda module, inputs: (inputs[0] + model.first.roll(1, dims=1), *inputs[1:]))
    adapted = late_stage_lora(model, 1)
    with pytest.raises(PrefixError, match="passes more from block to block than the residual stream"):
        frozen_prefix(adapted, texts, 3)
    splits = {"train": texts, "validation": texts[:2], "prompts": texts.repeat(1, 2)}
    history = hyperfit(adapted, splits, config)  # slower, but it trains
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
        patch.setattr(frozen, "artifact", lambda kind, key, make: file.parent)
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
