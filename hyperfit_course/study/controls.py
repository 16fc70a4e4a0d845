"""What else could give the same? Rivals of hyperfitting that take one thing from it and leave the rest.

- the *order* of the tokens from one model and the *shape* of the distribution from another (chapter 03);
- a *static bias*: one number a token, read off the tokens that became more probable, or trained on the same texts
  (chapter 04);
- *damage*: a change of weights as large as the trained one, in random directions (chapter 06).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from scipy.optimize import root_scalar
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LogitsProcessor

from hyperfit_course.anatomy import CausalLM
from hyperfit_course.logits import at_positions, stream_logits
from hyperfit_course.reweighting import static_bias

BIAS_EPOCHS = 40  #: Passes over the training texts; the loss hardly falls after them.
BIAS_RATE = 0.1  #: Learning rate of Adam for the offsets, which are of the size of logits.
POSITIONS_AT_ONCE = 512  #: Positions a step of training the bias.


class ShapedLike(LogitsProcessor):
    """Gives a model's order of the tokens the probabilities of another model, the largest to the first, and so on.

    The decoded model keeps every rank. The other one, which reads the same text, gives the sorted probabilities, so
    that shape and order are taken apart without any temperature. Use one instance a call of
    :func:`~hyperfit_course.decoding.continue_prompts`.

    Args:
        reference: the model that gives the shape.
    """

    def __init__(self, reference: CausalLM) -> None:
        self.reference = reference
        self.cache: Any = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        new = input_ids if self.cache is None else input_ids[:, -1:]
        output = self.reference(input_ids=new.to(self.reference.device), past_key_values=self.cache, use_cache=True)
        self.cache = output.past_key_values
        allowed = output.logits[:, -1].to(scores).masked_fill(scores.isneginf(), -math.inf)
        shape = allowed.sort(dim=-1, descending=True).values
        return torch.empty_like(scores).scatter_(-1, scores.argsort(dim=-1, descending=True, stable=True), shape)


@torch.no_grad()
def probable_bias(base: CausalLM, tuned: CausalLM, texts: Tensor, k: int = 500) -> Tensor:
    """The static bias of the tokens that became more probable: one offset a token, 0 for all but ``k``.

    It holds the mean change of the centred logit, as :func:`~hyperfit_course.reweighting.static_bias` does, for the
    ``k`` tokens whose mean probability gained most. Chosen by the ranks that they gained, as there, they are tokens
    that nobody writes: who gains many ranks stood very far down.

    Args:
        base, tuned: models with one tokenizer.
        texts: token ids to average over, shape (n, length).
        k: number of tokens with an offset, from 1 to the vocabulary's size.

    Returns:
        Shape (vocabulary,), float32.
    """
    change = static_bias(base, tuned, None, texts)
    gain = torch.zeros_like(change, dtype=torch.float64)
    for before, after in zip(stream_logits(base, texts), stream_logits(tuned, texts), strict=True):
        gain += (after.softmax(dim=-1) - before.softmax(dim=-1)).sum(dim=0, dtype=torch.float64)
    if not 1 <= k <= len(gain):
        raise ValueError(f"k={k} tokens cannot have an offset: choose k between 1 and the vocabulary's {len(gain)}.")
    promoted = gain.topk(k).indices
    return torch.zeros_like(change).index_copy(0, promoted, change[promoted])


def learned_bias(model: CausalLM, texts: Tensor, seed: int = 0) -> Tensor:
    """The offsets of the logits that make some texts most probable under a frozen model: one a token.

    The strongest static preference that these texts can teach: the loss is convex in the offsets.

    Args:
        model: it is not changed.
        texts: token ids, shape (n, length).
        seed: decides the order of the positions.

    Returns:
        Shape (vocabulary,), float32, on the CPU, for :class:`~hyperfit_course.reweighting.StaticBias`.
    """
    logits = torch.cat([part.cpu() for part in stream_logits(model, texts)])
    targets = texts[:, 1:].flatten().cpu()
    bias = nn.Parameter(torch.zeros(logits.shape[-1]))
    optimizer = torch.optim.Adam([bias], lr=BIAS_RATE)
    order = torch.Generator().manual_seed(seed)
    for _ in tqdm(range(BIAS_EPOCHS), desc="learned bias", unit="epoch"):
        for index in torch.randperm(len(targets), generator=order).split(POSITIONS_AT_ONCE):
            loss = F.cross_entropy(logits[index] + bias, targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return bias.detach()


def kl_from(base: CausalLM, model: CausalLM, texts: Tensor) -> float:
    """Mean Kullback-Leibler divergence of a model's next-token distributions from the base model's, in nats.

    It is the mean over the positions of the texts, shape (n, length), of ``sum p_base (ln p_base - ln p_model)``.
    """
    return at_positions(kl_of_logits, base, model, texts=texts).double().mean().item()


def kl_of_logits(base: Tensor, model: Tensor) -> Tensor:
    """The divergence at each position, in nats, shape (...), for logits of shape (..., vocabulary)."""
    before, after = base.log_softmax(dim=-1), model.log_softmax(dim=-1)
    return (before.exp() * (before - after)).sum(dim=-1)


@torch.no_grad()
def damage(model: PeftModel, base: CausalLM, texts: Tensor, seed: int) -> float:
    """Turn the change that the adapters make into random directions, and scale it to the same divergence from the base.

    Of each product ``B A`` the singular values stay, up to one factor for all, and the singular vectors are drawn anew:
    what was learned is gone, and the size of the change is not. The model is changed.

    Args:
        model: with trained adapters.
        base: the same model without.
        texts: held-out texts, shape (n, length), on which the divergence is the same afterwards (to 2 %).

    Returns:
        The factor.

    Raises:
        ValueError: no factor up to 100 gives the divergence, or the adapters change nothing.
    """
    wanted = kl_from(base, model, texts)
    if wanted <= 0:
        raise ValueError("The adapters change no prediction, so there is nothing to turn: train the model first.")
    draw = torch.Generator().manual_seed(seed)
    factors = {name: weight for name, weight in model.named_parameters() if "lora_A" in name or "lora_B" in name}
    for weight in factors.values():
        tall = weight if weight.shape[0] >= weight.shape[1] else weight.T
        size = torch.linalg.qr(tall.double().cpu()).R
        random = torch.linalg.qr(torch.randn(tall.shape, generator=draw, dtype=torch.double)).Q
        turned = (random @ size).to(weight)
        weight.copy_(turned if tall.shape == weight.shape else turned.T)
    outer = {name: weight.clone() for name, weight in factors.items() if "lora_B" in name}

    def gap(log_factor: float) -> float:
        for name, weight in outer.items():
            factors[name].copy_(weight * math.exp(log_factor))
        difference = math.log(kl_from(base, model, texts) / wanted)
        return difference if abs(difference) > 0.02 else 0.0  # near enough: each reading takes seconds

    low, high = math.log(0.1), math.log(100)
    if gap(low) > 0 or gap(high) < 0:
        raise ValueError("No random change of up to 100 times the size is as far from the base: train the model first.")
    found = root_scalar(gap, bracket=(low, high), method="brentq", xtol=1e-3).root
    gap(found)
    return math.exp(found)
