from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from conftest import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import FINE, NO_NUMBERS, logit_rows, random, sharper
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from hyperfit_course.decoding import continue_prompts
from hyperfit_course.logits import ROWS
from hyperfit_course.temperature import (
    EntropyMatched,
    match_temperature,
    match_temperature_per_position,
    predictive_entropy,
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
    logits = random(2 * ROWS + 3, 20)
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
    model, texts = tiny_model(), torch.randint(0, 256, (3, 12))
    with torch.no_grad():
        logits = model(input_ids=texts).logits[:, :-1]
    target = 0.9 * predictive_entropy(logits).mean().item()
    assert match_temperature(model, target, texts) == pytest.approx(match_temperature(logits, target), rel=1e-4)


@pytest.mark.parametrize("target", [math.log(2), 0.0, math.log(5), 7.0])
def test_unreachable_target_is_refused_with_the_range(target: float) -> None:
    tied = torch.tensor([[2.0, 2.0, 1.0, 0.0, -1.0]])  # two tokens share the top: no temperature gets below ln 2
    with pytest.raises(ValueError, match=r"between 0\.6931 .* and 1\.6094"):
        match_temperature(tied, target)
    with pytest.raises(ValueError, match=r"between 0\.6931 .* and 1\.6094"):
        match_temperature_per_position(tied, torch.tensor([target]))


# Decoding as sharply as another model

NEW = 12


@pytest.fixture
def model() -> PreTrainedModel:
    return sharper(tiny_model(), 8)


@pytest.fixture
def prompts() -> Tensor:
    return torch.randint(0, 256, (3, 10), generator=torch.Generator().manual_seed(0))


def test_entropy_matched_steps_are_as_sharp_as_the_reference_in_the_same_context(prompts: Tensor) -> None:
    model, reference = sharper(tiny_model(0), 4), sharper(tiny_model(1), 6)
    seen: list[Tensor] = []

    class Record(LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            with torch.no_grad():
                wanted = reference(input_ids=input_ids, use_cache=False).logits[:, -1]
            wanted[:, 256] = -torch.inf
            seen.append(predictive_entropy(scores) - predictive_entropy(wanted))
            return scores

    processors = LogitsProcessorList([EntropyMatched(reference), Record()])
    continue_prompts(model, prompts, NEW, sample=True, logits_processor=processors)
    assert len(seen) == NEW
    assert torch.cat(seen).abs().max() < 2e-4


def test_entropy_matching_changes_no_order(model: PreTrainedModel, prompts: Tensor) -> None:
    processors = LogitsProcessorList([EntropyMatched(sharper(tiny_model(1), 6))])
    matched = continue_prompts(model, prompts, NEW, logits_processor=processors)
    assert torch.equal(matched, continue_prompts(model, prompts, NEW))


def test_entropy_matching_gets_as_sure_as_it_can_where_logits_are_tied() -> None:
    reference = sharper(tiny_model(1), 1000)  # certain of every token
    tied = torch.zeros(1, 257)
    tied[0, [5, 6]] = 3.0
    matched = EntropyMatched(reference)(torch.tensor([[65, 66]]), tied)
    assert predictive_entropy(matched).item() == pytest.approx(math.log(2), abs=1e-3)


# Bad input


@pytest.mark.parametrize("logits", NO_NUMBERS.values(), ids=NO_NUMBERS)
@pytest.mark.parametrize(
    "call",
    [
        predictive_entropy,
        lambda logits: match_temperature(logits, 0.5),
        lambda logits: match_temperature_per_position(logits, torch.tensor([0.5])),
    ],
    ids=["entropy", "match", "per position"],
)
def test_logits_that_are_no_numbers_are_refused(call: Callable[[Tensor], object], logits: Tensor) -> None:
    with pytest.raises(ValueError, match="nan or inf"):
        call(logits)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, torch.tensor([0.0])])
def test_temperature_that_is_not_positive_is_refused(temperature: float | Tensor) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        predictive_entropy(FINE, temperature)


def test_targets_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="one target a position"):
        match_temperature_per_position(FINE, torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("texts", [None, torch.zeros(0, 5), torch.zeros(2, 1)])
def test_model_without_texts_to_read_is_refused(texts: Tensor | None) -> None:
    with pytest.raises(ValueError, match="give texts"):
        match_temperature(tiny_model(), 0.5, texts)
