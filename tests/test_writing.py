"""What is measured of texts, on a tiny model."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hyperfit_course.metrics import bootstrap_interval, repetition_frame
from hyperfit_course.study.recording import TEXTS
from hyperfit_course.study.writing import (
    diversity_across,
    likelihood_row,
    recitation_row,
    repetition_row,
    text_row,
)


def random_texts(count: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 64, (count, length), generator=torch.Generator().manual_seed(seed))


def test_repetition_is_the_mean_of_the_samples_of_each_prompt() -> None:
    continuations = torch.tensor([[1, 2, 3, 4], [5, 5, 5, 5], [1, 2, 1, 2], [7, 7, 7, 7], [1, 2, 3, 1], [1, 2, 3, 4]])
    row = repetition_row(continuations, samples=2)
    of_prompt = {
        "ttr": [(1 + 1 / 4) / 2, (1 / 2 + 1 / 4) / 2, (3 / 4 + 1) / 2],
        "bigram_repetition": [(0 + 2 / 3) / 2, (1 / 3 + 2 / 3) / 2, 0],
    }
    assert row["n_prompts"] == 3
    for name, values in of_prompt.items():
        expected = bootstrap_interval(values)
        assert (row[name], row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(tuple(expected))
        assert row[f"{name}_of_prompts"] == pytest.approx(values, abs=1e-6)
    each = repetition_row(continuations)
    assert (each["n_prompts"], each["ttr_of_prompts"]) == (6, [1, 0.25, 0.5, 0.25, 0.75, 1])


def test_diversity_across_texts_counts_distinct_grams_of_all_of_them() -> None:
    row = diversity_across(torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5], [3, 4, 1, 2]]))
    # 12 tokens, 5 of them distinct; 9 bigrams: 12, 23, 34, 35, 41; 6 trigrams: 123, 234, 235, 341, 412.
    assert row == {"distinct_1": 5 / 12, "distinct_2": 5 / 9, "distinct_3": 5 / 6}
    alike = diversity_across(torch.tensor([[1, 2, 3, 4]] * 3))
    assert alike == {"distinct_1": 1 / 3, "distinct_2": 1 / 3, "distinct_3": 1 / 3}


def test_recitation_has_a_value_a_prompt_and_the_longest_run_of_all() -> None:
    source = torch.tensor([[1, 2, 3, 4, 5, 6, 7], [11, 12, 13, 14, 15, 16, 17]])
    continuations = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 0], [0] * 8, [12, 13, 14, 15, 16, 17, 0, 0]])
    row = recitation_row(continuations, source)
    assert row["recited_of_prompts"] == [5 / 8, 0, 6 / 8]
    assert row["recited"] == pytest.approx(11 / 24)
    assert row["longest_recited"] == 6


def test_likelihood_is_that_of_the_tokens_after_the_prompt(model: PreTrainedModel) -> None:
    texts = random_texts(3, 128)
    row = likelihood_row(texts, model)
    with torch.no_grad():
        logits = model(input_ids=texts).logits[:, :-1]
    scores = logits.log_softmax(-1).gather(-1, texts[:, 1:, None])[..., 0]
    expected = scores[:, 31:].mean(dim=1).tolist()
    assert scores.shape[1] - 31 == 96
    assert row["base_likelihood_of_prompts"] == pytest.approx(expected, abs=2e-6)
    assert row["base_likelihood"] == pytest.approx(sum(expected) / 3, abs=2e-6)


def test_row_of_texts_is_of_the_continuations_after_their_own_prompts(model: PreTrainedModel) -> None:
    texts, source = random_texts(4, 128), random_texts(5, 128, seed=1)
    continuations = torch.cat([source[:4, 40:70], random_texts(4, 66, seed=2)], dim=1)
    row = text_row(continuations, texts, source, model)
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert row[TEXTS] == continuations.tolist()
    assert row["recited_of_prompts"] == pytest.approx([30 / 96] * 4, abs=0.02)
    joined = likelihood_row(torch.cat([texts[:, :32], continuations], dim=1), model)
    assert {name: row[name] for name in joined} == joined
    assert row["ttr_of_prompts"] == repetition_frame(continuations)["ttr"].round(6).tolist()
    assert row["distinct_2"] == diversity_across(continuations)["distinct_2"]
