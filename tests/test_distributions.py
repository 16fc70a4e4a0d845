from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from conftest import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyperfit_course import distributions
from hyperfit_course.distributions import (
    StaticBias,
    deep_tail_share,
    match_temperature,
    match_temperature_per_position,
    predictive_entropy,
    rank_shifts,
    static_bias,
    stream_logits,
    token_ranks,
    top1_agreement,
    variance_explained,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def logit_rows(least: int = 2) -> st.SearchStrategy[Tensor]:
    """A few positions of a small vocabulary: random, peaked, nearly flat, and with ties."""

    def rows(seed: int, positions: int, vocabulary: int, scale: float, tied: bool) -> Tensor:
        logits = random(positions, vocabulary, seed=seed) * scale
        return logits.round() if tied else logits

    return st.builds(
        rows,
        st.integers(0, 10_000),
        st.integers(1, 4),
        st.integers(least, 30),
        st.sampled_from([0.01, 1.0, 5.0, 40.0]),
        st.booleans(),
    )


# Entropy


@pytest.mark.parametrize("vocabulary", [2, 10, 49_152])
def test_uniform_distribution_has_the_logarithm_of_the_vocabulary(vocabulary: int) -> None:
    assert predictive_entropy(torch.full((vocabulary,), 3.0)).item() == pytest.approx(math.log(vocabulary), rel=1e-5)


def test_certain_token_has_no_entropy() -> None:
    assert predictive_entropy(torch.tensor([0.0, 1e4, 0.0])).item() == 0


def test_forbidden_tokens_do_not_count() -> None:
    forbidden = -math.inf  # what top-k, top-p and a forbidden end token make of logits
    assert predictive_entropy(torch.tensor([forbidden, 2.0, forbidden])).item() == 0
    assert predictive_entropy(torch.tensor([1.0, forbidden, 1.0])).item() == pytest.approx(math.log(2))


def test_equals_the_sum_over_probabilities() -> None:
    logits = random(4, 5, 50)
    expected = torch.zeros(4, 5)
    for row in range(4):
        for column in range(5):
            weights = [math.exp(logit) for logit in logits[row, column].tolist()]
            probabilities = [weight / sum(weights) for weight in weights]
            expected[row, column] = -sum(p * math.log(p) for p in probabilities)
    torch.testing.assert_close(predictive_entropy(logits), expected)


def test_positions_beyond_a_chunk_are_each_computed() -> None:
    logits = random(2 * distributions._ROWS + 3, 20)
    one_by_one = torch.stack([predictive_entropy(row, 0.7) for row in logits])
    torch.testing.assert_close(predictive_entropy(logits, 0.7), one_by_one)


@given(logit_rows(), st.floats(0.05, 5.0), st.floats(1.01, 4.0))
@settings(deadline=None, max_examples=60)
def test_entropy_never_falls_as_the_temperature_rises(logits: Tensor, temperature: float, factor: float) -> None:
    lower, higher = predictive_entropy(logits, temperature), predictive_entropy(logits, temperature * factor)
    assert (higher >= lower - 1e-5).all()


def test_temperature_divides_the_logits_also_one_a_position() -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.5, 1.0]])
    expected = torch.stack([predictive_entropy(logits[0] / 2), predictive_entropy(logits[1] / 0.25)])
    torch.testing.assert_close(predictive_entropy(logits, torch.tensor([2.0, 0.25])), expected)


def test_half_precision_logits_are_computed_in_float32() -> None:
    logits = random(3, 1000).bfloat16()
    entropy = predictive_entropy(logits)
    assert entropy.dtype == torch.float32
    torch.testing.assert_close(entropy, predictive_entropy(logits.double()))


# Matched temperature

shares = st.floats(0.02, 0.98)


def between(low: Tensor, high: Tensor, share: float) -> Tensor:
    return low + share * (high - low)


@given(logit_rows(), shares)
@settings(deadline=None, max_examples=60)
def test_matched_temperature_hits_its_target(logits: Tensor, share: float) -> None:
    tops = (logits == logits.amax(-1, keepdim=True)).sum(-1)
    low, high = tops.float().log().mean(), torch.tensor(math.log(logits.shape[-1]))
    if high - low < 1e-2:
        return  # all logits are equal: nothing can be matched
    target = between(low, high, share).item()
    temperature = match_temperature(logits, target)
    assert predictive_entropy(logits, temperature).mean().item() == pytest.approx(target, abs=1e-4)


@given(logit_rows(), shares)
@settings(deadline=None, max_examples=60)
def test_temperatures_per_position_hit_their_targets(logits: Tensor, share: float) -> None:
    tops = (logits == logits.amax(-1, keepdim=True)).sum(-1)
    logits = logits[tops < logits.shape[-1]]
    if len(logits) == 0:
        return
    low = (logits == logits.amax(-1, keepdim=True)).sum(-1).float().log()
    targets = between(low, torch.tensor(math.log(logits.shape[-1])), share)
    temperatures = match_temperature_per_position(logits, targets)
    torch.testing.assert_close(predictive_entropy(logits, temperatures), targets, atol=1e-4, rtol=0)


@pytest.mark.parametrize("gap", [1e-3, 1.0, 100.0])
def test_two_tokens_have_the_temperature_that_the_closed_form_gives(gap: float) -> None:
    p = 0.9
    target = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    expected = gap / math.log(p / (1 - p))  # from p = sigmoid(gap / T)
    assert match_temperature(torch.tensor([gap, 0.0]), target) == pytest.approx(expected, rel=1e-3)


def test_matching_ones_own_entropy_gives_temperature_one() -> None:
    logits = 3 * random(50, 200)
    assert match_temperature(logits, predictive_entropy(logits).mean().item()) == pytest.approx(1, abs=1e-4)


def test_matches_a_model_read_in_chunks_as_its_logits_held_whole() -> None:
    model, blocks = tiny_model(), torch.randint(0, 256, (3, 12))
    with torch.no_grad():
        logits = model(input_ids=blocks).logits[:, :-1]
    target = 0.9 * predictive_entropy(logits).mean().item()
    assert match_temperature(model, target, blocks) == pytest.approx(match_temperature(logits, target), rel=1e-4)


@pytest.mark.parametrize("target", [math.log(2), 0.0, math.log(5), 7.0])
def test_unreachable_target_is_refused_with_the_range(target: float) -> None:
    tied = torch.tensor([[2.0, 2.0, 1.0, 0.0, -1.0]])  # two tokens share the top: no temperature gets below ln 2
    with pytest.raises(ValueError, match=r"between 0\.6931 .* and 1\.6094"):
        match_temperature(tied, target)
    with pytest.raises(ValueError, match=r"between 0\.6931 .* and 1\.6094"):
        match_temperature_per_position(tied, torch.tensor([target]))


# Reading a model


class Scaled(torch.nn.Module):
    """A head that is more than a matrix, as of models that scale or cap their logits."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, hidden: Tensor) -> Tensor:
        return 3 * (hidden @ self.weight.T)


@pytest.mark.parametrize("plain", [True, False])
def test_streamed_logits_are_those_of_the_model(plain: bool) -> None:
    model, blocks = tiny_model(), torch.randint(0, 256, (3, 12))
    if not plain:
        model.lm_head = Scaled(model.lm_head.weight.detach())
    with torch.no_grad():
        expected = model(input_ids=blocks).logits[:, :-1].flatten(0, 1)
    parts = list(stream_logits(model, blocks, chunk=5))
    assert max(len(part) for part in parts) == 5
    torch.testing.assert_close(torch.cat(parts), expected, atol=1e-5, rtol=1e-4)


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
    assert deep_tail_share(ranks, mask=torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])) == (0.2, pytest.approx(1 / 3))


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
    base, tuned, blocks = tiny_model(0), tiny_model(1), torch.randint(0, 256, (3, 12))
    logits = [torch.cat(list(stream_logits(model, blocks))) for model in (base, tuned)]
    torch.testing.assert_close(static_bias(base, tuned, 9, blocks), static_bias(*logits, 9), atol=1e-5, rtol=1e-4)


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

NAN, INF = torch.tensor([[1.0, math.nan, 0.0]]), torch.tensor([[1.0, math.inf, 0.0]])
FINE = torch.tensor([[1.0, 2.0, 0.0]])


@pytest.mark.parametrize("logits", [NAN, INF, torch.full((1, 3), -math.inf)], ids=["nan", "inf", "all forbidden"])
@pytest.mark.parametrize(
    "call",
    [
        predictive_entropy,
        lambda logits: match_temperature(logits, 0.5),
        lambda logits: match_temperature_per_position(logits, torch.tensor([0.5])),
        lambda logits: token_ranks(logits, torch.tensor([0])),
        lambda logits: rank_shifts(FINE, logits),
        lambda logits: top1_agreement(logits, FINE),
        lambda logits: static_bias(FINE, logits, k=1),
        lambda logits: variance_explained(logits, FINE, torch.tensor([0])),
    ],
    ids=["entropy", "match", "per position", "ranks", "shifts", "agreement", "bias", "variance"],
)
def test_logits_that_are_no_numbers_are_refused(call: Callable[[Tensor], object], logits: Tensor) -> None:
    with pytest.raises(ValueError, match="nan or inf"):
        call(logits)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, torch.tensor([0.0])])
def test_temperature_that_is_not_positive_is_refused(temperature: float | Tensor) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        predictive_entropy(FINE, temperature)


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
    with pytest.raises(ValueError, match="does not fit a vocabulary of 3"):
        StaticBias(torch.zeros(2), 1.0)(torch.zeros(1, 1), FINE)


@pytest.mark.parametrize("ranks", [torch.ones(0), torch.ones(3)])
def test_empty_mask_is_refused(ranks: Tensor) -> None:
    with pytest.raises(ValueError, match="No position counts"):
        deep_tail_share(ranks, mask=torch.zeros(len(ranks)))


def test_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="mask has shape"):
        deep_tail_share(torch.ones(3), mask=torch.ones(2))


@pytest.mark.parametrize(("tokens", "message"), [([0, 1], "one token a position"), ([3], "Token ids go from 0 to 2")])
def test_tokens_that_do_not_fit_the_logits_are_refused(tokens: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_ranks(FINE, torch.tensor(tokens))


def test_targets_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="one target a position"):
        match_temperature_per_position(FINE, torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("blocks", [None, torch.zeros(0, 5), torch.zeros(2, 1)])
def test_model_without_texts_to_read_is_refused(blocks: Tensor | None) -> None:
    with pytest.raises(ValueError, match="give blocks"):
        match_temperature(tiny_model(), 0.5, blocks)


@pytest.mark.parametrize("contexts", [[0, 0, 0], [0, 0, 1], [0, 1]])
def test_texts_too_few_to_leave_one_out_are_refused(contexts: list[int]) -> None:
    logits = random(3, 5)
    with pytest.raises(ValueError, match="two texts with two positions"):
        variance_explained(logits, logits + 1, torch.tensor(contexts))
