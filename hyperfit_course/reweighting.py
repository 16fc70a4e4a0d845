"""Which token wins, and would a fixed preference explain it? Ranks, and offsets that are the same in all contexts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor

from hyperfit_course.anatomy import CausalLM
from hyperfit_course.logits import by_rows, check_numbers, check_one_each, logit_reader


def token_ranks(logits: Tensor, tokens: Tensor) -> Tensor:
    """Ranks of given tokens among all, 1 being the most probable one: the token that greedy decoding takes.

    Of tokens with equal logits the one with the smaller id comes first, as with ``argmax``.

    Args:
        logits: shape (..., vocabulary).
        tokens: one token id a position, shape (...).

    Returns:
        Shape (...), integers from 1 to the vocabulary's size.

    Raises:
        ValueError: the shapes do not fit, an id is not in the vocabulary, or logits are not numbers.
    """
    vocabulary = logits.shape[-1]
    check_one_each(logits, tokens, "token")
    if len(outside := tokens[(tokens < 0) | (tokens >= vocabulary)]):
        raise ValueError(
            f"The token id {int(outside[0])} is not among those of these logits, 0 to {vocabulary - 1}: use "
            "the tokenizer of their model."
        )
    check_numbers(logits)
    return by_rows(_ranks, logits, tokens)


def _ranks(logits: Tensor, tokens: Tensor) -> Tensor:
    own = logits.gather(-1, tokens)
    earlier = torch.arange(logits.shape[-1], device=logits.device) < tokens
    return 1 + ((logits > own) | ((logits == own) & earlier)).sum(dim=-1)


def rank_shifts(base_logits: Tensor, tuned_logits: Tensor) -> Tensor:
    """For every token the ranks that it gained: positive where the tuned model ranks it higher than the base.

    Returns:
        Shape (..., vocabulary), integers, for logits of the same positions, shape (..., vocabulary).

    Raises:
        ValueError: the shapes differ, or logits are not numbers.
    """
    _check_pair(base_logits, tuned_logits)
    return _all_ranks(base_logits) - _all_ranks(tuned_logits)


def _all_ranks(logits: Tensor) -> Tensor:
    order = logits.argsort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(1, logits.shape[-1] + 1, device=logits.device, dtype=torch.int32)
    return torch.empty_like(order, dtype=torch.int32).scatter_(-1, order, ranks.expand(order.shape))


def top1_agreement(base_logits: Tensor, tuned_logits: Tensor) -> Tensor:
    """Whether both models put the same token first; the mean is the top-1 agreement of Li et al. (2026).

    Returns:
        Shape (...), booleans, for logits of shape (..., vocabulary).

    Raises:
        ValueError: the shapes differ, or logits are not numbers.
    """
    _check_pair(base_logits, tuned_logits)
    return base_logits.argmax(dim=-1) == tuned_logits.argmax(dim=-1)


class DeepTail(NamedTuple):
    """How often a choice comes from deep in the base model's ranking."""

    of_all: float  #: Share of all positions.
    of_overrides: float
    """Share of the positions where the choice is not the base model's first; ``nan`` where there is none."""


def deep_tail_share(ranks: Tensor, threshold: int = 10) -> DeepTail:
    """Share of chosen tokens that the base model ranks below its first ``threshold``.

    Li et al. (2026) report such a share for threshold 10. Of which choices is not clear, so both are given.

    Args:
        ranks: base ranks of the tokens that the other model chose, from :func:`token_ranks`, any shape, not empty.
        threshold: the last rank that is not deep.
    """
    if ranks.numel() == 0:
        raise ValueError("There are no ranks to take a share of: give those of one position or more.")
    deep, overrides = int((ranks > threshold).sum()), int((ranks > 1).sum())
    return DeepTail(deep / ranks.numel(), deep / overrides if overrides else math.nan)


@torch.no_grad()
def static_bias(
    base: Tensor | CausalLM, tuned: Tensor | CausalLM, k: int | None = 500, texts: Tensor | None = None
) -> Tensor:
    """One offset a token, the same in all contexts: the fixed preference that hyperfitting might be.

    It holds the mean change of the logit for the ``k`` tokens that gained the most ranks on average, and 0 for the
    others. Source: the static injection of Li et al. (2026), who take k = 500. A constant added to all logits of a
    position changes nothing, so each position's logits are centred first; what they do about it is not known to us.

    Args:
        base, tuned: logits of the same positions, shape (..., vocabulary), or two models.
        k: number of tokens with an offset; ``None`` gives each token its mean change, whatever its rank.
        texts: where models are given, the texts to average over, shape (n, length).

    Returns:
        Shape (vocabulary,), float32.

    Raises:
        ValueError: ``k`` does not fit the vocabulary, the shapes differ, or logits are not numbers.
    """
    gains, changes, positions = [], [], 0
    for before, after in zip(logit_reader(base, texts)(), logit_reader(tuned, texts)(), strict=True):
        size = before.shape[-1]
        if k is not None and not 1 <= k <= size:
            raise ValueError(f"k={k} tokens cannot have an offset: choose k between 1 and the vocabulary's {size}.")
        changes.append(_centred_change(before, after).sum(dim=0, dtype=torch.float64))
        if k is not None:
            gains.append(rank_shifts(before, after).sum(dim=0, dtype=torch.float64))
        positions += len(before)
    change = torch.stack(changes).sum(dim=0) / positions
    if k is None:
        return change.float()
    promoted = torch.stack(gains).sum(dim=0).topk(k).indices
    return torch.zeros_like(change).index_copy(0, promoted, change[promoted]).float()


class StaticBias(LogitsProcessor):
    """Adds ``alpha`` times the same offsets to the logits of every step, for
    :func:`~hyperfit_course.decoding.continue_prompts`; ``bias`` has shape (vocabulary,), as of :func:`static_bias`."""

    def __init__(self, bias: Tensor, alpha: float) -> None:
        self.offset = alpha * bias

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if scores.shape[-1] != len(self.offset):
            raise ValueError(
                f"A bias of {len(self.offset)} numbers does not fit {scores.shape[-1]} tokens: compute it anew."
            )
        return scores + self.offset.to(scores)


def variance_explained(
    base_logits: Tensor, tuned_logits: Tensor, contexts: Tensor, ranks: Sequence[int] = (1, 10, 100)
) -> dict[str, float]:
    """How much of the change of the logits would an offset explain that is the same everywhere? Or in one text?

    The change is a matrix, positions by tokens, each row centred. An explanation is a matrix of the same shape, and
    explains ``1 - |change - explanation|^2 / |change|^2`` of it.

    - ``static``: one offset a token, the mean over the positions of all *other* texts. Since a text does not
      contribute to its own offset, an effect without a static part is explained by about 0, or slightly less.
    - ``per context``: one offset a token and text, the mean over the *other* positions of the text.
    - ``rank r``: the best matrix of rank r. It has seen all the changes, so this is an upper bound: with r = 1,
      a single direction in the vocabulary whose strength depends on the position.

    Args:
        base_logits, tuned_logits: of the same positions, shape (n, vocabulary); also of a part of the vocabulary.
        contexts: for each position the number of its text, shape (n,).
        ranks: the values of r.

    Returns:
        Shares, at most 1, by the names above.

    Raises:
        ValueError: the shapes do not fit, there are fewer than two texts, or one has a single position.
    """
    change = _centred_change(base_logits, tuned_logits).double()
    names, which, sizes = contexts.to(change.device).unique(return_inverse=True, return_counts=True)
    if contexts.shape != change.shape[:1] or len(names) < 2 or int(sizes.min()) < 2:
        raise ValueError(
            "Name the text of each position, at least two texts with two positions each: contexts of shape "
            f"({len(change)},), not {tuple(contexts.shape)} with {len(names)} texts."
        )
    total = change.square().sum()
    sums = change.new_zeros(len(names), change.shape[1]).index_add_(0, which, change)
    others = (sums.sum(dim=0) - sums) / (len(change) - sizes)[:, None]
    siblings = (sums[which] - change) / (sizes[which] - 1)[:, None]
    shares = {
        "static": 1 - (change - others[which]).square().sum() / total,
        "per context": 1 - (change - siblings).square().sum() / total,
    }
    if ranks:
        energies = torch.linalg.eigvalsh(change @ change.T).flip(0).clamp(min=0)
        shares |= {f"rank {rank}": energies[:rank].sum() / total for rank in ranks}
    return {name: share.item() for name, share in shares.items()}


def _centred_change(base_logits: Tensor, tuned_logits: Tensor) -> Tensor:
    _check_pair(base_logits, tuned_logits)
    change = tuned_logits.float() - base_logits.float()
    return change - change.mean(dim=-1, keepdim=True)


def _check_pair(base_logits: Tensor, tuned_logits: Tensor) -> None:
    base, tuned = tuple(base_logits.shape), tuple(tuned_logits.shape)
    if base[-1] != tuned[-1]:
        raise ValueError(
            f"The models have vocabularies of {base[-1]} and {tuned[-1]} tokens: compare models with one tokenizer."
        )
    if base != tuned:
        raise ValueError(f"Logits of shapes {base} and {tuned} are not of the same positions: read the same texts.")
    check_numbers(base_logits)
    check_numbers(tuned_logits)
