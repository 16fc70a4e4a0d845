from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import FAMILIES, tiny_model
from samples import moments_of
from torch import Tensor

from hyperfit_course import stream
from hyperfit_course.geometry import participation_ratio
from hyperfit_course.late_stage import late_stage_lora
from hyperfit_course.stream import GeometryError, layer_names, layer_states, stream_states


@pytest.fixture
def texts() -> Tensor:
    return torch.randint(0, 64, (4, 12), generator=torch.Generator().manual_seed(5))


# States


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_the_ones_that_the_model_reports(family: str, texts: Tensor) -> None:
    model = FAMILIES[family]()
    for text, states in zip(texts, stream_states(model, texts), strict=True):
        with torch.no_grad():
            reported = model(input_ids=text[None], output_hidden_states=True).hidden_states
        assert len(states) == len(layer_names(model)) == 5
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


def test_texts_read_together_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    model, texts = FAMILIES["gpt2"](), torch.randint(0, 64, (5, 12), generator=torch.Generator().manual_seed(9))
    together = list(stream_states(model, texts))
    monkeypatch.setattr(stream, "TEXTS_AT_ONCE", 1)
    torch.testing.assert_close(together, list(stream_states(model, texts)))


# Moments


def test_moments_are_those_of_all_points_together() -> None:
    points = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) * 3 + torch.arange(5.0)
    moments = moments_of(points, groups=4)
    torch.testing.assert_close(moments.covariance(), torch.cov(points.T, correction=0))
    whole = torch.ones(1, 4)
    torch.testing.assert_close(moments.uncentred(whole, moments.covariance(whole))[0], points.T @ points / len(points))


def test_several_texts_of_a_group_are_joined() -> None:
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(1)) + 7
    collector = stream._LayerMoments(1)
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


def test_equal_points_do_not_break_the_nearest_neighbours() -> None:
    points = torch.randn(100, 3, generator=torch.Generator().manual_seed(7))
    assert np.isfinite(moments_of(torch.cat([points, points[:10]]), 2).two_nn(torch.ones(2)))


# Moments of a model


def test_layer_states_streams_the_moments_of_all_states(texts: Tensor) -> None:
    model = FAMILIES["llama"]()
    whole = torch.stack([torch.stack(states) for states in stream_states(model, texts)])
    for layer, moments in enumerate(layer_states(model, texts).values()):
        points = whole[:, layer, 1:].flatten(0, 1)
        torch.testing.assert_close(moments.covariance(), torch.cov(points.T, correction=0))
    for layer, moments in enumerate(layer_states(model, texts, skip=0).values()):
        points = whole[:, layer].flatten(0, 1)
        torch.testing.assert_close(moments.covariance(), torch.cov(points.T, correction=0))


def test_more_texts_than_groups_are_shared_out(texts: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FAMILIES["llama"]()
    expected = layer_states(model, texts)["block 3"].covariance()
    monkeypatch.setattr(stream, "GROUPS", 3)
    moments = layer_states(model, texts)["block 3"]
    assert moments.counts.tolist() == [22, 11, 11]
    torch.testing.assert_close(moments.covariance(), expected)


def test_one_text_is_refused(texts: Tensor) -> None:
    with pytest.raises(GeometryError, match="two texts at least"):
        layer_states(FAMILIES["llama"](), texts[:1])
    with pytest.raises(GeometryError, match="Texts of 1 tokens have none left without the first 1"):
        layer_states(FAMILIES["llama"](), texts[:, :1])


def test_too_few_positions_are_warned_about() -> None:
    few = torch.randint(0, 64, (2, 8))
    with pytest.warns(UserWarning, match="14 positions are too few for 32 dimensions.*above 13"):
        moments = layer_states(tiny_model(), few)
    assert participation_ratio(moments["final norm"].covariance()) <= 13
