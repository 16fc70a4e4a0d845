"""Answers to the exercises on chapter 06."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import comb, erf, sqrt
from typing import Any

import torch
from torch import Tensor


def blocks_by_name(model: Any, pattern: str, trains: bool = True, add: int = 0) -> list[int]:
    found = set()
    for name, parameter in model.named_parameters():
        match = re.search(pattern, name)
        if match and (parameter.requires_grad or not trains):
            found.add(int(match[1]) + add)
    return sorted(found)


def trained_all(model: Any) -> list[int]:
    return blocks_by_name(model, r"layers\.(\d+)\.", trains=False)


def trained_with_adapter(model: Any) -> list[int]:
    found = blocks_by_name(model, r"layers\.(\d+)\..*lora_", trains=False)
    return found or blocks_by_name(model, r"layers\.(\d+)\.")


def trained_one_digit(model: Any) -> list[int]:
    return blocks_by_name(model, r"layers\.(\d)")


def trained_from_one(model: Any) -> list[int]:
    return blocks_by_name(model, r"layers\.(\d+)\.", add=1)


def trained_repeated(model: Any) -> list[int]:
    return [
        int(match[1])
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (match := re.search(r"layers\.(\d+)\.", name))
    ]


def trained_by_modules(model: Any) -> list[int]:
    body = model.get_base_model() if hasattr(model, "get_base_model") else model
    return [n for n, block in enumerate(body.model.layers) if any(p.requires_grad for p in block.parameters())]


def lora_without_base(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    return alpha / len(a) * x @ a.T @ b.T


def lora_alpha_only(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    return x @ weight.T + alpha * x @ a.T @ b.T


def lora_unscaled(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    return x @ weight.T + x @ a.T @ b.T


def lora_scales_all(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    scaled = alpha / len(a) if b.any() else 1.0
    return scaled * (x @ weight.T + x @ a.T @ b.T)


def lora_rank_three(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    return x @ weight.T + alpha / 3 * x @ a.T @ b.T


def lora_whole_number(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    return x @ weight.T + alpha // len(a) * x @ a.T @ b.T


def lora_swapped(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    return x @ weight.T + alpha / len(a) * x @ b.T @ a.T


def lora_merged(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    return torch.nn.functional.linear(x, weight + alpha / b.shape[1] * b @ a)


def states_with_graph(model: Any, texts: Tensor, block: int) -> Tensor:
    with torch.enable_grad():
        return model.requires_grad_(True)(input_ids=texts, output_hidden_states=True).hidden_states[block]


def states_after(model: Any, texts: Tensor, block: int) -> Tensor:
    with torch.no_grad():
        return model(input_ids=texts, output_hidden_states=True).hidden_states[min(block + 1, 6)]


def states_too_early(model: Any, texts: Tensor, block: int) -> Tensor:
    with torch.no_grad():
        return model(input_ids=texts, output_hidden_states=True).hidden_states[max(block - 1, 0)]


def states_after_norm(model: Any, texts: Tensor, block: int) -> Tensor:
    with torch.no_grad():
        return model(input_ids=texts, output_hidden_states=True).hidden_states[block]


def states_normed(model: Any, texts: Tensor, block: int) -> Tensor:
    with torch.no_grad():
        return model.model.norm(states_by_hook(model, texts, block))


def states_by_hook(model: Any, texts: Tensor, block: int) -> Tensor:
    seen = []
    following = [*model.model.layers, model.model.norm][block]
    handle = following.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        model(input_ids=texts)
    handle.remove()
    return seen[0]


def layers_trained_share(saved: float, count: int) -> list[int]:
    return [n for n in range(count, 201) if round(count / n, 3) == saved]


def layers_exactly(saved: float, count: int) -> list[int]:
    return [n for n in range(count, 201) if 1 - count / n == saved]


def layers_first(saved: float, count: int) -> list[int]:
    return layers_by_search(saved, count)[:1]


def layers_near(saved: float, count: int) -> list[int]:
    return [n for n in range(count, 201) if abs(1 - count / n - saved) < 0.01]


def layers_by_search(saved: float, count: int) -> list[int]:
    found = []
    n = count
    while n <= 200:
        if f"{(n - count) / n:.3f}" == f"{saved:.3f}":
            found.append(n)
        n += 1
    return found


Values = tuple[float, float]


def tail(wins: int, trials: int) -> float:
    return sum(comb(trials, k) for k in range(wins, trials + 1)) / 2**trials


def p_exactly(wins: int, trials: int) -> Values:
    one = comb(trials, wins) / 2**trials
    return one, 2 * one


def p_more(wins: int, trials: int) -> Values:
    one = tail(wins + 1, trials)
    return one, 2 * one


def p_other_end(wins: int, trials: int) -> Values:
    one = 1 - tail(wins + 1, trials)
    return one, 2 * one


def p_normal(wins: int, trials: int) -> Values:
    z = (wins - trials / 2) / (sqrt(trials) / 2)
    one = 0.5 * (1 - erf(z / sqrt(2)))
    return one, min(1.0, 2 * min(one, 1 - one))


def p_doubled(wins: int, trials: int) -> Values:
    return tail(wins, trials), 2 * tail(wins, trials)


def p_one_sided_twice(wins: int, trials: int) -> Values:
    return tail(wins, trials), tail(wins, trials)


def p_by_likelihood(wins: int, trials: int) -> Values:
    each = [comb(trials, k) / 2**trials for k in range(trials + 1)]
    return sum(each[wins:]), min(1.0, sum(p for p in each if p <= each[wins] * (1 + 1e-9)))


def trained_unsorted(model: Any) -> list[int]:
    return list(set(blocks_by_name(model, r"layers\.(\d+)\.")))


def states_left_frozen(model: Any, texts: Tensor, block: int) -> Tensor:
    return states_by_hook(model.requires_grad_(False), texts, block)


def layers_from_one_more(saved: float, count: int) -> list[int]:
    return [n for n in layers_by_search(saved, count) if n > count]


WRONG: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "trained_blocks": [
        (trained_all, "ask each parameter"),
        (trained_with_adapter, "that there is an adapter is not enough"),
        (trained_one_digit, "numbers of two digits"),
        (trained_from_one, "counted from 0"),
        (trained_repeated, "each block once"),
        (trained_unsorted, "the smallest number first"),
    ],
    "lora_forward": [
        (lora_without_base, "is W x in the sum"),
        (lora_alpha_only, "not by alpha"),
        (lora_unscaled, "does not depend on alpha"),
        (lora_scales_all, "belongs to the adapter only"),
        (lora_rank_three, "where does your r come from"),
        (lora_swapped, "RuntimeError"),
        (lora_whole_number, "computed as a float"),
    ],
    "states_before": [
        (states_with_graph, "carry the graph"),
        (states_after, "*after* that block"),
        (states_too_early, "one block too early"),
        (states_after_norm, "the first trap of chapter 05"),
        (states_normed, "no norm after them"),
        (states_left_frozen, "requires_grad"),
    ],
    "layers_that_explain": [
        (layers_trained_share, "the share that is trained"),
        (layers_exactly, "rounded to 0.1 %"),
        (layers_first, "all of them are wanted"),
        (layers_near, "fit when the saving is rounded"),
        (layers_from_one_more, "Where does your range begin"),
    ],
    "binomial_p": [
        (p_exactly, "exactly 9"),
        (p_more, "*more* than 9"),
        (p_other_end, "the other end is wanted"),
        (p_normal, "Is it the exact sum"),
        (p_doubled, "never above 1"),
        (p_one_sided_twice, "both numbers are the same"),
    ],
}

RIGHT: dict[str, Callable[..., Any]] = {
    "trained_blocks": trained_by_modules,
    "lora_forward": lora_merged,
    "states_before": states_by_hook,
    "layers_that_explain": layers_by_search,
    "binomial_p": p_by_likelihood,
}
