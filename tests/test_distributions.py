from __future__ import annotations

import math

import pytest
import torch

from hyperfit_course.distributions import predictive_entropy


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
    logits = torch.randn(4, 5, 50, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(4, 5)
    for row in range(4):
        for column in range(5):
            weights = [math.exp(logit) for logit in logits[row, column].tolist()]
            probabilities = [weight / sum(weights) for weight in weights]
            expected[row, column] = -sum(p * math.log(p) for p in probabilities)
    torch.testing.assert_close(predictive_entropy(logits), expected)


def test_rises_with_the_temperature_between_its_bounds() -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    entropies = [predictive_entropy(logits, temperature).item() for temperature in (1e-3, 0.3, 0.7, 1.0, 1.5, 1e3)]
    assert entropies == sorted(entropies)
    assert entropies[0] == pytest.approx(0, abs=1e-4)
    assert entropies[-1] == pytest.approx(math.log(50), abs=1e-4)


def test_temperature_divides_the_logits() -> None:
    logits = torch.tensor([1.0, 2.0, 4.0])
    torch.testing.assert_close(predictive_entropy(logits, 2.0), predictive_entropy(logits / 2))


def test_half_precision_logits_are_computed_in_float32() -> None:
    logits = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    entropy = predictive_entropy(logits)
    assert entropy.dtype == torch.float32
    torch.testing.assert_close(entropy, predictive_entropy(logits.double()))
