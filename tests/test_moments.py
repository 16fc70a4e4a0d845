from __future__ import annotations

import math

import pytest
import torch
from conftest import FAMILIES, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import random
from torch import Tensor

from hyperfit_course.geometry import compare_layers, measure_layers, participation_ratio
from hyperfit_course.study.moments import (
    all_states,
    block_output,
    cosines,
    mean_share,
    ratio_over_texts,
    reading,
    second_moments,
    without_outliers,
)


@pytest.fixture
def texts() -> Tensor:
    return torch.randint(0, 64, (4, 12), generator=torch.Generator().manual_seed(5))


# States and their moments


def test_all_states_give_the_ratios_of_the_core(texts: Tensor) -> None:
    model = tiny_model()
    states = all_states(model, texts)
    assert states.shape[:3] == (len(set(measure_layers(model, texts)["layer"])), 4, 12)
    rows = measure_layers(model, texts, ["participation ratio", "uncentred"])
    for name, centred in (("participation ratio", True), ("uncentred", False)):
        expected = rows[rows["measure"] == name]["value"].tolist()
        found = participation_ratio(second_moments(states[:, :, 1:], centred))
        assert found.tolist() == pytest.approx(expected, rel=1e-4)


def test_chosen_layers_are_those_of_all(texts: Tensor) -> None:
    model = tiny_model()
    assert torch.equal(all_states(model, texts, [-1, 0]), all_states(model, texts)[[-1, 0]])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_gives_again_what_it_gave_within_the_model(family: str) -> None:
    model = FAMILIES[family]()
    texts = torch.randint(0, 64, (6, 12), generator=torch.Generator().manual_seed(5))
    states = all_states(model, texts)
    assert torch.allclose(block_output(model, 2, states[1]), states[2], atol=1e-5)


def test_a_block_reads_the_states_that_it_is_given() -> None:
    model, other = tiny_model(seed=0), tiny_model(seed=1)
    texts = torch.randint(0, 64, (2, 12))
    mine, theirs = all_states(model, texts), all_states(other, texts)
    exchanged = block_output(other, 1, mine[0])
    assert not torch.allclose(exchanged, mine[1], atol=1e-4)
    assert not torch.allclose(exchanged, theirs[1], atol=1e-4)
    assert torch.equal(all_states(model, texts), mine), "no hook stays behind"


def test_second_moments_are_those_of_torch() -> None:
    states = random(3, 5, 4) + 7
    points = states.reshape(15, 4)
    assert torch.allclose(second_moments(states), torch.cov(points.T, correction=0), atol=1e-5)
    assert torch.allclose(second_moments(states, centred=False), points.T @ points / 15, atol=1e-4)


def test_a_mean_as_long_as_the_spread_has_half_of_the_second_moment() -> None:
    states = torch.tensor([[[1.0, 1.0], [1.0, -1.0]]])
    assert mean_share(states).item() == pytest.approx(0.5)
    assert mean_share(states - states.mean(dim=(0, 1))).item() == pytest.approx(0)


@given(st.integers(0, 1000), st.floats(0, 20))
@settings(max_examples=40, deadline=None)
def test_the_mean_bounds_the_ratio_around_zero(seed: int, shift: float) -> None:
    states = random(3, 6, 5, seed=seed) + shift * random(5, seed=seed + 1)
    bound = 1 / mean_share(states) ** 2
    assert participation_ratio(second_moments(states, centred=False)) <= bound * (1 + 1e-5)


def test_only_massive_numbers_of_the_first_position_are_taken_off() -> None:
    states = random(4, 9, 6)
    states[0, 5, 3] = 15.0  # as large, but at another position
    states[:, 0, 1], states[:, 0, 2] = -500.0, 4.0
    usual = states[:, 1:].square().mean().sqrt()
    found = without_outliers(states)
    assert 4.0 < 10 * usual < 500
    assert torch.allclose(found[:, 0, 1], states[:, 1:, 1].mean().expand(4))
    rest = torch.ones_like(states, dtype=torch.bool)
    rest[:, 0, 1] = False
    assert torch.equal(found[rest], states[rest])
    layers = torch.stack([states, 1000 * states])
    assert torch.allclose(without_outliers(layers)[1], 1000 * found, rtol=1e-5), "each layer has its own measure"


# Cosines


def test_a_common_mean_is_no_likeness_once_it_is_taken_off() -> None:
    before, after = random(2, 4, 50, 8, seed=1), random(2, 4, 50, 8, seed=2)
    shift = torch.full((8,), 30.0)
    raw, centred = (cosines(before + shift, after + shift, flag) for flag in (False, True))
    assert raw.shape == centred.shape == (2, 4)
    assert (raw > 0.99).all()
    assert (centred.abs() < 0.2).all()
    assert torch.allclose(cosines(before + shift, before - shift), torch.ones(2, 4), atol=1e-4)


def test_raw_cosines_are_those_of_the_core(texts: Tensor) -> None:
    base, tuned = tiny_model(), tiny_model()
    with torch.no_grad():
        for weight in tuned.parameters():
            weight.mul_(1.1).add_(0.01)
    rows = compare_layers(base, tuned, texts, ["participation ratio"])
    expected = rows[rows["measure"] == "cosine"]["value"].tolist()
    ours = [all_states(model, texts)[:, :, 1:] for model in (base, tuned)]
    assert cosines(*ours, centred=False).mean(dim=1).tolist() == pytest.approx(expected, abs=1e-5)


# More texts


def test_the_straight_line_finds_the_ratio_that_few_texts_hide() -> None:
    true = torch.cat([torch.full((20,), 3.0), torch.full((80,), 1.0)]).sqrt()
    texts = random(60, 1, 100) * true  # each text is one independent draw
    rows = ratio_over_texts(texts, [10, 20, 30, 60]).set_index("texts")["ratio"]
    assert rows.is_monotonic_increasing
    expected = participation_ratio(torch.diag(true**2)).item()
    assert rows[60] < 0.5 * expected
    assert rows[math.inf] == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("numbers", [[], [10], [10, 10], [1, 10], [10, 61]])
def test_numbers_of_texts_that_give_no_line_are_refused(numbers: list[int]) -> None:
    with pytest.raises(ValueError, match="from 2 to 60"):
        ratio_over_texts(random(60, 2, 4), numbers)


# What the head reads


def test_the_weakest_direction_moves_no_logit_against_another() -> None:
    head, norm = random(50, 6), random(6, seed=1).abs() + 0.5
    head[:, 2] = 3.0  # the same for every token: no probability depends on it
    found = reading(head, norm)
    assert found.strengths[0].item() == pytest.approx(0, abs=1e-3)
    assert found.directions[2, 0].abs().item() == pytest.approx(1, abs=1e-4)
    state = random(6, seed=2)
    logits = [(state + step * found.directions[:, 0]) * norm @ head.T for step in (0.0, 5.0)]
    moved = logits[1] - logits[0]
    assert torch.allclose(moved, moved.mean().expand(50), atol=1e-3)


def test_strengths_are_singular_values_and_see_the_weight_of_the_norm() -> None:
    head, norm = random(50, 6), torch.tensor([1.0, 1, 1, 1, 1, 1e-4])
    found = reading(head, norm)
    expected = torch.linalg.svdvals((head - head.mean(dim=0)) * norm).flip(0)
    assert torch.allclose(found.strengths, expected, atol=1e-3)
    assert found.directions[5, 0].abs().item() == pytest.approx(1, abs=1e-4), "the norm shuts this dimension out"


def test_shares_of_the_weakest_directions_add_up() -> None:
    found = reading(random(50, 6), torch.ones(6))
    states = random(2, 30, 6, seed=3)
    shares = found.share_of_weakest(states)
    assert shares[-1].item() == pytest.approx(1, abs=1e-5)
    for k in (1, 4):
        part = found.weakest(states, k)
        assert part.shape == states.shape
        assert (part.square().sum() / states.square().sum()).item() == pytest.approx(shares[k - 1].item(), abs=1e-5)
    alone = found.directions[:, 3]
    assert found.share_of_weakest(alone).tolist() == pytest.approx([0, 0, 0, 1, 1, 1], abs=1e-5)
