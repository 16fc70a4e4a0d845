"""The lab on the memory law: bypasses of a batch are alone, and one half is enough but not needed."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from conftest import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from hyperfit_course.labs import memory_law as lab
from hyperfit_course.labs.memory_law import (
    HALF,
    LAWS,
    RANKS,
    Bypasses,
    Learning,
    Reciter,
    fit_law,
    learnings,
    memorise,
    power_law,
    random_text,
    run,
    tasks,
    threshold_weights,
)

TOKENS = torch.arange(0, 256, 2)
PROMPT = torch.tensor([3, 1, 4])


def reciter(model: PreTrainedModel, texts: int = 2, length: int = 6, tokens: Tensor = TOKENS) -> Reciter:
    drawn = torch.stack([random_text(seed, length, len(tokens)) for seed in range(texts)])
    return Reciter(model, PROMPT, drawn, tokens, block=1)


def moved(ranks: list[int], seed: int = 0) -> Bypasses:
    """Bypasses that change something."""
    bypasses = Bypasses(ranks, 32, seed)
    for row, rank in enumerate(ranks):
        bypasses.up.data[row, :rank] = torch.randn(rank, 32, generator=torch.Generator().manual_seed(row))
    return bypasses


# One half is enough


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10**6), st.floats(0.1, 20))
def test_a_token_with_more_than_one_half_is_the_most_probable(tokens: int, seed: int, scale: float) -> None:
    logits = scale * torch.randn(30, tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    targets = torch.randint(tokens, (30,), generator=torch.Generator().manual_seed(seed + 1))
    losses = functional.cross_entropy(logits, targets, reduction="none")
    assert (logits.argmax(-1) == targets)[losses < HALF].all()


def test_one_half_is_not_needed() -> None:
    logits = torch.tensor([0.4, 0.3, 0.3]).log()
    assert int(logits.argmax()) == 0
    assert functional.cross_entropy(logits[None], torch.tensor([0])).item() > HALF


def test_right_everywhere_is_the_same_as_greedy_recitation(model: PreTrainedModel) -> None:
    every = torch.arange(256)  # without the end-of-text token
    reader = reciter(model, texts=1, length=5, tokens=every)
    bypasses = Bypasses([8], 32)
    course = memorise(reader, bypasses, torch.tensor([0]), steps=150, rate=0.05)
    assert course.right[-1].all(), "the tiny model has not learned its text"
    assert not course.right[0].all()
    with bypasses.around(model, 1):
        written = model.generate(PROMPT[None], max_new_tokens=5, do_sample=False, use_cache=False, pad_token_id=256)
    assert written[0, 3:].tolist() == reader.texts[0].tolist()


# The adapter


def test_bypasses_change_nothing_at_first(model: PreTrainedModel) -> None:
    reader = reciter(model)
    with torch.no_grad():
        plain = model(input_ids=reader.ids).logits[:, 2:-1, TOKENS]
        with Bypasses([1, 4], 32).around(model, 1):
            bypassed = model(input_ids=reader.ids).logits[:, 2:-1, TOKENS]
        after = model(input_ids=reader.ids).logits[:, 2:-1, TOKENS]
    assert torch.equal(plain, bypassed)
    assert torch.equal(plain, after)


def test_a_bypass_adds_a_product_of_low_rank_to_its_block(model: PreTrainedModel) -> None:
    seen: dict[str, Tensor] = {}
    block, bypasses = model.model.layers[1], moved([2])
    ids = torch.tensor([[5, 6, 7]])
    hooks = [
        block.mlp.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0])),
        block.register_forward_hook(lambda module, inputs, output: seen.update(out=lab_state(output))),
    ]
    with torch.no_grad():
        model(input_ids=ids)
        plain = seen["out"]
        with bypasses.around(model, 1):
            model(input_ids=ids)
        wanted = seen["x"] @ bypasses.down[0, :, :2] @ bypasses.up[0, :2]
    for hook in hooks:
        hook.remove()
    assert torch.allclose(seen["out"] - plain, wanted, atol=1e-5)
    assert torch.linalg.matrix_rank(bypasses.down[0] @ bypasses.up[0]).item() == 2


def lab_state(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def test_the_computed_beginning_gives_the_logits_of_the_whole_model(model: PreTrainedModel) -> None:
    reader, bypasses = reciter(model), moved([1, 3])
    with torch.no_grad(), bypasses.around(model, 1):
        whole = model(input_ids=reader.ids).logits[:, 2:-1, TOKENS]
    assert torch.allclose(reader.logits(bypasses, torch.arange(2)), whole, atol=1e-5)


def test_a_batch_gives_each_bypass_the_gradient_that_it_gets_alone(model: PreTrainedModel) -> None:
    reader, index = reciter(model.double()), torch.tensor([1, 0, 1])
    together = moved([1, 2, 4]).double()
    losses = functional.cross_entropy(reader.logits(together, index).mT, reader.texts[index], reduction="none")
    losses.mean(1).sum().backward()
    for row, (rank, text) in enumerate(zip([1, 2, 4], index, strict=True)):
        alone = moved([rank]).double()
        alone.up.data[0] = together.up.data[row, :rank]
        loss = functional.cross_entropy(reader.logits(alone, text[None]).mT, reader.texts[text][None])
        loss.backward()
        assert torch.allclose(alone.down.grad[0], together.down.grad[row, :, :rank], atol=1e-6)
        assert torch.allclose(alone.up.grad[0], together.up.grad[row, :rank], atol=1e-6)


def test_columns_beyond_the_rank_of_a_row_stay_zero(model: PreTrainedModel) -> None:
    bypasses = Bypasses([1, 4], 32)
    memorise(reciter(model), bypasses, torch.arange(2), steps=5)
    assert not bypasses.down[0, :, 1:].any()
    assert not bypasses.up[0, 1:].any()
    assert bypasses.up[1].all()


def test_the_start_has_the_bound_of_the_authors_and_shared_directions() -> None:
    one, four = (Bypasses([rank], 500, seed=3).down[0] for rank in (1, 4))
    for start, rank in ((one, 1), (four, 4)):
        assert 0.95 / math.sqrt(rank) < start.abs().max().item() <= 1 / math.sqrt(rank)
    assert torch.allclose(one[:, 0], 2 * four[:, 0])
    assert not torch.equal(one, Bypasses([1], 500, seed=4).down[0])


@pytest.mark.parametrize("ranks", [[], [0, 1], [33]])
def test_a_rank_that_cannot_be_is_refused(ranks: list[int]) -> None:
    with pytest.raises(ValueError, match="between 1 and the width of the model, 32"):
        Bypasses(ranks, 32)


@pytest.mark.parametrize(
    ("prompt", "length", "block", "message"),
    [
        (PROMPT, 126, 1, "the model reads 128: take shorter texts"),
        (PROMPT[:0], 4, 1, "A prompt of at least one token"),
        (PROMPT, 4, 0, "Choose a block from 1 to 1"),
        (PROMPT, 4, 2, "and not 2"),
    ],
)
def test_what_does_not_fit_is_refused(
    model: PreTrainedModel, prompt: Tensor, length: int, block: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Reciter(model, prompt, random_text(0, length, 128)[None], TOKENS, block)


def test_texts_of_a_seed_begin_alike_and_end_somewhere() -> None:
    assert random_text(1, 16, 128).tolist() == random_text(1, 32, 128)[:16].tolist()
    assert random_text(1, 16, 128).tolist() != random_text(2, 16, 128).tolist()
    for length in (0, 129):
        with pytest.raises(ValueError, match="1 to 128 tokens"):
            random_text(0, length, 128)


# What counts in training


def test_only_tokens_above_the_threshold_count_and_all_where_none_is() -> None:
    losses = torch.tensor([[0.1, 1.0, 3.0, 0.69], [0.1, 0.2, 0.3, 0.4]])
    assert torch.equal(threshold_weights(losses, HALF), torch.tensor([[0, 0.5, 0.5, 0], [0.25] * 4]))
    assert torch.equal(threshold_weights(losses, HALF, fallback=False)[1], torch.zeros(4))
    assert torch.equal(threshold_weights(losses, 0.0), torch.full((2, 4), 0.25))


def test_weights_are_constants() -> None:
    losses = torch.tensor([[0.1, 1.0]], requires_grad=True)
    (losses * threshold_weights(losses, HALF)).sum().backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == [[0, 1]]


def test_each_learns_as_if_it_were_alone(model: PreTrainedModel) -> None:
    together = memorise(reciter(model), Bypasses([1, 4], 32), torch.arange(2), steps=6, threshold=HALF)
    for row, rank in enumerate((1, 4)):
        alone = memorise(reciter(model), Bypasses([rank], 32), torch.tensor([row]), steps=6, threshold=HALF)
        assert torch.allclose(alone.losses[:, 0], together.losses[:, row], atol=1e-4)
    assert together.losses.shape == together.right.shape == (7, 2, 6)
    assert (together.losses[-1].mean(-1) < together.losses[0].mean(-1)).all()


def test_a_threshold_that_all_are_below_makes_ordinary_training_and_one_between_does_not(
    model: PreTrainedModel,
) -> None:
    def learned(threshold: float) -> Tensor:
        return memorise(reciter(model), Bypasses([8, 8], 32), torch.arange(2), 3, threshold=threshold).losses

    ordinary = learned(0.0)
    assert torch.equal(ordinary, learned(100.0))
    assert not torch.allclose(ordinary[-1], learned(ordinary[0].median().item())[-1], atol=1e-3)


def test_a_run_without_steps_and_one_that_explodes_are_refused(model: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="at least one step"):
        memorise(reciter(model), Bypasses([1, 1], 32), torch.arange(2), steps=0)
    exploded = Bypasses([1, 1], 32)
    exploded.up.data.fill_(math.inf)
    with pytest.raises(ValueError, match="no number after 0 steps: try a lower rate"):
        memorise(reciter(model), exploded, torch.arange(2))


# The law


def test_a_fit_finds_the_numbers_of_a_law() -> None:
    rank, length = (np.ravel(each) for each in np.meshgrid([1, 2, 4, 8], [16, 32, 64]))
    fall = power_law((rank, length), 20, 0.5, 0.7)
    assert fit_law("power law, b = 0", rank, length, fall) == pytest.approx([20, 0.5, 0.7], rel=1e-3)
    logs = 9 + 1.5 * np.log(rank) - 2 * np.log(length)
    assert fit_law("logarithm", rank, length, logs) == pytest.approx([9, 1.5, 2], rel=1e-3)


def test_a_law_needs_cells() -> None:
    for name in LAWS:
        with pytest.raises(ValueError, match="and there are 2"):
            fit_law(name, [1, 2], [16, 16], [1.0, 2.0])


# What is recorded


def test_a_row_says_what_was_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "load_model", lambda: (tiny_model(), lambda text: {"input_ids": [3, 1, 4]}))
    monkeypatch.setattr(lab, "BLOCK", 1)
    lab._course_model.cache_clear()
    rows = list(run(Learning("OT", 8, steps=20, threshold=HALF), seed=1))
    lab._course_model.cache_clear()
    assert json.loads(json.dumps(rows)) == rows
    assert [row["rank"] for row in rows] == list(RANKS)
    for row in rows:
        assert row["sure_and_wrong"] == 0
        assert row["loss"] == pytest.approx(np.mean(row["losses"]), abs=1e-3)
        assert row["curve"][0] == pytest.approx(row["before"], abs=1e-3)
        assert len(row["curve"]) == len(row["right_curve"]) == 21
        assert row["right_curve"][-1] == row["right"] >= row["unsure_and_right"]


def test_every_way_to_learn_is_recorded_once_a_seed() -> None:
    found = [(task.configuration["name"], task.configuration["length"], task.configuration["seed"]) for task in tasks()]
    assert len(found) == len(set(found)) == len(learnings())
    pairs = {(length, seed) for name, length, seed in found if name == "OT"}
    assert pairs == {(length, seed) for length in (32, 64) for seed in lab.SEEDS}
    assert pairs <= {(length, seed) for name, length, seed in found if name == "SFT"}
