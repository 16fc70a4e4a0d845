"""How strongly a model copies, on models whose answer is known."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import FAMILIES, tiny_model
from samples import sharper
from torch import Tensor, nn

from hyperfit_course.late_stage import late_stage_lora
from hyperfit_course.study import copying
from hyperfit_course.study.copying import (
    copy_score,
    first_sentence,
    induction_scores,
    loop_persistence,
    loop_start,
    random_strings,
)

VOCABULARY = 50


class Copier(nn.Module):
    """A model of the next token that knows one thing: what followed the last token when it stood before.

    It gives the latest such token the probability ``sure``, and all others the rest, in equal parts.
    """

    device = torch.device("cpu")
    config = SimpleNamespace()

    def __init__(self, sure: float) -> None:
        super().__init__()
        self.sure = sure

    def probabilities(self, text: list[int]) -> Tensor:
        before = [place for place in range(len(text) - 1) if text[place] == text[-1]]
        if not before:
            return torch.full((VOCABULARY,), 1 / VOCABULARY)
        found = torch.full((VOCABULARY,), (1 - self.sure) / (VOCABULARY - 1))
        found[text[before[-1] + 1]] = self.sure
        return found


def read_by_copier(measure: Any, model: Copier, texts: Tensor) -> Tensor:
    """What stands in for :func:`at_positions`: the measure of a copier's logits, text by text."""
    rows = [[model.probabilities(text[:end].tolist()).log() for end in range(1, len(text))] for text in texts]
    return torch.stack([measure(torch.stack(row)) for row in rows])


@pytest.fixture
def copier(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(copying, "at_positions", lambda measure, model, texts: read_by_copier(measure, model, texts))
    return Copier(0.9)


# Passages


def test_copy_score_of_a_copier_is_what_it_is_sure_of_over_chance(copier: Any) -> None:
    passage = [1, 2, 3, 4]
    assert copy_score(copier, passage, [10, 11]).score == pytest.approx(math.log(0.9 * VOCABULARY), rel=1e-4)
    assert copy_score(copier, torch.tensor(passage), [10], copies=3).score == pytest.approx(
        math.log(0.9 * 50), rel=1e-4
    )


def test_copy_score_of_a_model_that_does_not_look_back_is_zero(copier: Any) -> None:
    copier.sure = 1 / VOCABULARY
    assert copy_score(copier, [1, 2, 3, 4], [10]).score == pytest.approx(0, abs=1e-5)


def test_copy_score_is_the_last_copys_mean_log_probability_minus_the_firsts() -> None:
    model, passage, start = sharper(tiny_model(), 3), [7, 9, 80], [1, 2]
    text = torch.tensor([start + passage * 4])
    with torch.no_grad():
        logits = model(input_ids=text).logits[0]
    of_token = [logits[place - 1].log_softmax(-1)[text[0, place]].item() for place in range(2, text.shape[1])]
    copied = copy_score(model, passage, start, copies=4)
    assert copied == pytest.approx((sum(of_token[:3]) / 3, sum(of_token[-3:]) / 3), rel=1e-4)
    assert copied.score == copied.last - copied.first


@pytest.mark.parametrize(("passage", "start", "copies"), [([], [1], 8), ([1], [], 8), ([1], [2], 1)])
def test_passage_without_copies_has_no_score(passage: list[int], start: list[int], copies: int) -> None:
    with pytest.raises(ValueError, match="a passage and a start of one token or more, and at least two copies"):
        copy_score(tiny_model(), passage, start, copies)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One day. Another day.", "One day."),
        ("Mrs. Hill came. She sat.", "Mrs. Hill came."),
        ("“Who?” said he.", "“Who?”"),
        ("One\nday! Yes.", "One\nday!"),
        ("no end", "no end"),
    ],
)
def test_first_sentence_ends_where_a_sentence_ends(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence


def test_random_strings_have_no_token_twice_and_are_those_of_the_seed() -> None:
    strings = random_strings(range(100, 200), 20, 25)
    assert strings.shape == (20, 25)
    assert 100 <= strings.min() <= strings.max() < 200
    assert all(len(set(string)) == 25 for string in strings.tolist())
    assert torch.equal(strings, random_strings(range(100, 200)))
    assert not torch.equal(strings, random_strings(range(100, 200), seed=1))
    with pytest.raises(ValueError, match="Strings of 25 different tokens cannot be drawn from 24"):
        random_strings(range(24))


# Loops


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8], None),
        ([9, 8, 1, 2, 1, 2, 1, 2, 1, 2], 8),
        ([9, 8, 1, 2, 1, 2, 1, 2, 1], 8),
        ([9, 8, 1, 2, 1, 2, 1, 2], None),
        ([4, 4, 4, 4, 4], 3),
        ([4, 4, 4], None),
        ([1, 2, 1, 2, 1, 2, 1, 2, 3], None),
        ([7, 1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 2], 10),
    ],
    ids=["none", "four turns", "in a turn", "three turns", "one token", "too few", "left again", "inner repeat"],
)
def test_loop_has_come_three_times_and_goes_on(text: list[int], start: int | None) -> None:
    assert loop_start(text) == start
    assert loop_start(torch.tensor(text)) == start


def test_loop_of_a_longer_period_than_asked_for_is_none() -> None:
    text = list(range(5)) * 4
    assert loop_start(text) == 15
    assert loop_start(text, longest=4) is None
    assert loop_start(text, turns=2) == 10


def test_persistence_is_how_sure_a_model_is_of_the_next_token_of_a_loop(copier: Any) -> None:
    texts = torch.tensor(
        [
            [40, 41, 42, 5, 6, 5, 6, 5, 6, 5, 6],
            [40, 41, 42, 1, 2, 3, 4, 7, 8, 9, 10],
            [40, 41, 42, 5, 5, 5, 5, 5, 5, 5, 5],
        ]
    )
    assert loop_persistence(copier, texts, skip=3) == pytest.approx([0.9, 0.9], rel=1e-4)


def test_persistence_counts_the_tokens_after_three_turns_only() -> None:
    model, text = sharper(tiny_model(), 3), torch.tensor([[40, 41, 5, 6, 5, 6, 5, 6, 5, 6]])
    with torch.no_grad():
        probabilities = model(input_ids=text).logits[0].softmax(-1)
    expected = (probabilities[7, 5] + probabilities[8, 6]).item() / 2
    assert loop_persistence(model, text, skip=2) == pytest.approx([expected], rel=1e-4)


def test_without_a_loop_nothing_persists() -> None:
    with pytest.raises(ValueError, match="No text ends with a loop"):
        loop_persistence(tiny_model(), torch.arange(20)[None], skip=4)


# Heads


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_scores_are_the_attention_to_the_place_after_the_first_one(family: str) -> None:
    model = sharper(FAMILIES[family](), 4)
    strings = random_strings(range(60), 3, 6)
    scores = induction_scores(model, strings)
    assert scores.shape == (4, 4)
    assert model.config._attn_implementation == "sdpa", "the attention is computed as before"
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(input_ids=strings.repeat(1, 2), output_attentions=True).attentions
    for block, weights in enumerate(attentions):
        for head in range(4):
            looked = [weights[text, head, 6 + i, i + 1].item() for text in range(3) for i in range(6)]
            assert scores[block, head] == pytest.approx(sum(looked) / len(looked), rel=1e-4)


def test_head_that_looks_at_the_token_itself_only_has_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    model, strings = tiny_model(), random_strings(range(60), 3, 6)
    weights = torch.zeros(3, 4, 12, 12)
    weights[:, 0] = torch.eye(12)
    for place in range(6, 12):
        weights[:, 1, place, place - 5] = 1
    monkeypatch.setattr(model, "forward", lambda **_: SimpleNamespace(attentions=[weights, weights]))
    assert induction_scores(model, strings).tolist() == [[0, 1, 0, 0]] * 2


def test_heads_of_a_model_with_adapters_are_those_of_the_model() -> None:
    strings = random_strings(range(60), 3, 6)
    plain = induction_scores(tiny_model(), strings)
    torch.testing.assert_close(induction_scores(late_stage_lora(tiny_model(), 1, rank=2), strings), plain)


def test_strings_of_one_token_have_no_heads_that_copy() -> None:
    with pytest.raises(ValueError, match=r"with length 2 or more, not \(3, 1\)"):
        induction_scores(tiny_model(), torch.zeros(3, 1, dtype=torch.long))
