"""How sharp is a next-token distribution, and which token wins in it?

Everything here is about logits, the scores of all tokens at a position. With a vocabulary of 49,152 tokens the
logits of 1,000 positions are 200 MB, so a model's are never held for a whole text: :func:`stream_logits` yields them
a few positions at a time, and what is kept is a number or two a position.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import elementwise, root_scalar
from torch import Tensor
from transformers import LogitsProcessor

from hyperfit_course.anatomy import CausalLM, body_of, unwrapped
from hyperfit_course.losses import has_plain_head

CHUNK = 128
"""Positions whose logits are computed at a time. 128 x 49,152 in float32 are 25 MB."""
_ROWS = 32
"""Positions that are measured at a time: their logits, 6 MB, and the copies stay in a processor's cache."""
_MARGIN = 1e-6
"""Nats: a target this near to what T = 0 or infinity would give counts as out of reach."""
_WIDEST = 50 * math.log(2)
"""Largest logarithm of a temperature (or of its inverse) that is tried: float32 says nothing beyond."""


@torch.no_grad()
def stream_logits(model: CausalLM, blocks: Tensor, chunk: int = CHUNK) -> Iterator[Tensor]:
    """A model's next-token logits at every position of the blocks that has a next token, a few at a time.

    Args:
        model: a causal language model.
        blocks: token ids, shape (n, size).
        chunk: positions at a time.

    Yields:
        Float32, shape (at most ``chunk``, vocabulary). Joined they have shape (n * (size - 1), vocabulary), block
        after block, whatever the model: two models can be read side by side with ``zip``.
    """
    yield from _reader(model, blocks, chunk)()


@torch.no_grad()
def _reader(source: Tensor | CausalLM, blocks: Tensor | None, chunk: int = CHUNK) -> Callable[[], Iterator[Tensor]]:
    """A function that starts to read the logits of the source from the first position, as often as it is called."""
    if isinstance(source, Tensor):
        rows = source.reshape(-1, source.shape[-1])
        return lambda: (part.float() for part in rows.split(chunk))
    if blocks is None or blocks.ndim != 2 or len(blocks) == 0 or blocks.shape[1] < 2:
        raise ValueError("To read a model's logits, give blocks: token ids of shape (n, size) with size 2 or more.")
    pieces = [block[None].to(source.device) for block in blocks]
    if not has_plain_head(source):
        # Such a model runs again at each reading: slower, but its logits are right.
        return lambda: (
            part.float()
            for piece in pieces
            for part in source(input_ids=piece, use_cache=False).logits[0, :-1].split(chunk)
        )
    # The final hidden states are small, 85 times smaller than the logits: they are computed once.
    states = torch.cat([body_of(source)(input_ids=piece, use_cache=False)[0][0, :-1] for piece in pieces])
    head = unwrapped(source).get_output_embeddings().weight.detach()
    return lambda: ((part @ head.T).float() for part in states.split(chunk))


@torch.no_grad()
def predictive_entropy(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Shannon entropy of the next-token distributions, in nats.

    0 means that one token has all the probability; the logarithm of the vocabulary's size, that all have the same.
    Goes through the positions in chunks, in float32.

    Args:
        logits: shape (..., vocabulary). Forbidden tokens, with the logit -inf, do not count.
        temperature: the logits are divided by it; one number, or one a position, shape (...).

    Returns:
        Shape (...), float32.

    Raises:
        ValueError: a temperature is not positive, or logits are not numbers.
    """
    temperatures = torch.as_tensor(temperature, dtype=torch.float32, device=logits.device)
    if not (temperatures > 0).all():
        raise ValueError("A temperature must be positive: it divides the logits. For T towards 0, decode greedily.")
    entropy = _by_rows(_entropy, logits, temperatures.expand(logits.shape[:-1]))
    if not entropy.isfinite().all():
        raise ValueError(_NOT_NUMBERS)
    return entropy


_NOT_NUMBERS = (
    "Logits hold nan or inf, so they are no distribution: look at the model's weights and its precision (only -inf is "
    "allowed, for forbidden tokens)."
)


def _by_rows(measure: Callable[[Tensor, Tensor], Tensor], logits: Tensor, numbers: Tensor) -> Tensor:
    """Apply a measure to a few positions at a time: logits (..., vocabulary) and one number a position, (...)."""
    rows, each = logits.reshape(-1, logits.shape[-1]), numbers.reshape(-1, 1)
    parts = [measure(part, number) for part, number in zip(rows.split(_ROWS), each.split(_ROWS), strict=True)]
    return torch.cat(parts).reshape(numbers.shape)


def _entropy(logits: Tensor, temperature: Tensor) -> Tensor:
    # With weights w = exp(s) and their sum Z, the probabilities are w / Z and the entropy is ln Z - sum(w s) / Z.
    # Below -200, and for forbidden tokens, w is 0 in float32, and 0 times -inf would be nan.
    scores = logits.float()
    scores = ((scores - scores.amax(dim=-1, keepdim=True)) / temperature).clamp_(min=-200)
    weights = scores.exp()
    total = weights.sum(dim=-1)
    return total.log() - weights.mul_(scores).sum(dim=-1) / total


@torch.no_grad()
def match_temperature(source: Tensor | CausalLM, target_entropy: float, blocks: Tensor | None = None) -> float:
    """The temperature T* at which the *mean* entropy of a model is the target's, to 1e-4 nats.

    The entropy rises with the temperature, so there is one such T*, and a bracket around it and Brent's method find
    it. Source of the idea: Li et al. (2026), who compare a base model at T* with a hyperfitted one.

    Args:
        source: logits, shape (..., vocabulary), or a model.
        target_entropy: in nats.
        blocks: where the source is a model, the texts over whose positions the mean is taken, shape (n, size).

    Raises:
        ValueError: no temperature reaches the target (the message says what can be reached), or logits are not
            numbers.
    """
    read = _reader(source, blocks)
    bounds = torch.cat([torch.stack(entropy_bounds(part)) for part in read()], dim=1).double().mean(dim=1)
    if not bounds[0] + _MARGIN < target_entropy < bounds[1] - _MARGIN:
        raise ValueError(_unreachable(target_entropy, *bounds.tolist()))

    @functools.cache
    def gap(log_temperature: float) -> float:
        parts = [predictive_entropy(part, math.exp(log_temperature)) for part in read()]
        difference = torch.cat(parts).double().mean().item() - target_entropy
        return difference if abs(difference) > 2e-5 else 0.0  # near enough: each reading of a model takes seconds

    edge, step = 0.0, math.log(2) if gap(0.0) < 0 else -math.log(2)
    while gap(edge) * gap(edge + step) > 0:
        edge += step
        if abs(edge) > _WIDEST:
            raise ValueError(_unreachable(target_entropy, *bounds.tolist()))
    return math.exp(root_scalar(gap, bracket=(edge, edge + step), method="brentq", xtol=1e-7).root)


def match_temperature_per_position(logits: Tensor, target_entropy: Tensor) -> Tensor:
    """One temperature a position, at which the entropy *there* is the target's, to 1e-4 nats.

    Args:
        logits: shape (..., vocabulary).
        target_entropy: in nats, shape (...).

    Returns:
        Shape (...), float32.

    Raises:
        ValueError: the shapes do not fit, a target cannot be reached, or logits are not numbers.
    """
    if target_entropy.shape != logits.shape[:-1]:
        raise ValueError(
            f"Logits of shape {tuple(logits.shape)} need one target a position, shape {tuple(logits.shape[:-1])}, not "
            f"{tuple(target_entropy.shape)}."
        )
    rows, targets = logits.reshape(-1, logits.shape[-1]), target_entropy.reshape(-1)
    low, high = entropy_bounds(rows)
    outside = (~((low + _MARGIN < targets) & (targets < high - _MARGIN))).nonzero().flatten().tolist()
    if outside:
        first = outside[0]
        raise ValueError(_unreachable(targets[first].item(), low[first].item(), high[first].item()))

    def gap(log_temperature: np.ndarray, position: np.ndarray) -> np.ndarray:
        index = torch.from_numpy(position.astype(np.int64)).to(rows.device)
        temperatures = torch.from_numpy(np.exp(log_temperature)).to(rows.device)
        return (predictive_entropy(rows[index], temperatures) - targets[index]).double().cpu().numpy()

    positions = (np.arange(len(rows)),)
    around = elementwise.bracket_root(gap, -math.log(2), math.log(2), xmin=-_WIDEST, xmax=_WIDEST, args=positions)
    found = elementwise.find_root(gap, around.bracket, args=positions, tolerances={"fatol": 1e-5})
    lost = (~found.success).nonzero()[0].tolist()
    if lost:
        raise ValueError(_unreachable(targets[lost[0]].item(), low[lost[0]].item(), high[lost[0]].item()))
    return torch.from_numpy(np.exp(found.x)).float().to(logits.device).reshape(target_entropy.shape)


def entropy_bounds(logits: Tensor) -> tuple[Tensor, Tensor]:
    """What the entropy tends to as T goes to 0 (only ties for the top remain) and to infinity (all are equal).

    Args:
        logits: shape (..., vocabulary).

    Returns:
        Lower and upper bound in nats, each of shape (...).

    Raises:
        ValueError: logits are not numbers.
    """
    top = logits.amax(dim=-1, keepdim=True)
    if not top.isfinite().all():
        raise ValueError(_NOT_NUMBERS)
    return (logits == top).sum(-1).float().log(), logits.isfinite().sum(-1).float().log()


def _unreachable(target: float, low: float, high: float) -> str:
    return (
        f"No temperature gives an entropy of {target:.4f} nats here: it lies between {low:.4f} (T towards 0) and "
        f"{high:.4f} (T towards infinity), both excluded. Choose a target well in between."
    )


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
    if tokens.shape != logits.shape[:-1]:
        raise ValueError(
            f"Logits of shape {tuple(logits.shape)} need one token a position, shape {tuple(logits.shape[:-1])}, not "
            f"{tuple(tokens.shape)}."
        )
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
        raise ValueError(f"Token ids go from 0 to {vocabulary - 1} here: these tokens are another tokenizer's.")
    entropy_bounds(logits)
    return _by_rows(_ranks, logits, tokens)


def _ranks(logits: Tensor, tokens: Tensor) -> Tensor:
    own = logits.gather(-1, tokens)
    earlier = torch.arange(logits.shape[-1], device=logits.device) < tokens
    return 1 + ((logits > own) | ((logits == own) & earlier)).sum(dim=-1)


def rank_shifts(base_logits: Tensor, tuned_logits: Tensor) -> Tensor:
    """For every token the ranks that it gained: positive where the tuned model ranks it higher than the base.

    Args:
        base_logits, tuned_logits: of the same positions, shape (..., vocabulary).

    Returns:
        Shape (..., vocabulary), integers.

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

    of_all: float
    """Share of all positions."""
    of_overrides: float
    """Share of the positions where the choice is not the base model's first; ``nan`` where there is none."""


def deep_tail_share(ranks: Tensor, threshold: int = 10, mask: Tensor | None = None) -> DeepTail:
    """Share of chosen tokens that the base model ranks below its first ``threshold``.

    Li et al. (2026) report such a share for threshold 10. Whether of all choices or of the overriding ones, the notes
    on the paper do not agree, so both are given.

    Args:
        ranks: base ranks of the tokens that the other model chose, from :func:`token_ranks`, any shape.
        threshold: the last rank that is not deep.
        mask: which positions count, of the same shape; all without it.

    Raises:
        ValueError: the mask has another shape, or no position counts.
    """
    if mask is not None and mask.shape != ranks.shape:
        raise ValueError(f"The mask has shape {tuple(mask.shape)}, but the ranks have {tuple(ranks.shape)}.")
    counted = ranks.flatten() if mask is None else ranks[mask.bool()]
    if counted.numel() == 0:
        raise ValueError("No position counts: the ranks are empty or the mask is false everywhere.")
    deep, overrides = int((counted > threshold).sum()), int((counted > 1).sum())
    return DeepTail(deep / counted.numel(), deep / overrides if overrides else math.nan)


@torch.no_grad()
def static_bias(
    base: Tensor | CausalLM, tuned: Tensor | CausalLM, k: int | None = 500, blocks: Tensor | None = None
) -> Tensor:
    """One offset a token, the same in all contexts: the fixed preference that hyperfitting might be.

    It holds the mean change of the logit for the ``k`` tokens that gained the most ranks on average, and 0 for the
    others. Source: the static injection of Li et al. (2026), who take k = 500. A constant added to all logits of a
    position changes nothing, so each position's logits are centred first; what they do about it is not known to us.

    Args:
        base, tuned: logits of the same positions, shape (..., vocabulary), or two models.
        k: number of tokens with an offset; ``None`` gives each token its mean change, whatever its rank.
        blocks: where models are given, the texts to average over, shape (n, size).

    Returns:
        Shape (vocabulary,), float32.

    Raises:
        ValueError: ``k`` does not fit the vocabulary, the shapes differ, or logits are not numbers.
    """
    gains, changes, positions = [], [], 0
    for before, after in zip(_reader(base, blocks)(), _reader(tuned, blocks)(), strict=True):
        vocabulary = before.shape[-1]
        if k is not None and not 1 <= k <= vocabulary:
            raise ValueError(
                f"k={k} tokens cannot have an offset: choose k between 1 and the vocabulary's {vocabulary}."
            )
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
    """Adds ``alpha`` times the same offsets to the logits of every step, for :meth:`continue_prompts`.

    Args:
        bias: shape (vocabulary,), from :func:`static_bias`.
        alpha: 0 leaves the model as it is.
    """

    def __init__(self, bias: Tensor, alpha: float) -> None:
        self.offset = alpha * bias

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if scores.shape[-1] != len(self.offset):
            raise ValueError(f"A bias for {len(self.offset)} tokens does not fit a vocabulary of {scores.shape[-1]}.")
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
    if base_logits.shape[-1] != tuned_logits.shape[-1]:
        raise ValueError(
            f"The models have vocabularies of {base_logits.shape[-1]} and {tuned_logits.shape[-1]} tokens: compare "
            "models with one tokenizer."
        )
    if base_logits.shape != tuned_logits.shape:
        raise ValueError(
            f"Logits of shapes {tuple(base_logits.shape)} and {tuple(tuned_logits.shape)} are not of the "
            "same positions."
        )
    for logits in (base_logits, tuned_logits):
        if not logits.amax(dim=-1).isfinite().all():
            raise ValueError(_NOT_NUMBERS)
