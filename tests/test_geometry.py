from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FAMILIES, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyperfit_course import geometry
from hyperfit_course.geometry import (
    GeometryError,
    Moments,
    compare_layers,
    effective_rank,
    layer_states,
    logit_lens,
    measure,
    measure_layers,
    participation_ratio,
    place_names,
    spectrum,
    standardised,
    stream_states,
)
from hyperfit_course.late_stage import late_stage_lora


@pytest.fixture
def texts() -> Tensor:
    return torch.randint(0, 64, (4, 12), generator=torch.Generator().manual_seed(5))


def rotated(eigenvalues: list[float], seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues and no zeros in sight."""
    generator = torch.Generator().manual_seed(seed)
    n = len(eigenvalues)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T


def moments_of(points: Tensor, groups: int = 1) -> Moments:
    """Moments of a cloud of points in groups of equal size, shape (groups * n, d)."""
    collector = geometry._Collector(groups)
    for group, part in enumerate(points.chunk(groups)):
        collector.add(group, part, torch.arange(len(part)))
    return collector.finished()


# Known spectra


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


# Moments


def test_moments_are_those_of_all_points_together() -> None:
    points = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) * 3 + torch.arange(5.0)
    moments = moments_of(points, groups=4)
    torch.testing.assert_close(moments.covariance(), torch.cov(points.T, correction=0))
    whole = torch.ones(1, 4)
    torch.testing.assert_close(moments.uncentred(whole, moments.covariance(whole))[0], points.T @ points / len(points))


def test_several_texts_of_a_group_are_joined() -> None:
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(1)) + 7
    collector = geometry._Collector(1)
    for part in points.split([3, 20, 7]):
        collector.add(0, part, torch.arange(len(part)))
    torch.testing.assert_close(collector.finished().covariance(), torch.cov(points.T, correction=0))


def test_weights_repeat_groups_of_texts() -> None:
    points = torch.randn(40, 3, generator=torch.Generator().manual_seed(2))
    parts = points.chunk(4)
    expected = torch.cat([parts[0], parts[0], parts[3]])
    weights = torch.tensor([[2.0, 0, 0, 1], [1, 1, 1, 1]])
    moments = moments_of(points, groups=4)
    torch.testing.assert_close(moments.covariance(weights)[0], torch.cov(expected.T, correction=0))
    torch.testing.assert_close(moments.covariance(weights)[1], moments.covariance())
    uncentred = moments.uncentred(weights, moments.covariance(weights))
    torch.testing.assert_close(uncentred[0], expected.T @ expected / len(expected))


def test_large_mean_does_not_swallow_a_small_variance() -> None:
    points = torch.randn(500, 3, generator=torch.Generator().manual_seed(3)) + 3000.0
    covariance = moments_of(points, groups=5).covariance()
    torch.testing.assert_close(covariance, torch.cov(points.double().T, correction=0).float(), rtol=1e-3, atol=1e-3)


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


def test_equal_points_do_not_break_the_nearest_neighbours() -> None:
    points = torch.randn(100, 3, generator=torch.Generator().manual_seed(7))
    assert np.isfinite(moments_of(torch.cat([points, points[:10]]), 2).two_nn(torch.ones(2)))


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


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_the_ones_that_the_model_reports(family: str, texts: Tensor) -> None:
    model = FAMILIES[family]()
    for text, states in zip(texts, stream_states(model, texts), strict=True):
        with torch.no_grad():
            reported = model(input_ids=text[None], output_hidden_states=True).hidden_states
        assert len(states) == len(place_names(model)) == 5
        for ours, theirs in zip(states[:3], reported[1:4], strict=True):
            torch.testing.assert_close(ours, theirs[0])
        torch.testing.assert_close(states[-1], reported[-1][0])  # the last one is after the final norm
        assert not torch.allclose(states[-2], states[-1])


def test_states_of_an_adapted_model_are_those_of_its_merged_weights(texts: Tensor) -> None:
    adapted = late_stage_lora(FAMILIES["llama"](), 1, rank=2)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    before = list(stream_states(adapted, texts))
    after = list(stream_states(adapted.merge_and_unload(), texts))
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-4)


def test_layer_states_streams_the_moments_of_all_states(texts: Tensor) -> None:
    model = FAMILIES["llama"]()
    whole = torch.stack([torch.stack(states) for states in stream_states(model, texts)])
    for place, moments in enumerate(layer_states(model, texts).values()):
        points = whole[:, place, 1:].flatten(0, 1)
        torch.testing.assert_close(moments.covariance(), torch.cov(points.T, correction=0))
    for place, moments in enumerate(layer_states(model, texts, skip=0).values()):
        points = whole[:, place].flatten(0, 1)
        torch.testing.assert_close(moments.covariance(), torch.cov(points.T, correction=0))


def test_more_texts_than_groups_are_shared_out(texts: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FAMILIES["llama"]()
    expected = layer_states(model, texts)["block 3"].covariance()
    monkeypatch.setattr(geometry, "GROUPS", 3)
    moments = layer_states(model, texts)["block 3"]
    assert moments.counts.tolist() == [22, 11, 11]
    torch.testing.assert_close(moments.covariance(), expected)


def test_places_read_a_few_at_a_time_give_the_same(texts: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FAMILIES["llama"]()
    expected = measure_layers(model, texts)
    both = compare_layers(model, FAMILIES["qwen2"](), texts)
    monkeypatch.setattr(geometry, "MOMENT_MEMORY", 2 * 4 * 32**2 * 4)  # two places of four texts
    pd.testing.assert_frame_equal(measure_layers(model, texts), expected)
    pd.testing.assert_frame_equal(compare_layers(model, FAMILIES["qwen2"](), texts), both)


def test_texts_read_together_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    model, texts = FAMILIES["gpt2"](), torch.randint(0, 64, (5, 12), generator=torch.Generator().manual_seed(9))
    together = list(stream_states(model, texts))
    monkeypatch.setattr(geometry, "TEXTS_AT_ONCE", 1)
    torch.testing.assert_close(together, list(stream_states(model, texts)))


def test_compare_layers_gives_one_frame(texts: Tensor) -> None:
    base, tuned = FAMILIES["llama"](), FAMILIES["llama"]()
    with torch.no_grad():
        tuned.model.layers[2].mlp.down_proj.weight.mul_(5)
    frame = compare_layers(base, tuned, texts)
    assert frame.groupby("model")["measure"].nunique().to_dict() == {"base": 5, "both": 2, "tuned": 5}
    assert frame["place"].unique().tolist() == ["block 0", "block 1", "block 2", "block 3", "final norm"]
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
    values = frame.groupby(["measure", "place"])["value"].first().unstack()
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
    value = logit_lens(model, texts).set_index("place")["value"]["block 1"]
    assert value == pytest.approx(same[:, [1, 5, 9]].mean().item())


def test_one_text_is_refused(texts: Tensor) -> None:
    with pytest.raises(GeometryError, match="two texts at least"):
        layer_states(FAMILIES["llama"](), texts[:1])
    with pytest.raises(GeometryError, match="Texts of 1 tokens have none left without the first 1"):
        layer_states(FAMILIES["llama"](), texts[:, :1])


def test_models_of_other_shape_are_refused(texts: Tensor) -> None:
    with pytest.raises(GeometryError, match="differ in depth or width"):
        compare_layers(FAMILIES["llama"](), FAMILIES["llama"](blocks=3), texts)


def test_too_few_positions_are_warned_about() -> None:
    few = torch.randint(0, 64, (2, 8))
    with pytest.warns(UserWarning, match="14 positions are too few for 32 dimensions.*above 13"):
        moments = layer_states(tiny_model(), few)
    assert participation_ratio(moments["final norm"].covariance()) <= 13
