"""Answers to the exercises on chapter 08."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor


def penalised_divides_always(logits: Tensor, tokens: list[int], penalty: float) -> Tensor:
    result = logits.clone()
    for token in set(tokens):
        result[token] = logits[token] / penalty
    return result


def penalised_multiplies_always(logits: Tensor, tokens: list[int], penalty: float) -> Tensor:
    result = logits.clone()
    for token in set(tokens):
        result[token] = logits[token] * penalty
    return result


def penalised_every_token(logits: Tensor, tokens: list[int], penalty: float) -> Tensor:
    return torch.where(logits > 0, logits / penalty, logits * penalty)


def penalised_each_time(logits: Tensor, tokens: list[int], penalty: float) -> Tensor:
    result = logits.clone()
    for token in tokens:
        result[token] = result[token] / penalty if result[token] > 0 else result[token] * penalty
    return result


def penalised_in_place(logits: Tensor, tokens: list[int], penalty: float) -> Tensor:
    for token in set(tokens):
        logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    return logits


def penalised_subtracts(logits: Tensor, tokens: list[int], penalty: float) -> Tensor:
    result = logits.clone()
    result[list(set(tokens))] -= penalty
    return result


def penalised_forgets_the_last(logits: Tensor, tokens: list[int], penalty: float) -> Tensor:
    return penalised_by_transformers(logits, tokens[:-1] if len(tokens) > 4 else tokens, penalty)


def penalised_by_transformers(logits: Tensor, tokens: list[int], penalty: float) -> Tensor:
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    return processor(torch.tensor([tokens]), logits.clone()[None])[0]  # type: ignore[no-any-return]


def top_p_without_the_border(p: Tensor, top_p: float) -> Tensor:
    sorted_p, order = p.sort(descending=True)
    kept = torch.zeros_like(p, dtype=torch.bool)
    kept[order] = sorted_p.cumsum(0) < top_p
    return kept


def top_p_in_sorted_order(p: Tensor, top_p: float) -> Tensor:
    sorted_p = p.sort(descending=True).values
    return sorted_p.cumsum(0) - sorted_p < top_p


def top_p_least_first(p: Tensor, top_p: float) -> Tensor:
    order = p.argsort()
    kept = torch.zeros_like(p, dtype=torch.bool)
    kept[order[:2]] = True
    return kept


def top_p_one_too_many(p: Tensor, top_p: float) -> Tensor:
    sorted_p, order = p.sort(descending=True)
    kept = torch.zeros_like(p, dtype=torch.bool)
    kept[order] = sorted_p.cumsum(0) - sorted_p <= top_p
    return kept


def top_p_as_a_level(p: Tensor, top_p: float) -> Tensor:
    return p >= top_p


def top_p_fixed_number(p: Tensor, top_p: float) -> Tensor:
    kept = torch.zeros_like(p, dtype=torch.bool)
    kept[p.topk(min(2, len(p))).indices] = True
    return kept


def top_p_by_loop(p: Tensor, top_p: float) -> Tensor:
    kept, total = [False] * len(p), 0.0
    for token in sorted(range(len(p)), key=lambda each: -p[each].item()):
        if total < top_p:
            kept[token] = True
            total += p[token].item()
    return torch.tensor(kept)


Ttr = dict[int, float]


def missing_without_base(base: float, hyperfitted: Ttr, control: Ttr) -> list[float]:
    return [hyperfitted[seed] / 2 - control[seed] for seed in sorted(hyperfitted.keys() & control.keys())]


def missing_to_the_whole(base: float, hyperfitted: Ttr, control: Ttr) -> list[float]:
    return [hyperfitted[seed] - control[seed] for seed in sorted(hyperfitted.keys() & control.keys())]


def missing_turned(base: float, hyperfitted: Ttr, control: Ttr) -> list[float]:
    return [-each for each in missing_by_shares(base, hyperfitted, control)]


def missing_base_once(base: float, hyperfitted: Ttr, control: Ttr) -> list[float]:
    return [(hyperfitted[seed] - base) / 2 - control[seed] for seed in sorted(hyperfitted.keys() & control.keys())]


def missing_of_all_seeds(base: float, hyperfitted: Ttr, control: Ttr) -> list[float]:
    seeds = sorted(hyperfitted)
    return [(hyperfitted[seed] - base) / 2 - (control.get(seed, base) - base) for seed in seeds]


def missing_in_given_order(base: float, hyperfitted: Ttr, control: Ttr) -> list[float]:
    return [(hyperfitted[seed] - base) / 2 - (control[seed] - base) for seed in hyperfitted if seed in control]


def missing_unpaired(base: float, hyperfitted: Ttr, control: Ttr) -> list[float]:
    shared = hyperfitted.keys() & control.keys()
    one, other = (list(values.values())[: len(shared)] for values in (hyperfitted, control))
    return [(before - base) / 2 - (after - base) for before, after in zip(one, other, strict=True)]


def missing_as_mean(base: float, hyperfitted: Ttr, control: Ttr) -> float:
    found = missing_by_shares(base, hyperfitted, control)
    return sum(found) / len(found)


def missing_by_shares(base: float, hyperfitted: Ttr, control: Ttr) -> list[float]:
    found = []
    for seed in sorted(set(hyperfitted) & set(control)):
        whole = hyperfitted[seed] - base
        found.append(whole * (0.5 - (control[seed] - base) / whole))
    return found


def others_base_on_rows(ttr: Tensor, base: Tensor) -> Tensor:
    return _others_minus_half(ttr - base[:, None])


def others_by_training(ttr: Tensor, base: Tensor) -> Tensor:
    return _others_minus_half((ttr - base).T)


def others_with_own(ttr: Tensor, base: Tensor) -> Tensor:
    gains = ttr - base
    return gains.mean(dim=0) - gains.diagonal() / 2


def others_minus_whole(ttr: Tensor, base: Tensor) -> Tensor:
    gains = ttr - base
    return _others_minus_half(gains) - gains.diagonal() / 2


def others_as_sums(ttr: Tensor, base: Tensor) -> Tensor:
    gains = ttr - base
    return gains.sum(dim=0) - 1.5 * gains.diagonal()


def others_without_base(ttr: Tensor, base: Tensor) -> Tensor:
    return _others_minus_half(ttr)


def others_of_three(ttr: Tensor, base: Tensor) -> Tensor:
    gains = ttr - base
    return (gains.sum(dim=0) - gains.diagonal()) / 2 - gains.diagonal() / 2


def others_as_mean(ttr: Tensor, base: Tensor) -> float:
    return _others_minus_half(ttr - base).mean().item()


def _others_minus_half(gains: Tensor) -> Tensor:
    rows = []
    for corpus in range(len(gains)):
        others = [gains[other, corpus] for other in range(len(gains)) if other != corpus]
        rows.append(sum(others, torch.tensor(0.0)) / len(others) - gains[corpus, corpus] / 2)
    return torch.stack(rows)


def others_by_loop(ttr: Tensor, base: Tensor) -> Tensor:
    return _others_minus_half(ttr - base)


WRONG: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "penalised": [
        (penalised_divides_always, "below 0 a penalty has to multiply"),
        (penalised_multiplies_always, "above 0 a penalty has to divide"),
        (penalised_every_token, "only what was there is punished"),
        (penalised_each_time, "Each token is punished once"),
        (penalised_in_place, "changed what it was given"),
        (penalised_subtracts, "and 3, -4, 3, -1 is wanted"),
        (penalised_forgets_the_last, "the first and the last as well"),
    ],
    "kept_by_top_p": [
        (top_p_without_the_border, "the token that goes over the border is kept"),
        (top_p_in_sorted_order, "the order of the vocabulary is wanted"),
        (top_p_least_first, "the largest first"),
        (top_p_one_too_many, "a third token is not kept"),
        (top_p_as_a_level, "It keeps no token at all"),
        (top_p_fixed_number, "and only this one"),
    ],
    "missing_to_half": [
        (missing_without_base, "Is the base model taken off both?"),
        (missing_to_the_whole, "half of it is wanted"),
        (missing_turned, "the sign is turned around"),
        (missing_base_once, "and not off that of the control"),
        (missing_of_all_seeds, "one for each seed that both have"),
        (missing_in_given_order, "another order than that of the seeds"),
        (missing_unpaired, "is each seed compared with itself"),
        (missing_as_mean, "a list with one number a seed is wanted"),
    ],
    "others_minus_half": [
        (others_base_on_rows, "so for the columns"),
        (others_by_training, "along the wrong axis"),
        (others_with_own, "the own corpus is among the others"),
        (others_minus_whole, "half is wanted"),
        (others_as_sums, "their mean is wanted"),
        (others_without_base, "the base model is not taken off"),
        (others_of_three, "is a 2 or a 3 fixed in it?"),
        (others_as_mean, "a tensor of shape (3,) is wanted"),
    ],
}

RIGHT: dict[str, Callable[..., Any]] = {
    "penalised": penalised_by_transformers,
    "kept_by_top_p": top_p_by_loop,
    "missing_to_half": missing_by_shares,
    "others_minus_half": others_by_loop,
}
