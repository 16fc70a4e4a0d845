from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import moments_of
from torch import Tensor

from hyperfit_course import geometry
from hyperfit_course.geometry import (
    compare_layers,
    effective_rank,
    logit_lens,
    measure,
    measure_layers,
    participation_ratio,
    spectrum,
    standardised,
)
from hyperfit_course.stream import GeometryError


@pytest.fixture
def texts() -> Tensor:
    return torch.randint(0, 64, (4, 12), generator=torch.Generator().manual_seed(5))


# Known spectra


def rotated(eigenvalues: list[float], seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues and no zeros in sight."""
    generator = torch.Generator().manual_seed(seed)
    n = len(eigenvalues)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T


@pytest.mark.parametrize(
    ("eigenvalues", "ratio", "rank"),
    [
        ([1.0, 1.0, 1.0, 1.0], 4.0, 4.0),
        ([5.0, 0.0, 0.0], 1.0, 1.0),
        ([3.0, 1.0], 1.6, math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))),
        ([2.0, 2.0, 0.0, 0.0, 0.0], 2.0, 2.0),
    ],
)
def test_known_spectra(eigenvalues: list[float], ratio: float, rank: float) -> None:
    matrix = rotated(eigenvalues)
    assert participation_ratio(matrix).item() == pytest.approx(ratio, rel=1e-12)
    assert effective_rank(matrix).item() == pytest.approx(rank, rel=1e-6)
    shares = sorted((value / sum(eigenvalues) for value in eigenvalues), reverse=True)
    assert spectrum(matrix).tolist() == pytest.approx(shares, abs=1e-12)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=8), st.floats(0.01, 100), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_measures_of_any_spectrum(eigenvalues: list[float], scale: float, seed: int) -> None:
    matrix = rotated(eigenvalues, seed)
    ratio, rank = participation_ratio(matrix).item(), effective_rank(matrix).item()
    assert 1 - 1e-9 <= ratio <= rank * (1 + 1e-9) <= len(eigenvalues) * (1 + 1e-8)
    assert participation_ratio(scale * matrix).item() == pytest.approx(ratio, rel=1e-9)
    assert ratio == pytest.approx(sum(eigenvalues) ** 2 / sum(value**2 for value in eigenvalues), rel=1e-9)


def test_standardising_takes_the_power_from_a_massive_dimension() -> None:
    matrix = torch.diag(torch.tensor([1e6, 1.0, 1.0, 1.0, 0.0]))
    assert participation_ratio(matrix).item() == pytest.approx(1.0, abs=1e-4)
    assert participation_ratio(standardised(matrix)).item() == pytest.approx(4.0)


def test_batches_are_measured_one_by_one() -> None:
    matrices = torch.stack([rotated([3.0, 1.0, 1.0]), rotated([1.0, 1.0, 1.0])])
    for function in (participation_ratio, effective_rank):
        assert function(matrices).tolist() == pytest.approx([function(matrix).item() for matrix in matrices])
    assert torch.equal(standardised(matrices)[1], standardised(matrices[1]))


# Clouds of points


def test_shift_changes_only_the_uncentred_measure() -> None:
    points = torch.randn(200, 6, generator=torch.Generator().manual_seed(4))
    here, there = (measure(moments_of(cloud, 4)).set_index("measure")["value"] for cloud in (points, points + 50))
    assert there["participation ratio"] == pytest.approx(here["participation ratio"], rel=1e-3)
    assert there["effective rank"] == pytest.approx(here["effective rank"], rel=1e-3)
    assert there["uncentred"] == pytest.approx(1, abs=0.01)


def test_dimension_of_a_plane_in_ten_dimensions() -> None:
    generator = torch.Generator().manual_seed(6)
    points = torch.randn(1000, 2, generator=generator) @ torch.randn(2, 10, generator=generator)
    values = measure(moments_of(points, 8)).set_index("measure")
    assert values.loc["TwoNN", "value"] == pytest.approx(2, abs=0.2)
    assert values.loc["participation ratio", "value"] <= 2.001
    assert (values["low"] < values["value"]).all()
    assert (values["value"] < values["high"]).all()


def test_interval_covers_the_expected_value_in_most_of_many_samples() -> None:
    # Texts are clouds with centres of their own, as texts of a language model are.
    generator = torch.Generator().manual_seed(8)

    def cloud(texts: int) -> Tensor:
        centres = torch.randn(texts, 1, 12, generator=generator) * torch.linspace(2, 0.2, 12)
        return (centres + torch.randn(texts, 20, 12, generator=generator)).flatten(0, 1)

    rows = pd.concat([measure(moments_of(cloud(24), 24), ["participation ratio"]) for _ in range(100)])
    covered = (rows["low"] <= rows["value"].mean()) & (rows["value"].mean() <= rows["high"])
    assert 0.85 < covered.mean() < 1, f"{covered.sum()} of 100 intervals hold the expected value"


# Models


def test_layers_read_a_few_at_a_time_give_the_same(texts: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FAMILIES["llama"]()
    expected = measure_layers(model, texts)
    both = compare_layers(model, FAMILIES["qwen2"](), texts)
    monkeypatch.setattr(geometry, "MOMENT_MEMORY", 2 * 4 * 32**2 * 4)  # two layers of four texts
    pd.testing.assert_frame_equal(measure_layers(model, texts), expected)
    pd.testing.assert_frame_equal(compare_layers(model, FAMILIES["qwen2"](), texts), both)


def test_compare_layers_gives_one_frame(texts: Tensor) -> None:
    base, tuned = FAMILIES["llama"](), FAMILIES["llama"]()
    with torch.no_grad():
        tuned.model.layers[2].mlp.down_proj.weight.mul_(5)
    frame = compare_layers(base, tuned, texts)
    assert frame.groupby("model")["measure"].nunique().to_dict() == {"base": 5, "both": 2, "tuned": 5}
    assert frame["layer"].unique().tolist() == ["block 0", "block 1", "block 2", "block 3", "final norm"]
    both = frame[frame["model"] == "both"].pivot(index="depth", columns="measure", values="value")
    assert both["cosine"].tolist()[:2] == pytest.approx([1, 1])
    assert both["L2"].tolist()[:2] == pytest.approx([0, 0], abs=1e-5)
    assert (both.loc[2:, "cosine"] < 0.999).all()
    assert (both.loc[2:, "L2"] > 0.01).all()
    measured = frame.pivot(index=["depth", "measure"], columns="model", values="value")
    early = measured.loc[[0, 1]].drop(columns="both")
    assert np.allclose(early["base"].dropna(), early["tuned"].dropna())


def test_distances_of_known_states(texts: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    states = {
        "base": [[torch.tensor([[9.0, 9.0], [3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])] * 5] * 2,
        "tuned": [[torch.tensor([[1.0, -9.0], [3.0, 4.0], [0.0, 4.0], [-1.0, 1.0]])] * 5] * 2,
    }
    base, tuned = FAMILIES["llama"](), FAMILIES["llama"]()
    monkeypatch.setattr(geometry, "stream_states", lambda model, _: states["base" if model is base else "tuned"])
    frame = compare_layers(base, tuned, texts[:2, :4], ["participation ratio"])
    values = frame.groupby(["measure", "layer"])["value"].first().unstack()
    assert values.loc["cosine"].tolist() == pytest.approx([(0.6 + 1 + 0) / 3] * 5)
    assert values.loc["L2"].tolist() == pytest.approx([(4 + 2 + 2) / 3] * 5)


def test_logit_lens_ends_at_the_models_own_token(texts: Tensor) -> None:
    model = FAMILIES["gemma"]()
    frame = logit_lens(model, texts)
    assert frame["value"].tolist()[-2:] == [1, 1]  # after the last block only the norm and the head are left
    assert frame["value"].between(0, 1).all()
    with torch.no_grad():
        for block in model.model.layers:
            block.mlp.down_proj.weight.zero_()
            block.self_attn.o_proj.weight.zero_()
    assert (logit_lens(model, texts)["value"] == 1).all(), "blocks that add nothing leave the first token as it is"


def test_logit_lens_counts_every_fourth_position_after_the_first(texts: Tensor) -> None:
    model = FAMILIES["llama"]()
    with torch.no_grad():
        reported = model(input_ids=texts, output_hidden_states=True)
        token = model.lm_head(model.model.norm(reported.hidden_states[2])).argmax(dim=-1)
    same = (token == reported.logits.argmax(dim=-1)).double()
    assert 0 < same.mean() < 1
    value = logit_lens(model, texts).set_index("layer")["value"]["block 1"]
    assert value == pytest.approx(same[:, [1, 5, 9]].mean().item())


def test_models_of_other_shape_are_refused(texts: Tensor) -> None:
    with pytest.raises(GeometryError, match="differ in depth or width"):
        compare_layers(FAMILIES["llama"](), FAMILIES["llama"](blocks=3), texts)
