"""Rows of models that may not cite, of other orders and of other decodings, on a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from samples import shrink_the_course
from transformers import LogitsProcessorList, PreTrainedTokenizerBase, RepetitionPenaltyLogitsProcessor

from hyperfit_course.decoding import continue_prompts
from hyperfit_course.metrics import type_token_ratio
from hyperfit_course.study import rivals
from hyperfit_course.study.arms import Arm, base_model
from hyperfit_course.study.blocking import CitationBlocker
from hyperfit_course.study.measures import arm_rows
from hyperfit_course.study.recording import TEXTS, Row
from hyperfit_course.study.rivals import (
    blocked_rows,
    chance_rows,
    decoded_rows,
    long_rows,
    order_rows,
    recited_words_row,
)
from hyperfit_course.study.variants import Variant
from hyperfit_course.study.writing import recitation_row
from hyperfit_course.training import HyperfitConfig

CONFIG = HyperfitConfig(epochs=1, learning_rate=5e-3, evaluate_every=0, evaluation_prompts=1, seed=1)
ARM = Arm(CONFIG)


@pytest.fixture(autouse=True)
def tiny(tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_the_course(monkeypatch, tokenizer, blocks=3)


def prompts(corpus: str = "tales") -> torch.Tensor:
    return rivals.held_out(corpus)[:, :32]


def can_be_recorded(rows: list[Row]) -> bool:
    return json.loads(json.dumps(rows, allow_nan=False)) == rows and not any("texts" in row for row in rows)


def test_words_of_a_row_are_counted_in_the_decoded_texts(tokenizer: PreTrainedTokenizerBase) -> None:
    written = torch.tensor([tokenizer("one two three four five, no!")["input_ids"], [65] * 28])
    source = torch.tensor([tokenizer("zero one two three FOUR five six")["input_ids"]])
    row = recited_words_row(written, source, tokenizer)
    assert row["recited_words_of_prompts"] == pytest.approx([5 / 6, 0], abs=1e-6)
    assert (row["recited_words"], row["longest_recited_words"]) == (pytest.approx(5 / 12, abs=1e-6), 5)
    assert row["longest_words_of_prompts"] == [5, 0]


def test_blocked_rows_are_of_texts_with_and_without_the_blocker(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = continue_prompts(ARM.trained()[0], prompts())  # the model cites it all
    monkeypatch.setattr(Arm, "splits", lambda arm: {"train": source})
    monkeypatch.setattr(Arm, "trained", lambda arm: (model, None))
    model = base_model()
    source = continue_prompts(model, prompts())
    free, blocked = blocked_rows(ARM, ("tales",))
    assert can_be_recorded([free, blocked])
    assert (free["way"], blocked["way"], blocked["seed"], blocked["prompts"]) == ("free", "blocked", 1, "tales")
    assert free[TEXTS] == source.tolist()
    processors = LogitsProcessorList([CitationBlocker(source, tokenizer)])
    assert blocked[TEXTS] == continue_prompts(model, prompts(), logits_processor=processors).tolist()
    assert blocked["recited"] < free["recited"] == 1


def test_chance_is_that_of_the_authors_texts_and_of_the_base_model(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = list(chance_rows(ARM, ("tales", "news")))
    assert can_be_recorded(rows)
    assert [(row["way"], row["prompts"]) for row in rows] == [
        (way, corpus) for corpus in ("tales", "news") for way in ("reference", "base")
    ]
    source = ARM.splits()["train"]
    for row in rows:
        texts = rivals.held_out(row["prompts"])
        written = texts[:, 32:] if row["way"] == "reference" else continue_prompts(base_model(), texts[:, :32])
        expected = recitation_row(written, source) | recited_words_row(written, source, tokenizer)
        assert {name: row[name] for name in expected} == expected
        assert (row["seed"], row["trained_on"]) == (1, "tales")


def test_order_rows_say_where_two_models_choose_differently() -> None:
    other = Variant(replace(CONFIG, seed=7), drawn=1)
    (row,) = order_rows(ARM, other, ("tales",))
    assert can_be_recorded([row])
    (expected,) = arm_rows(other, ("tales",))
    assert {name: row[name] for name in expected} == expected
    texts = rivals.held_out("tales")
    with torch.no_grad():
        choices = [arm.trained()[0](input_ids=texts).logits[:, :-1].argmax(-1) for arm in (ARM, other)]
    changed = (choices[0] != choices[1]).double().mean(dim=1)
    assert row["changed_choices_of_prompts"] == pytest.approx(changed.tolist(), abs=0.02)
    assert 0 < row["changed_choices"] == pytest.approx(changed.mean().item(), abs=0.01)


@pytest.mark.parametrize(
    ("decoding", "strength", "settings"),
    [
        ("repetition penalty", 1.3, {"logits_processor": LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.3)])}),
        ("top-p", 0.9, {"sample": True, "top_p": 0.9}),
        ("min-p", 0.1, None),
    ],
)
def test_base_model_is_decoded_in_another_way(decoding: str, strength: float, settings: dict[str, Any] | None) -> None:
    (row,) = decoded_rows(decoding, strength, ("news",))
    assert can_be_recorded([row])
    assert (row["decoding"], row["strength"], row["prompts"], row["n_prompts"]) == (decoding, strength, "news", 3)
    greedy = continue_prompts(base_model(), prompts("news"))
    assert row[TEXTS] != greedy.tolist()
    assert row["ttr"] > sum(map(type_token_ratio, greedy)) / 3
    if settings:
        assert row[TEXTS] == continue_prompts(base_model(), prompts("news"), **settings).tolist()


def test_strong_min_p_is_greedy() -> None:
    (row,) = decoded_rows("min-p", 1.0, ("tales",))
    assert row[TEXTS] == continue_prompts(base_model(), prompts()).tolist()


def test_long_texts_have_a_ratio_in_each_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "WINDOW", 24)
    (row,) = long_rows(ARM, new_tokens=72, prompts=3)
    assert can_be_recorded([row])
    written = continue_prompts(ARM.trained()[0], prompts()[:3], 72)
    assert row[TEXTS] == written.tolist()
    assert (row["starts"], row["new_tokens"], row["seed"]) == ([0, 24, 48], 72, 1)
    expected = [sum(type_token_ratio(text[start : start + 24]) for text in written) / 3 for start in (0, 24, 48)]
    assert row["ttr_of_windows"] == pytest.approx(expected)
    assert len(row["ttr_of_prompts_of_windows"][2]) == 3
