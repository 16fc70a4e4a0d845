"""The rows of a study, on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model
from samples import loads_tiny_model, local_corpus, sharper
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedTokenizerBase

from hyperfit_course.decoding import continue_prompts
from hyperfit_course.geometry import MEASURES, measure_layers, participation_ratio
from hyperfit_course.late_stage import trained_modules
from hyperfit_course.metrics import ngram_repetition, repetition_frame, type_token_ratio
from hyperfit_course.study import arms, measures
from hyperfit_course.study.arms import Arm, base_model, held_out, tokenizer_of
from hyperfit_course.study.controls import ShapedLike
from hyperfit_course.study.measures import (
    CURVES,
    SHAPED_SAMPLES,
    arm_rows,
    bias_rows,
    curve_rows,
    damaged_rows,
    mean_entropy,
    model_rows,
    order_and_shape_rows,
    prediction_row,
    sampled_row,
    sampled_rows,
    shape_row,
    shared_override_rows,
    temperature_rows,
    token_accuracy,
)
from hyperfit_course.study.recording import TEXTS, Task, record
from hyperfit_course.study.writing import diversity_across, text_row
from hyperfit_course.temperature import predictive_entropy
from hyperfit_course.training import HyperfitConfig

CONFIG = HyperfitConfig(epochs=1, learning_rate=5e-3, evaluate_every=0, evaluation_prompts=1, seed=1)
BLOCKS = 6
ALL_WEIGHTS, MIDDLE = Arm(CONFIG, "news"), Arm(CONFIG, rank=2, count=5, place="middle")


@pytest.fixture(autouse=True)
def tiny(tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The course's model is a tiny one of six blocks, and nothing is fetched."""
    monkeypatch.setattr(arms, "load_model", loads_tiny_model(BLOCKS, tokenizer))
    monkeypatch.setattr(arms, "load_tokenizer", lambda name: tokenizer)
    monkeypatch.setattr(arms, "load_corpus", local_corpus)
    monkeypatch.setattr("hyperfit_course.evaluation.NEW_TOKENS", 8)
    for cached in (base_model, held_out, tokenizer_of):
        cached.cache_clear()
    yield
    for cached in (base_model, held_out, tokenizer_of):
        cached.cache_clear()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight texts of each corpus are enough to measure on."""
    monkeypatch.setattr(measures, "held_out", lambda *of: held_out(*of)[:8])


def logits(model: Any, texts: Tensor) -> Tensor:
    """At all positions that have a next token."""
    with torch.no_grad():
        return model(input_ids=texts).logits[:, :-1]


def greedy(model: Any, corpus: str = "tales") -> Tensor:
    return continue_prompts(model, measures.held_out(corpus)[:, :32])


def ttr_of_prompts(continuations: Tensor) -> list[float]:
    return repetition_frame(continuations)["ttr"].round(6).tolist()


def can_be_recorded(rows: list[dict[str, Any]]) -> bool:
    """Whether rows are JSON values by the standard, and none has the name that recording gives to texts."""
    return json.loads(json.dumps(rows, allow_nan=False)) == rows and not any("texts" in row for row in rows)


# Parts of rows


def test_mean_entropy_is_that_of_the_whole_logits() -> None:
    texts = held_out("tales")[:4]
    for temperature in (1.0, 0.3):
        expected = predictive_entropy(logits(base_model(), texts), temperature).mean().item()
        assert mean_entropy(base_model(), texts, temperature) == pytest.approx(expected, rel=1e-5)


def test_predictions_are_compared_with_those_of_the_base_model() -> None:
    texts, model = held_out("tales")[:6], Arm(CONFIG, "news").trained()[0]
    row = prediction_row(model, texts)
    assert can_be_recorded([row])
    before, after = logits(base_model(), texts).double(), logits(model, texts).double()
    assert row["prompt_entropy"] == pytest.approx(predictive_entropy(after).mean().item(), rel=1e-4)
    of_base = before.softmax(-1)
    divergence = (of_base * (before.log_softmax(-1) - after.log_softmax(-1))).sum(-1)
    assert row["kl_from_base"] == pytest.approx(divergence.mean().item(), rel=1e-3)
    chosen = before.gather(-1, after.argmax(-1, keepdim=True))
    ranks = 1 + (before > chosen).sum(dim=-1)  # without ties
    overrides = (ranks > 1).double().mean(dim=1).tolist()
    assert 0 < sum(overrides) < 6, "the models agree everywhere or nowhere"
    assert row["override_share_of_prompts"] == pytest.approx(overrides, abs=1e-2)
    assert row["override_share"] == pytest.approx(sum(overrides) / 6, abs=2e-3)
    assert row["deep_tail_of_all"] == pytest.approx((ranks > 10).double().mean().item(), abs=2e-3)
    assert row["deep_tail_of_overrides"] == pytest.approx(row["deep_tail_of_all"] / row["override_share"])


def test_base_model_overrides_nothing() -> None:
    row = prediction_row(base_model(), held_out("tales")[:3])
    assert can_be_recorded([row])
    assert (row["override_share"], row["deep_tail_of_all"], row["deep_tail_of_overrides"]) == (0, 0, None)
    assert row["kl_from_base"] == pytest.approx(0, abs=1e-7)


def test_accuracy_is_the_share_of_tokens_that_are_the_first_choice() -> None:
    model, texts = sharper(tiny_model(), 6), torch.tensor([[65], [80]])
    while texts.shape[1] < 11:
        texts = torch.cat([texts, logits(model, torch.cat([texts, texts[:, :1]], dim=1))[:, -1:].argmax(-1)], dim=1)
    assert token_accuracy(model, texts) == 1
    other = texts.clone()
    other[:, -1] = (other[:, -1] + 1) % 256
    assert token_accuracy(model, other) == pytest.approx(18 / 20)


@pytest.mark.filterwarnings("ignore:.*participation ratio")
def test_shape_is_taken_around_the_last_block_and_after_the_norm_in_every_way() -> None:
    texts = held_out("tales")[:4]
    body = base_model().model
    seen: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: seen.append(output))
        for module in (body.layers[-2], body.layers[-1], body.norm)
    ]
    with torch.no_grad():
        body(input_ids=texts, use_cache=False)
    for hook in hooks:
        hook.remove()
    states = dict(zip(("before_last", "prenorm", "postnorm"), seen, strict=True))
    row = shape_row(base_model(), texts)
    assert can_be_recorded([row])
    expected = {}
    for place, state in states.items():
        for suffix, first in (("", 1), ("_all", 0)):
            points = state[:, first:].flatten(0, 1).double()
            matrices = {
                "": torch.cov(points.T, correction=0),
                "_uncentred": points.T @ points / len(points),
                "_standardised": torch.corrcoef(points.T),
            }
            for kind, matrix in matrices.items():
                expected[f"{place}{kind}{suffix}"] = participation_ratio(matrix).item()
    assert len({round(value, 3) for value in expected.values()}) == 18, "some ways could not be told apart"
    assert row == pytest.approx(expected, rel=1e-3)


# Rows of an arm


@pytest.mark.usefixtures("few")
def test_rows_of_the_base_model_are_of_its_texts_after_the_prompts_of_each_corpus() -> None:
    rows = list(arm_rows(Arm(), ("tales", "news")))
    assert can_be_recorded(rows)
    assert [row["prompts"] for row in rows] == ["tales", "news"]
    for row in rows:
        assert (row["arm"], row["trained_on"], row["seed"], row["rank"]) == ("base", "nothing", 0, None)
        assert (row["train_loss"], row["validation_loss"], row["learning_rate"]) == (None, None, None)
        assert (row["epochs"], row["parameters"], row["override_share"]) == (0, 0, 0)
        texts = measures.held_out(row["prompts"])
        assert row[TEXTS] == greedy(base_model(), row["prompts"]).tolist()
        assert row["prompt_entropy"] == pytest.approx(mean_entropy(base_model(), texts), rel=1e-5)
        assert row["token_accuracy"] == token_accuracy(base_model(), Arm().splits()["train"])


@pytest.mark.usefixtures("few")
def test_row_of_a_hyperfitted_model() -> None:
    (row,) = arm_rows(ALL_WEIGHTS, ("tales",))
    assert can_be_recorded([row])
    model, history = ALL_WEIGHTS.trained()
    texts, source = measures.held_out("tales"), ALL_WEIGHTS.splits()["train"]
    assert (row["arm"], row["trained_on"], row["seed"], row["rank"]) == ("hyperfitted", "news", 1, None)
    assert (row["learning_rate"], row["epochs"], row["n_prompts"]) == (5e-3, 1, 8)
    assert row["parameters"] == sum(weight.numel() for weight in model.parameters())
    for loss in ("train_loss", "validation_loss"):
        assert row[loss] == history[loss].iloc[-1]
    assert row["token_accuracy"] == token_accuracy(model, source)
    parts = (
        text_row(greedy(model), texts, source, base_model()) | prediction_row(model, texts) | shape_row(model, texts)
    )
    assert {name: row[name] for name in parts} == parts


def test_row_of_an_arm_with_adapters() -> None:
    (row,) = arm_rows(MIDDLE, ("tales",))
    assert can_be_recorded([row])
    model = MIDDLE.trained()[0]
    assert (row["arm"], row["trained_on"], row["rank"], row["seed"]) == ("middle 5", "tales", 2, 1)
    assert row["parameters"] == trained_modules(model)["parameters"].sum()
    assert row["n_prompts"] == len(row["ttr_of_prompts"]) == len(row["override_share_of_prompts"]) == 30
    assert row[TEXTS] == greedy(model).tolist()


@pytest.mark.usefixtures("few")
def test_rows_of_a_model_that_was_made_from_an_arms_are_of_that_model() -> None:
    changed, source = sharper(arms.load_model()[0], 3), MIDDLE.splits()["train"]
    rows = list(model_rows(MIDDLE, changed, {"factor": 2.5}, source, ("news", "tales")))
    assert can_be_recorded(rows)
    assert [(row["arm"], row["prompts"], row["factor"]) for row in rows] == [
        ("middle 5", "news", 2.5),
        ("middle 5", "tales", 2.5),
    ]
    for row in rows:
        assert row[TEXTS] == greedy(changed, row["prompts"]).tolist()
        texts = measures.held_out(row["prompts"])
        assert row["prompt_entropy"] == prediction_row(changed, texts)["prompt_entropy"]
        assert row["prenorm"] == shape_row(changed, texts)["prenorm"]


@pytest.mark.usefixtures("few")
def test_damaged_rows_are_of_a_model_as_far_from_the_base_and_of_other_texts() -> None:
    (trained,) = arm_rows(MIDDLE, ("tales",))
    (row,) = damaged_rows(MIDDLE, ("tales",))
    assert can_be_recorded([row])
    assert (row["arm"], row["seed"], row["rank"]) == ("middle 5, random directions", 1, 2)
    assert row["kl_from_base"] == pytest.approx(trained["kl_from_base"], rel=0.021)
    assert row["factor"] > 0
    assert row[TEXTS] != trained[TEXTS]
    assert row["token_accuracy"] != trained["token_accuracy"]
    assert {"train_loss", "epochs", "parameters"}.isdisjoint(row), "no run gave this model"


@pytest.mark.usefixtures("few")
def test_sampled_rows_are_of_the_model_and_of_the_base_model_as_sharp() -> None:
    rows = list(sampled_rows(ALL_WEIGHTS, ("tales", "news")))
    assert can_be_recorded(rows)
    assert [(row["way"], row["prompts"]) for row in rows] == [
        (way, corpus) for corpus in ("tales", "news") for way in ("base at T*", "hyperfitted")
    ]
    model = ALL_WEIGHTS.trained()[0]
    for row in rows:
        texts, of_base = measures.held_out(row["prompts"]), row["way"] == "base at T*"
        assert (row["trained_on"], row["seed"]) == ("news", 1)
        sampled = base_model() if of_base else model
        assert mean_entropy(sampled, texts, row["temperature"]) == pytest.approx(row["prompt_entropy"], abs=2e-4)
        assert (row["temperature"] == 1) != of_base
        assert row[TEXTS] == sampled_row(sampled, texts, row["temperature"])[TEXTS]


@pytest.mark.usefixtures("few")
def test_order_and_shape_make_four_cells() -> None:
    rows = list(order_and_shape_rows(ALL_WEIGHTS))
    assert can_be_recorded(rows)
    cells = {(row["order"], row["shape"]): row for row in rows}
    models: dict[str, Any] = {"base": base_model(), "hyperfitted": ALL_WEIGHTS.trained()[0]}
    assert list(cells) == [(order, shape) for order in models for shape in models]
    texts = measures.held_out("tales")
    prompts = texts[:, :32].repeat_interleave(SHAPED_SAMPLES, dim=0)
    for (order, shape), row in cells.items():
        assert (row["seed"], row["prompts"], row["n_prompts"], len(row[TEXTS])) == (1, "tales", 8, 32)
        processors = LogitsProcessorList([ShapedLike(models[shape])] if order != shape else [])
        drawn = continue_prompts(models[order], prompts, sample=True, logits_processor=processors)
        assert row[TEXTS] == drawn.tolist()
    assert len({json.dumps(row[TEXTS]) for row in rows}) == 4


@pytest.mark.usefixtures("few")
def test_shared_overrides_are_shares_of_those_of_the_late_arm() -> None:
    early = replace(ALL_WEIGHTS, trained_on="tales")
    (row,) = shared_override_rows(ALL_WEIGHTS, early)
    assert can_be_recorded([row])
    texts = measures.held_out("tales")
    before, late, soon = (
        logits(model, texts).argmax(-1) for model in (base_model(), ALL_WEIGHTS.trained()[0], early.trained()[0])
    )
    overrides, both = late != before, (late != before) & (soon != before)
    expected = {
        "seed": 1,
        "override_share": overrides.double().mean().item(),
        "early_override_share": (soon != before).double().mean().item(),
        "overridden_by_both": (both.sum() / overrides.sum()).item(),
        "same_choice": ((both & (late == soon)).sum() / overrides.sum()).item(),
    }
    assert 0 < expected["same_choice"] < expected["overridden_by_both"] < 1
    assert expected["override_share"] != expected["early_override_share"]
    assert row == pytest.approx(expected, abs=5e-3)


@pytest.mark.usefixtures("few")
def test_curves_of_an_adapted_model_are_two_measures_over_all_layers() -> None:
    arm = Arm(CONFIG, rank=2, count=1, place="last")
    rows = list(curve_rows(arm, "wiki"))
    assert can_be_recorded(rows)
    assert [(row["model"], row["corpus"], row["skip"], row["measure"]) for row in rows] == [
        ("last 1", "wiki", 1, name) for name in CURVES
    ]
    frame = measure_layers(arm.trained()[0], measures.held_out("wiki"), CURVES)
    for row in rows:
        expected = frame[frame["measure"] == row["measure"]].sort_values("depth")
        assert len(expected) == BLOCKS + 1
        for column in ("value", "low", "high"):
            assert row[column] == pytest.approx(expected[column].tolist(), abs=1e-4)


@pytest.mark.usefixtures("few")
def test_curves_of_the_base_model_are_all_measures_and_two_with_the_first_position() -> None:
    rows = list(curve_rows(Arm(), "tales"))
    assert can_be_recorded(rows)
    assert [(row["skip"], row["measure"]) for row in rows] == [
        *((1, name) for name in MEASURES),
        *((0, name) for name in CURVES),
    ]
    assert all(row["model"] == "base" and len(row["value"]) == BLOCKS + 1 for row in rows)
    without, with_first = rows[0], rows[len(MEASURES)]
    assert without["value"] != with_first["value"]


@pytest.mark.usefixtures("few")
def test_rows_with_texts_and_rows_of_curves_are_measured_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arm = Arm(CONFIG, rank=2, count=1, place="last")
    for name, measure in {
        "arms": lambda: arm_rows(arm, ("tales",)),
        "curves": lambda: curve_rows(arm, "tales"),
    }.items():
        wanted = [Task("last", {"arm": arm.configuration()}, measure)]
        record(name, wanted, tmp_path)
        capsys.readouterr()
        record(name, wanted, tmp_path)
        assert capsys.readouterr().out == f"{name} [1/1] last: recorded\n"


# Rows of one model, decoded in another way


def test_sampled_row_has_several_continuations_of_each_prompt() -> None:
    texts = held_out("tales")[:3]
    for samples in (2, 3):
        prompts = texts[:, :32].repeat_interleave(samples, dim=0)
        drawn = continue_prompts(base_model(), prompts, sample=True, temperature=0.5)
        row = sampled_row(base_model(), texts, 0.5, samples)
        assert can_be_recorded([row])
        assert (row["n_prompts"], row[TEXTS]) == (3, drawn.tolist())
        assert row["ttr"] == pytest.approx(sum(map(type_token_ratio, drawn)) / len(drawn))
        assert row["bigram_repetition"] == pytest.approx(sum(ngram_repetition(text, 2) for text in drawn) / len(drawn))
        assert row["distinct_1"] == diversity_across(drawn)["distinct_1"]


@pytest.mark.usefixtures("few")
def test_row_of_a_temperature() -> None:
    (row,) = temperature_rows(0.5)
    assert can_be_recorded([row])
    assert row["temperature"] == 0.5
    assert row["entropy"] == pytest.approx(mean_entropy(base_model(), measures.held_out("tales"), 0.5))
    assert row[TEXTS] == sampled_row(base_model(), measures.held_out("tales"), 0.5)[TEXTS]
    assert row["n_prompts"] == 8


@pytest.mark.usefixtures("few")
def test_row_of_a_static_bias() -> None:
    bias, model = torch.zeros(257), sharper(arms.load_model()[0], 3)
    bias[65] = 1000.0
    source = torch.full((2, 128), 65)
    (always,) = bias_rows("one token", bias, 1.0, model, source)
    assert can_be_recorded([always])
    assert (always["bias"], always["alpha"], always["n_prompts"]) == ("one token", 1.0, 8)
    assert always["ttr"] == pytest.approx(1 / 96)
    assert always["ttr_of_prompts"] == pytest.approx([1 / 96] * 8, abs=1e-6)
    assert (always["recited"], always["longest_recited"]) == (1, 96)
    (never,) = bias_rows("one token", bias, 0.0, model, source)
    assert never[TEXTS] == greedy(model).tolist() != greedy(base_model()).tolist()
    (against,) = bias_rows("one token", bias, -1.0, model, source)
    assert not any(65 in text for text in against[TEXTS])
