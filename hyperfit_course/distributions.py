"""How sharp is a next-token distribution?"""

from __future__ import annotations

import torch
from torch import Tensor


def predictive_entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Shannon entropy of the next-token distributions, in nats.

    0 means that one token has all the probability; the logarithm of the vocabulary's size, that all have the same.

    Args:
        logits: shape (..., vocabulary).
        temperature: the logits are divided by it.

    Returns:
        Shape (...), float32.
    """
    log_probabilities = (logits.float() / temperature).log_softmax(dim=-1)
    # A forbidden token has the logit -inf and adds nothing; 0 times -inf would be nan.
    return -(log_probabilities.exp() * log_probabilities.clamp(min=torch.finfo(torch.float32).min)).sum(dim=-1)
