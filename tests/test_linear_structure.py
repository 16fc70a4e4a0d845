"""The lab on local linear structure: shares of a way from inner products alone, and a run whose updates are kept."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from conftest import tiny_model
from torch import Tensor

from hyperfit_course.checkpoints import trained_weights
from hyperfit_course.labs import linear_structure as lab
from hyperfit_course.labs.linear_structure import (
    Learning,
    Recovering,
    captured,
    captures,
    chosen_updates,
    gram_of,
    noise_gram,
    packed,
    principal_captured,
    projected,
    shared,
    tasks,
    unpacked,
    walk,
)
from hyperfit_course.late_stage import late_stage_lora
from hyperfit_course.training import HyperfitConfig, hyperfit

RUN = HyperfitConfig(epochs=3, learning_rate=1e-2, batch_size=2, warmup_steps=0, evaluate_every=0, evaluation_prompts=1)


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


def texts(count: int = 4) -> Tensor:
    return torch.randint(256, (count, 32), generator=torch.Generator().manual_seed(0))


def adapted() -> Learning:
    return Learning(late_stage_lora(tiny_model(), 1, rank=4), texts())


def drawn(number: int = 12, size: int = 40, seed: int = 0) -> Tensor:
    """Updates with a common direction, each with another length."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(number, size, generator=generator) + torch.randn(size, generator=generator)
    return vectors * torch.linspace(0.2, 3, number)[:, None]


# Shares of a way


def test_all_updates_capture_the_whole_way_and_none_is_left_for_a_zero_one() -> None:
    updates = drawn()
    assert captured(gram_of(updates), range(12), range(12)) == pytest.approx(1)
    there_and_back = gram_of(torch.cat([updates[:1], -updates[:1]]))
    with pytest.raises(ValueError, match="a run without updates has no way"):
        captured(there_and_back, [0], range(2))


def test_orthogonal_equal_steps_capture_their_number_over_all() -> None:
    gram = gram_of(torch.linalg.qr(torch.randn(40, 12, generator=torch.Generator().manual_seed(1)))[0].T)
    for kind in ("prefix", "suffix", "spread", "random"):
        for k in (1, 5, 11):
            assert captured(gram, chosen_updates(kind, k, 12), range(12)) == pytest.approx(k / 12, abs=1e-6)
    assert captured(gram, range(5), range(5, 12)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("chosen", [[0, 1, 2], [3, 9], [11]])
def test_inner_products_give_what_the_vectors_give(chosen: list[int]) -> None:
    updates = drawn().double()
    way, basis = updates.sum(0), torch.linalg.qr(updates[chosen].T)[0]
    wanted = (basis.T @ way).square().sum() / way.square().sum()
    assert captured(gram_of(updates), chosen, range(12)) == pytest.approx(wanted.item(), abs=1e-6)
    part = projected(way, updates[chosen])
    assert torch.allclose(part, basis @ basis.T @ way)


def test_order_lengths_and_repetitions_of_a_basis_do_not_matter() -> None:
    updates = drawn()
    plain = captured(gram_of(updates), [0, 3, 5], range(12))
    again = gram_of(torch.cat([updates, -7 * updates[[5, 3]], updates[:1] + updates[3:4]]))
    assert captured(again, [12, 0, 13, 14, 0], range(12)) == pytest.approx(plain, abs=1e-6)


def test_one_update_captures_the_squared_cosine() -> None:
    updates = drawn()
    cosine = torch.nn.functional.cosine_similarity(updates[0], updates.sum(0), dim=0)
    assert captured(gram_of(updates), [0], range(12)) == pytest.approx(cosine.square().item(), abs=1e-5)


def test_principal_directions_are_those_of_the_vectors() -> None:
    updates = drawn().double()
    basis, way = torch.linalg.svd(updates, full_matrices=False)[2][:3], updates.sum(0)
    wanted = (basis @ way).square().sum() / way.square().sum()
    assert principal_captured(gram_of(updates), 3, range(12)) == pytest.approx(wanted.item())
    assert principal_captured(gram_of(updates), 12, range(12)) == pytest.approx(1)


def test_half_precision_changes_no_printed_digit() -> None:
    updates = drawn(20, 4000)
    full, half = (captures(gram_of(each), 5, 20) for each in (updates, updates.half().float()))
    assert full == pytest.approx(half, abs=5e-4)


def test_chosen_updates_are_where_their_name_says() -> None:
    assert chosen_updates("prefix", 3, 8) == [0, 1, 2]
    assert chosen_updates("suffix", 3, 8) == [5, 6, 7]
    assert chosen_updates("spread", 4, 8) == [1, 3, 5, 7]
    random = [chosen_updates("random", 4, 8, draw) for draw in range(3)]
    assert all(len(set(each)) == 4 and max(each) < 8 for each in random)
    assert random[0] != random[1] != random[2]
    with pytest.raises(ValueError, match="between 1 and 8 updates, and not 9"):
        chosen_updates("prefix", 9, 8)
    with pytest.raises(ValueError, match="no kind 'middle'"):
        chosen_updates("middle", 2, 8)


def test_spans_share_all_nothing_or_a_part() -> None:
    basis = torch.linalg.qr(torch.randn(40, 6, generator=torch.Generator().manual_seed(2)))[0].T
    half = (basis[0] + basis[4])[None]  # 45 degrees between the two planes
    gram = gram_of(torch.cat([basis, half, 3 * basis[:1] - basis[1:2]]))
    assert shared(gram, [0, 1], [2, 3]) == pytest.approx(0, abs=1e-6)
    assert shared(gram, [0, 1], [7, 0]) == pytest.approx(1)
    assert shared(gram, [0, 1], [6, 3]) == pytest.approx(0.25, abs=1e-6)


def test_noise_through_adam_knows_only_its_neighbours() -> None:
    gram = noise_gram(40)
    cosines = gram / gram.diagonal().sqrt().outer(gram.diagonal().sqrt())
    assert cosines[20, 21].item() == pytest.approx(0.9, abs=0.05)  # the momentum of Adam
    assert abs(cosines[2, 39].item()) < 0.1
    assert gram[0, 0] < gram[3, 3]  # the warm-up
    assert 8 / 40 < captured(gram, range(8), range(40)) < 0.6  # Adam makes the first steps larger


def test_recorded_inner_products_come_back() -> None:
    gram = gram_of(drawn())
    values = json.loads(json.dumps(packed(gram)))
    assert len(values) == 12 * 13 / 2
    assert torch.allclose(unpacked(values), gram, rtol=1e-7)


# A run whose updates are kept


def test_it_is_hyperfitting_and_its_updates_add_up() -> None:
    plain, ours = late_stage_lora(tiny_model(), 1, rank=4), adapted()
    start = ours.weights
    hyperfit(plain, dict.fromkeys(("train", "validation", "prompts"), texts()), RUN)
    updates, losses = walk(ours, RUN)
    assert len(updates) == len(losses) == 6
    assert torch.allclose(updates.sum(0), ours.weights - start, atol=1e-5)
    assert losses[-1] < losses[0]
    for name, weight in trained_weights(plain).items():
        assert torch.allclose(trained_weights(ours.model)[name], weight, atol=1e-5)
        assert weight.any()


def test_the_warm_up_begins_with_a_step() -> None:
    updates, _ = walk(adapted(), replace(RUN, warmup_steps=4), steps=4)
    sizes = updates.abs().amax(1)
    assert sizes[0].item() == pytest.approx(1e-2 / 4, rel=1e-3)
    assert (sizes > 0).all()


def test_the_factor_a_has_no_gradient_at_the_start() -> None:
    learning = adapted()
    gradient = learning.gradient(torch.arange(4))
    names = [name for name, each in learning.model.named_parameters() if each.requires_grad]
    parts = gradient.split([each.numel() for each in learning.trained])
    for name, part in zip(names, parts, strict=True):
        assert bool(part.any()) == ("lora_B" in name)


def test_the_loss_elsewhere_leaves_the_weights() -> None:
    learning = adapted()
    start = learning.weights
    walk(learning, RUN)
    end = learning.weights
    assert learning.mean_loss(start) == pytest.approx(adapted().mean_loss(), abs=1e-5)
    assert torch.equal(learning.weights, end)
    assert learning.mean_loss() < learning.mean_loss(start)


def test_the_way_back_leads_towards_the_base_model() -> None:
    learning = adapted()
    walk(learning, RUN)
    back = Recovering(learning.model, texts())
    far = back.loss(torch.arange(4)).item()
    updates, losses = walk(back, replace(RUN, epochs=6))
    assert back.loss(torch.arange(4)).item() < 0.5 * far
    assert losses[0] > 0
    with torch.no_grad(), learning.model.disable_adapter():
        assert back.loss(torch.arange(4)).item() == pytest.approx(0, abs=1e-5)
    assert len(updates) == 12


def test_a_run_without_steps_and_one_that_explodes_are_refused() -> None:
    with pytest.raises(ValueError, match="A run without updates shows no way"):
        walk(adapted(), RUN, steps=0)
    with pytest.raises(ValueError, match="lower the learning rate"):
        walk(adapted(), replace(RUN, epochs=9, learning_rate=1e30))


class OfTheTest:
    """An arm with a tiny model."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def untrained(self) -> object:
        return late_stage_lora(tiny_model(), 1, rank=4)

    def splits(self) -> dict[str, Tensor]:
        return {"train": texts(16), "validation": texts(4), "prompts": texts(16)}


def test_rows_hold_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "Arm", OfTheTest)
    there, back = lab.run(0)
    assert json.loads(json.dumps([there, back])) == [there, back]
    gram = unpacked(there["gram"])
    assert gram.shape == (80, 80)
    assert (len(there["losses"]), len(back["losses"])) == (64, 16)
    assert [there["kinds"].count(kind) for kind in ("update", lab.START, lab.OTHER)] == [64, 8, 8]
    assert captured(gram, range(64), range(64)) == pytest.approx(1, abs=1e-3)
    assert there["loss_at"]["end"] < min(there["loss_at"][each] for each in ("start", "prefix"))
    assert set(back["loss_at"]) == {"base", "hyperfitted", "recovered"}
    assert unpacked(back["gram"]).shape == (16, 16)


def test_one_task_a_seed() -> None:
    assert [task.configuration["seed"] for task in tasks()] == list(lab.SEEDS)
