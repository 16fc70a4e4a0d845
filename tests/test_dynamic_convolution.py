"""The lab on dynamic convolutions: its tasks are what the page says, and its ledger counts what runs."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hyperfit_course.labs.dynamic_convolution import (
    ARMS,
    ASIDE,
    FILLER,
    KINDS,
    LONG,
    MARKS,
    WIDTH,
    A,
    Arm,
    B,
    Recall,
    accuracy,
    conv_cost,
    run,
    tasks,
)
from hyperfit_course.labs.tiny import low_rank_filters


def sequences(kind: str, count: int = 200) -> tuple[Recall, torch.Tensor, torch.Tensor]:
    recall = Recall(kind)
    return recall, *recall.sequences(count, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_is_asked_for_once_and_nothing_else(kind: str) -> None:
    recall, tokens, targets = sequences(kind)
    assert tokens.shape == targets.shape == (200, recall.length)
    assert int(tokens.max()) < recall.vocabulary
    asked = tokens[:, -8:]
    assert (targets[:, :-8] == -100).all()
    assert ((asked >= MARKS) & (asked < MARKS + 64)).all()
    assert all(len(set(row.tolist())) == 8 for row in asked)


def test_plain_pairs_have_the_answers() -> None:
    _, tokens, targets = sequences("plain")
    for row, wanted in zip(tokens, targets, strict=True):
        pairs = dict(row[:16].view(8, 2).tolist())
        assert [pairs[key] for key in row[16:].tolist()] == wanted[16:].tolist()


def test_the_key_tells_where_its_value_stands() -> None:
    _, tokens, targets = sequences("gapped")
    for row, wanted in zip(tokens, targets, strict=True):
        units = {unit[0]: unit for unit in row[:32].view(8, 4).tolist()}
        for key, value in zip(row[32:].tolist(), wanted[32:].tolist(), strict=True):
            gap = (key - MARKS) % 3
            assert units[key] == [key, *[FILLER] * gap, value, *[FILLER] * (2 - gap)]


def test_every_decoy_is_the_key_of_exactly_one_other_unit() -> None:
    _, tokens, targets = sequences("selecting")
    for row, wanted in zip(tokens, targets, strict=True):
        units = row[:32].view(8, 4).tolist()
        assert {unit[3] for unit in units} <= {A, B}
        keys = [unit[unit[3]] for unit in units]
        decoys = [unit[1 - unit[3]] for unit in units]
        assert sorted(decoys) == sorted(keys) == sorted(row[32:].tolist())
        assert all(key != decoy for key, decoy in zip(keys, decoys, strict=True))
        values = dict(zip(keys, (unit[2] for unit in units), strict=True))
        assert [values[key] for key in row[32:].tolist()] == wanted[32:].tolist()


def test_decoys_follow_no_order_that_would_give_them_away() -> None:
    _, tokens, _ = sequences("selecting", 2000)
    units = tokens[:, :32].view(-1, 8, 4)
    mark = units[..., 3:]
    keys, decoys = units.gather(2, mark)[..., 0], units.gather(2, 1 - mark)[..., 0]
    place = (decoys[..., None] == keys[:, None]).int().argmax(-1)
    away = torch.bincount(((place - torch.arange(8)) % 8).flatten(), minlength=8).double()
    assert away[0] == 0
    assert torch.allclose(away[1:] / away.sum(), torch.full((7,), 1 / 7).double(), atol=0.02)


def test_who_takes_one_of_the_two_units_of_a_key_is_right_half_of_the_time() -> None:
    _, tokens, targets = sequences("selecting", 2000)
    units, asked = tokens[:, :32].view(-1, 8, 4), tokens[:, 32:]
    matches = (units[:, None, :, :2] == asked[:, :, None, None]).any(-1)
    assert (matches.sum(-1) == 2).all()
    drawn = (matches * torch.rand(matches.shape, generator=torch.Generator().manual_seed(1))).argmax(-1)
    guessed = units[..., 2].gather(1, drawn)
    assert (guessed == targets[:, 32:]).double().mean().item() == pytest.approx(0.5, abs=0.02)


def test_a_sum_of_scores_is_right_in_half_of_the_cases_whatever_they_are() -> None:
    """The ceiling of the page: a fixed filter adds what a candidate and a mark are worth."""
    _, tokens, targets = sequences("selecting", 2000)
    units, asked = tokens[:, :32].view(-1, 8, 4), tokens[:, 32:]
    for first, second, mark in ((1.0, 0.3, 0.5), (0.2, 1.0, -0.4), (1.0, 0.9, 0.7)):
        found = (units[:, None, :, :2] == asked[:, :, None, None]) * torch.tensor([first, second])
        score = found.sum(-1) * 10 + mark * (units[:, None, :, 3] == A)
        guessed = units[..., 2].gather(1, score.argmax(-1))
        assert (guessed == targets[:, 32:]).double().mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "hard"}, "no recall 'hard'"),
        ({"kind": "plain", "units": 9, "keys": 8}, "there are 8 keys"),
        ({"kind": "plain", "units": 1}, "1 units"),
        ({"kind": "plain", "values": 1}, "2 values"),
    ],
)
def test_a_task_that_cannot_be_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recall(**settings)  # type: ignore[arg-type]


def test_accuracy_counts_the_questions_only() -> None:
    recall, tokens, targets = sequences("plain", 5)
    model = Arm("none").model(recall, 0)
    model.head.data.zero_()
    model.head.data[70] = 1e-3  # all logits are equal but this one's sign
    guessed = model(tokens).argmax(-1)
    asked = targets >= 0
    assert accuracy(model, tokens, targets) == (guessed == targets)[asked].double().mean().item()


# Arms


def test_a_wide_mlp_has_the_parameters_of_dynamic_filters() -> None:
    count = {
        arm.name: sum(each.numel() for each in arm.model(Recall("selecting"), 0).parameters())
        for arm in (*ARMS["selecting"], Arm("none"))
    }
    assert count["static, wide MLP"] == count["dynamic, rank 15"]
    assert count["dynamic, rank 15"] - count["none"] == 3 * conv_cost(WIDTH, 15, 4)
    assert count["dynamic, rank 3"] < count["static, wide MLP"]


def test_costs_are_what_the_flop_counter_counts() -> None:
    z, down, up = torch.randn(2, 5, WIDTH), torch.randn(15, WIDTH), torch.randn(4 * WIDTH, 15)
    static = torch.zeros(4, WIDTH)
    with FlopCounterMode(display=False) as counter:
        low_rank_filters(z, down, up, static)
    # The static part and the taps are sums and products of single numbers, which the counter leaves out.
    assert counter.get_total_flops() == 2 * 10 * (conv_cost(WIDTH, 15, 4) - 4 * WIDTH)
    assert conv_cost(WIDTH, 15, 4) == down.numel() + up.numel() + static.numel()
    assert conv_cost(64, 15, 4) / 64**2 == 79 / 64
    assert round(conv_cost(2048, 15, 4) / 2048**2, 2) == 0.04


def test_arms_of_one_seed_start_alike_and_see_the_same_sequences() -> None:
    recall = Recall("selecting")
    none, dynamic = (arm.model(recall, 3).state_dict() for arm in (Arm("none"), Arm("d", taps=4, rank=15)))
    assert all(torch.equal(none[name], dynamic[name]) for name in none)
    first, second = (next(Recall("selecting").batches(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_what_is_compared_is_recorded_with_five_seeds() -> None:
    seeds: dict[tuple[str, str], list[int]] = {}
    for task in tasks():
        arm = task.configuration["recall"]["kind"], task.configuration["arm"]["name"]
        seeds.setdefault(arm, []).append(task.configuration["seed"])
    compared = {(kind, arm.name) for group in (ARMS, LONG) for kind, arms in group.items() for arm in arms}
    aside = {(kind, arm.name) for kind, arms in ASIDE.items() for arm in arms}
    assert seeds == {arm: [0, 1, 2, 3, 4] for arm in compared} | {arm: [0] for arm in aside}


def test_a_row_says_what_was_reached_and_on_the_way() -> None:
    (row,) = run(Arm("static", taps=4, steps=12), "plain", seed=0)
    assert json.loads(json.dumps(row)) == row
    assert len(row["curve"]) == 12
    assert row["curve"][-1] == row["accuracy"]
