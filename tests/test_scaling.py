from __future__ import annotations

import pandas as pd
import pytest
import torch
from samples import random
from torch import Tensor

from hyperfit_course.reweighting import variance_explained
from hyperfit_course.study.scaling import EXPLANATIONS, left_over

TEXTS = torch.arange(8).repeat_interleave(16)
CONSTANTS = 5 * random(128, 1, seed=9)
"""One a position: it changes no distribution."""


def base_logits() -> Tensor:
    """With a mean that differs from token to token, as real logits have."""
    return random(128, 40) + 2 * random(40, seed=3)


def shares(change: Tensor, texts: Tensor = TEXTS) -> pd.Series:
    base = base_logits()
    left = left_over(base, base + change + CONSTANTS, texts).sum()
    return 1 - left.drop("change") / left["change"]


@pytest.mark.parametrize("temperature", [0.5, 0.8, 3.0])
def test_temperature_is_explained_by_a_scale_and_not_by_an_offset(temperature: float) -> None:
    found = shares(base_logits() * (1 / temperature - 1))
    assert found["scale"] == pytest.approx(1)
    assert found["scale and static"] == pytest.approx(1)
    assert found["scale a position"] == pytest.approx(1)
    assert 0.5 < found["static"] < 0.9, "the tokens' means are changed too, in every context alike"


def test_offset_is_explained_by_an_offset_and_not_by_a_scale() -> None:
    found = shares(random(40, seed=1))
    assert found["static"] == pytest.approx(1)
    assert found["scale and static"] == pytest.approx(1)
    assert found["scale"] < 0.2


def test_both_at_once_are_explained_only_together() -> None:
    found = shares(0.7 * base_logits() + 2 * random(40, seed=1))
    assert found["scale and static"] == pytest.approx(1)
    assert max(found["static"], found["scale"]) < 0.95


def test_another_temperature_at_each_position_is_explained_by_a_scale_a_position_only() -> None:
    found = shares(base_logits() * random(128, 1, seed=1))
    assert found["scale a position"] == pytest.approx(1)
    assert found["scale"] == pytest.approx(0, abs=0.1)


def test_noise_is_explained_by_nothing_and_hindsight_by_one_dimension_of_many() -> None:
    found = shares(random(128, 40, seed=1))
    assert found[["scale", "static", "scale and static"]].to_list() == pytest.approx([0, 0, 0], abs=0.05)
    assert found["scale a position"] == pytest.approx(1 / 39, abs=0.02)


def test_text_does_not_fit_its_own_explanation() -> None:
    base, change = base_logits(), torch.zeros(128, 40)
    change[TEXTS == 5] = base[TEXTS == 5] + random(40, seed=1)
    left = left_over(base, base + change, TEXTS).loc[5]
    assert left[["scale", "static", "scale and static"]].to_list() == pytest.approx([left["change"]] * 3)


def test_fits_are_least_squares_on_the_other_texts() -> None:
    base, tuned = base_logits(), base_logits() + random(128, 40, seed=1)
    centred = [(each - each.mean(-1, keepdim=True)).double() for each in (base, tuned - base)]
    mine, rest = TEXTS == 2, TEXTS != 2
    z, change = (part[rest] for part in centred)
    offsets = torch.eye(40, dtype=torch.double).repeat(len(z), 1)
    designs = {
        "scale": z.reshape(-1, 1),
        "static": offsets,
        "scale and static": torch.cat([z.reshape(-1, 1), offsets], 1),
    }
    left = left_over(base, tuned, TEXTS).loc[2]
    for name, design in designs.items():
        fit = torch.linalg.lstsq(design, change.reshape(-1, 1)).solution.flatten()
        scale = fit[0] if "scale" in name else 0
        offset = fit[-40:] if "static" in name else 0
        expected = (centred[1][mine] - scale * centred[0][mine] - offset).square().sum().item()
        assert left[name] == pytest.approx(expected), name


def test_static_share_is_that_of_variance_explained() -> None:
    base, tuned = base_logits(), base_logits() + random(128, 40, seed=1) + random(40, seed=2)
    left = left_over(base, tuned, TEXTS).sum()
    expected = variance_explained(base, tuned, TEXTS, ranks=())["static"]
    assert 1 - left["static"] / left["change"] == pytest.approx(expected)


def test_every_text_has_a_row_under_its_own_number() -> None:
    base, tuned = base_logits(), base_logits() + random(128, 40, seed=1)
    left = left_over(base, tuned, 10 * TEXTS + 3)
    assert left.index.to_list() == [3, 13, 23, 33, 43, 53, 63, 73]
    assert left.columns.to_list() == ["change", *EXPLANATIONS]
    change = tuned - base
    change = change - change.mean(-1, keepdim=True)
    assert left["change"].sum() == pytest.approx(change.square().sum().item())
    shuffled = torch.randperm(128, generator=torch.Generator().manual_seed(0))
    again = left_over(base[shuffled], tuned[shuffled], (10 * TEXTS + 3)[shuffled])
    pd.testing.assert_frame_equal(left, again)


@pytest.mark.parametrize("texts", [TEXTS[:5], torch.zeros(128)], ids=["too few", "one text"])
def test_texts_that_do_not_fit_are_refused(texts: Tensor) -> None:
    with pytest.raises(ValueError, match="at least two texts"):
        left_over(base_logits(), base_logits(), texts)
