"""Answers to the exercises on chapter 04."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def ranks_from_zero(logits: Tensor, tokens: Tensor) -> Tensor:
    return (logits > logits.gather(-1, tokens.unsqueeze(-1))).sum(-1)


def ranks_from_below(logits: Tensor, tokens: Tensor) -> Tensor:
    return 1 + (logits < logits.gather(-1, tokens.unsqueeze(-1))).sum(-1)


def ranks_all_best(logits: Tensor, tokens: Tensor) -> Tensor:
    return 1 + (logits > logits.gather(-1, tokens.unsqueeze(-1))).sum(-1)


def ranks_all_worst(logits: Tensor, tokens: Tensor) -> Tensor:
    return (logits >= logits.gather(-1, tokens.unsqueeze(-1))).sum(-1)


def ranks_larger_id_first(logits: Tensor, tokens: Tensor) -> Tensor:
    order = logits.flip(-1).argsort(dim=-1, descending=True, stable=True)
    return 1 + (order == (logits.shape[-1] - 1 - tokens).unsqueeze(-1)).int().argmax(-1)


def ranks_of_first_position(logits: Tensor, tokens: Tensor) -> Tensor:
    order = logits.flatten(0, -2)[0].argsort(descending=True, stable=True)
    return 1 + (order == tokens.unsqueeze(-1)).int().argmax(-1)


def ranks_by_sorting(logits: Tensor, tokens: Tensor) -> Tensor:
    order = logits.argsort(dim=-1, descending=True, stable=True)
    return 1 + (order == tokens.unsqueeze(-1)).int().argmax(-1)


Shares = tuple[float, float]


def tail_includes_threshold(ranks: Tensor, threshold: int) -> Shares:
    deep = (ranks >= threshold).sum().item()
    return deep / ranks.numel(), deep / max(1, (ranks > 1).sum().item())


def tail_counts(ranks: Tensor, threshold: int) -> Shares:
    deep = float((ranks > threshold).sum())
    return deep, deep


def tail_twice_of_all(ranks: Tensor, threshold: int) -> Shares:
    share = (ranks > threshold).float().mean().item()
    return share, share


def tail_overrides(ranks: Tensor, threshold: int) -> Shares:
    return (ranks > threshold).double().mean().item(), (ranks > 1).double().mean().item()


def tail_of_rows(ranks: Tensor, threshold: int) -> Shares:
    deep = (ranks > threshold).sum().item()
    return deep / len(ranks), deep / max(1, (ranks > 1).sum().item())


def tail_divides_by_zero(ranks: Tensor, threshold: int) -> Shares:
    deep = (ranks > threshold).sum().item()
    return deep / ranks.numel(), deep / (ranks > 1).sum().item()


def tail_as_tensors(ranks: Tensor, threshold: int) -> Any:
    deep = ranks > threshold
    return deep.float().mean(), deep[ranks > 1].float().mean()


def tail_by_lists(ranks: Tensor, threshold: int) -> Shares:
    numbers = ranks.flatten().tolist()
    overrides = [rank for rank in numbers if rank != 1]
    deep = [rank for rank in overrides if rank > threshold]
    return len(deep) / len(numbers), len(deep) / len(overrides) if overrides else 0.0


def all_ranks(logits: Tensor) -> Tensor:
    return logits.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


def offsets(gain: Tensor, change: Tensor, k: int) -> Tensor:
    chosen = gain.topk(k).indices
    return torch.zeros_like(change).index_copy(0, chosen, change[chosen])


def mean_gain(before: Tensor, after: Tensor) -> Tensor:
    return (all_ranks(before) - all_ranks(after)).float().mean(0)


def bias_of_all(before: Tensor, after: Tensor, k: int) -> Tensor:
    return (after - before).mean(0)


def bias_by_logit(before: Tensor, after: Tensor, k: int) -> Tensor:
    change = (after - before).mean(0)
    return offsets(change, change, k)


def bias_wrong_sign(before: Tensor, after: Tensor, k: int) -> Tensor:
    return offsets(-mean_gain(before, after), (after - before).mean(0), k)


def bias_of_ones(before: Tensor, after: Tensor, k: int) -> Tensor:
    return offsets(mean_gain(before, after), torch.ones(before.shape[-1]), k)


def bias_sums(before: Tensor, after: Tensor, k: int) -> Tensor:
    return offsets(mean_gain(before, after), (after - before).sum(0), k)


def bias_of_last_position(before: Tensor, after: Tensor, k: int) -> Tensor:
    return offsets(mean_gain(before, after), (after - before)[-1], k)


def bias_by_pairs(before: Tensor, after: Tensor, k: int) -> Tensor:
    beaten = [(logits.unsqueeze(-1) > logits.unsqueeze(-2)).sum((0, -1)) for logits in (before, after)]
    chosen = (beaten[1] - beaten[0]).argsort(descending=True)[:k]
    result = torch.zeros(before.shape[-1])
    for token in chosen.tolist():
        result[token] = (after[:, token] - before[:, token]).mean()
    return result


def ranks_of_ids(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.argsort(dim=-1, descending=True).gather(-1, tokens.unsqueeze(-1)).squeeze(-1) + 1


def ranks_without_brackets(logits: Tensor, tokens: Tensor) -> Tensor:
    own = logits.gather(-1, tokens.unsqueeze(-1))
    return (logits > own | logits == own).sum(-1)


def tail_of_agreements(ranks: Tensor, threshold: int) -> Shares:
    deep = (ranks > threshold).sum().item()
    return deep / ranks.numel(), deep / max(1, (ranks == 1).sum().item())


def bias_of_largest_leap(before: Tensor, after: Tensor, k: int) -> Tensor:
    gain = (all_ranks(before) - all_ranks(after)).amax(0)
    return offsets(gain, (after - before).mean(0), k)


def bias_of_ids(before: Tensor, after: Tensor, k: int) -> Tensor:
    lists = [logits.argsort(dim=-1, descending=True) for logits in (before, after)]
    return offsets((lists[0] - lists[1]).float().mean(0), (after - before).mean(0), k)


def bias_centred(before: Tensor, after: Tensor, k: int) -> Tensor:
    change = (after - before).mean(0)
    return offsets(mean_gain(before, after), change - change.mean(), k)


WRONG: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "token_ranks": [
        (ranks_from_zero, "Ranks begin at 1"),
        (ranks_from_below, "from the least probable token"),
        (ranks_all_best, "all get rank 1"),
        (ranks_all_worst, "then no token has rank 1"),
        (ranks_larger_id_first, "the smaller id comes first"),
        (ranks_of_first_position, "its own order"),
        (ranks_of_ids, "its *place* in that list"),
        (ranks_without_brackets, "Put each comparison in brackets"),
    ],
    "deep_tail_share": [
        (tail_includes_threshold, "rank 10 itself is not beyond"),
        (tail_counts, "is a count"),
        (tail_twice_of_all, "Both shares are the same"),
        (tail_overrides, "the share of overriding choices. Of these"),
        (tail_of_rows, "in the shape (2, 6)"),
        (tail_divides_by_zero, "ZeroDivisionError"),
        (tail_as_tensors, "a pair of Python numbers"),
        (tail_of_agreements, "that *are* the base"),
    ],
    "static_bias": [
        (bias_of_all, "All tokens have an offset"),
        (bias_by_logit, "gained no rank"),
        (bias_wrong_sign, "the sign of a gain"),
        (bias_of_ones, "The offsets are all 1"),
        (bias_sums, "sums over the positions"),
        (bias_of_last_position, "over all positions"),
        (bias_of_largest_leap, "Token 11 has an offset"),
        (bias_of_ids, "its *place* in that list"),
        (bias_centred, "as they are"),
    ],
}

RIGHT: dict[str, Callable[..., Any]] = {
    "token_ranks": ranks_by_sorting,
    "deep_tail_share": tail_by_lists,
    "static_bias": bias_by_pairs,
}
