from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from conftest import tiny_model
from hypothesis import given, settings
from samples import FINE, NO_NUMBERS, logit_rows, random
from torch import Tensor

from hyperfit_course.logits import stream_logits
from hyperfit_course.reweighting import (
    StaticBias,
    deep_tail_share,
    rank_shifts,
    static_bias,
    token_ranks,
    top1_agreement,
    variance_explained,
)

# Ranks


@given(logit_rows())
@settings(deadline=None, max_examples=60)
def test_ranks_agree_with_a_naive_sort(logits: Tensor) -> None:
    for row in logits:
        naive = sorted(range(len(row)), key=lambda token: (-row[token].item(), token))
        ranks = token_ranks(row.expand(len(row), -1), torch.arange(len(row)))
        assert [naive.index(token) + 1 for token in range(len(row))] == ranks.tolist()


@given(logit_rows())
@settings(deadline=None, max_examples=60)
def test_first_choice_has_rank_one_also_among_ties(logits: Tensor) -> None:
    assert (token_ranks(logits, logits.argmax(-1)) == 1).all()


def test_rank_shift_is_base_rank_minus_tuned_rank() -> None:
    base, tuned = torch.tensor([[3.0, 2.0, 1.0, 0.0]]), torch.tensor([[3.0, 0.0, 1.0, 9.0]])
    assert rank_shifts(base, tuned).tolist() == [[-1, -2, 0, 3]]


@given(logit_rows())
@settings(deadline=None, max_examples=30)
def test_rank_shifts_agree_with_token_ranks(logits: Tensor) -> None:
    other = logits.flip(-1)
    for token in range(logits.shape[-1]):
        chosen = torch.full(logits.shape[:-1], token)
        assert torch.equal(
            rank_shifts(logits, other)[:, token].long(), token_ranks(logits, chosen) - token_ranks(other, chosen)
        )


def test_agreement_is_of_first_choices_only() -> None:
    base = torch.tensor([[5.0, 1.0, 0.0], [5.0, 1.0, 0.0], [2.0, 2.0, 0.0]])
    tuned = torch.tensor([[2.0, 0.0, 1.0], [1.0, 5.0, 0.0], [7.0, 7.0, 0.0]])
    assert top1_agreement(base, tuned).tolist() == [True, False, True]


def test_deep_tail_has_both_denominators() -> None:
    ranks = torch.tensor([[1, 1, 2, 10, 11], [300, 1, 1, 1, 1]])
    assert deep_tail_share(ranks) == (0.2, 0.5)
    assert deep_tail_share(ranks, threshold=200) == (0.1, 0.25)
    assert deep_tail_share(ranks[0]) == (0.2, pytest.approx(1 / 3))


def test_without_an_override_the_share_of_overrides_is_not_a_number() -> None:
    of_all, of_overrides = deep_tail_share(torch.ones(4, dtype=torch.long))
    assert of_all == 0
    assert math.isnan(of_overrides)


# Static bias


def test_static_bias_is_the_mean_change_of_the_tokens_that_gained_most() -> None:
    base = random(40, 30)
    offset = torch.zeros(30)
    offset[[3, 17]] = torch.tensor([4.0, 6.0])
    noise = random(40, 1, seed=2)  # a constant a position changes no distribution
    bias = static_bias(base, base + offset + noise, k=2)
    assert bias.nonzero().flatten().tolist() == [3, 17]
    torch.testing.assert_close(bias[[3, 17]], offset[[3, 17]] - offset.mean())


def test_bias_of_all_tokens_is_that_of_the_whole_vocabulary() -> None:
    base, tuned = random(40, 30), random(40, 30, seed=1)
    torch.testing.assert_close(static_bias(base, tuned, k=None), static_bias(base, tuned, k=30))


def test_static_bias_of_models_is_that_of_their_logits() -> None:
    base, tuned, texts = tiny_model(0), tiny_model(1), torch.randint(0, 256, (3, 12))
    logits = [torch.cat(list(stream_logits(model, texts))) for model in (base, tuned)]
    torch.testing.assert_close(static_bias(base, tuned, 9, texts), static_bias(*logits, 9), atol=1e-5, rtol=1e-4)


def test_whole_static_change_injected_gives_the_tuned_distribution() -> None:
    base = random(5, 30)
    tuned = base + 2 * random(30, seed=1)
    injected = StaticBias(static_bias(base, tuned, k=None), alpha=1.0)(torch.zeros(5, 1), base)
    torch.testing.assert_close(injected.softmax(-1), tuned.softmax(-1))


def test_alpha_scales_the_bias() -> None:
    scores = StaticBias(torch.tensor([1.0, -2.0]), alpha=0.5)(torch.zeros(1, 1), torch.zeros(1, 2))
    assert scores.tolist() == [[0.5, -1.0]]


# Variance explained

TEXTS = torch.arange(8).repeat_interleave(16)


def test_static_change_is_explained_by_a_static_offset() -> None:
    base = random(128, 40)
    shares = variance_explained(base, base + random(40, seed=1), TEXTS, ranks=(1,))
    assert shares == {"static": pytest.approx(1), "per context": pytest.approx(1), "rank 1": pytest.approx(1)}


def test_change_that_varies_from_position_to_position_is_not_explained_by_offsets() -> None:
    base = random(128, 40)
    shares = variance_explained(base, base + random(128, 40, seed=1), TEXTS, ranks=(1, 40))
    assert shares["static"] == pytest.approx(0, abs=0.05)
    assert shares["per context"] == pytest.approx(0, abs=0.1)
    assert shares["rank 1"] < 0.1
    assert shares["rank 40"] == pytest.approx(1)


def test_change_of_each_text_is_explained_by_its_context_only() -> None:
    base, of_text = random(128, 40), random(8, 40, seed=1)
    shares = variance_explained(base, base + of_text[TEXTS], TEXTS, ranks=(1, 8))
    assert shares["per context"] == pytest.approx(1)
    assert shares["static"] == pytest.approx(0, abs=0.3)  # eight texts say little about the ninth
    assert shares["rank 8"] == pytest.approx(1)
    assert shares["rank 1"] < 0.5


# Bad input


@pytest.mark.parametrize("logits", NO_NUMBERS.values(), ids=NO_NUMBERS)
@pytest.mark.parametrize(
    "call",
    [
        lambda logits: token_ranks(logits, torch.tensor([0])),
        lambda logits: rank_shifts(FINE, logits),
        lambda logits: top1_agreement(logits, FINE),
        lambda logits: static_bias(FINE, logits, k=1),
        lambda logits: variance_explained(logits, FINE, torch.tensor([0])),
    ],
    ids=["ranks", "shifts", "agreement", "bias", "variance"],
)
def test_logits_that_are_no_numbers_are_refused(call: Callable[[Tensor], object], logits: Tensor) -> None:
    with pytest.raises(ValueError, match="nan or inf"):
        call(logits)


@pytest.mark.parametrize("compare", [rank_shifts, top1_agreement, lambda a, b: static_bias(a, b, k=1)])
def test_models_with_different_vocabularies_are_refused(compare: Callable[[Tensor, Tensor], object]) -> None:
    with pytest.raises(ValueError, match="vocabularies of 3 and 4"):
        compare(torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.mark.parametrize("compare", [rank_shifts, top1_agreement])
def test_logits_of_different_positions_are_refused(compare: Callable[[Tensor, Tensor], object]) -> None:
    with pytest.raises(ValueError, match="same positions"):
        compare(torch.zeros(2, 3), torch.zeros(1, 3))


def test_static_bias_of_texts_of_different_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="same positions"):
        static_bias(torch.zeros(2, 3), torch.zeros(1, 3), k=1)


@pytest.mark.parametrize("k", [0, 4])
def test_k_that_does_not_fit_the_vocabulary_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="between 1 and the vocabulary's 3"):
        static_bias(FINE, FINE, k=k)


def test_bias_for_another_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="A bias of 2 numbers does not fit 3 tokens: compute"):
        StaticBias(torch.zeros(2), 1.0)(torch.zeros(1, 1), FINE)


def test_no_ranks_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="There are no ranks"):
        deep_tail_share(torch.ones(0))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [([0, 1], "one token a position"), ([3], "The token id 3 is not among those of these logits, 0 to 2")],
)
def test_tokens_that_do_not_fit_the_logits_are_refused(tokens: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_ranks(FINE, torch.tensor(tokens))


@pytest.mark.parametrize("contexts", [[0, 0, 0], [0, 0, 1], [0, 1]])
def test_texts_too_few_to_leave_one_out_are_refused(contexts: list[int]) -> None:
    logits = random(3, 5)
    with pytest.raises(ValueError, match="two texts with two positions"):
        variance_explained(logits, logits + 1, torch.tensor(contexts))
