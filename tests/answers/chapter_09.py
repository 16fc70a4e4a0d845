"""Answers to the exercises on chapter 09."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# The copy score


def means_of(log_p: Tensor, start: int, copies: int) -> Tensor:
    return log_p[start - 1 :].reshape(copies, -1).mean(dim=1)


def score_slipped(log_p: Tensor, start: int, copies: int) -> float:
    length = (len(log_p) - start + 1) // copies
    return (log_p[-length:].mean() - log_p[start : start + length].mean()).item()


def score_reversed(log_p: Tensor, start: int, copies: int) -> float:
    return (means_of(log_p, start, copies)[0] - means_of(log_p, start, copies)[-1]).item()


def score_of_sums(log_p: Tensor, start: int, copies: int) -> float:
    sums = log_p[start - 1 :].reshape(copies, -1).sum(dim=1)
    return (sums[-1] - sums[0]).item()


def score_of_neighbours(log_p: Tensor, start: int, copies: int) -> float:
    return (means_of(log_p, start, copies)[-1] - means_of(log_p, start, copies)[-2]).item()


def score_of_ends(log_p: Tensor, start: int, copies: int) -> float:
    return (log_p[-1] - log_p[start - 1]).item()


def score_start_of_three(log_p: Tensor, start: int, copies: int) -> float:
    return score_by_loop(log_p, 3, copies)


def score_passage_of_three(log_p: Tensor, start: int, copies: int) -> float:
    length = 3 if len(log_p) > 10 else 2
    return (log_p[-length:].mean() - log_p[start - 1 : start - 1 + length].mean()).item()


def score_by_loop(log_p: Tensor, start: int, copies: int) -> float:
    values = log_p.tolist()[start - 1 :]
    length = len(values) // copies
    return sum(values[-length:]) / length - sum(values[:length]) / length


# Where a text copies


def positions_with_first(tokens: list[int], span: int = 3) -> list[int]:
    windows = [tuple(tokens[end - span + 1 : end + 1]) for end in range(span - 1, len(tokens))]
    return [end + span - 1 for end, window in enumerate(windows) if windows.count(window) > 1]


def positions_begin(tokens: list[int], span: int = 3) -> list[int]:
    return [end - span + 1 for end in positions_by_lists(tokens, span)]


def positions_whole(tokens: list[int], span: int = 3) -> list[int]:
    ends = positions_by_lists(tokens, span)
    return sorted({end - back for end in ends for back in range(span)})


def positions_from_one(tokens: list[int], span: int = 3) -> list[int]:
    return [end + 1 for end in positions_by_lists(tokens, span)]


def positions_apart(tokens: list[int], span: int = 3) -> list[int]:
    def stands(end: int) -> bool:
        window = tokens[end - span + 1 : end + 1]
        return any(tokens[at : at + span] == window for at in range(end - 2 * span + 2))

    return [end for end in range(span - 1, len(tokens)) if stands(end)]


def positions_any_order(tokens: list[int], span: int = 3) -> list[int]:
    windows = [sorted(tokens[end - span + 1 : end + 1]) for end in range(span - 1, len(tokens))]
    return [at + span - 1 for at, window in enumerate(windows) if window in windows[:at]]


def positions_of_three(tokens: list[int], span: int = 3) -> list[int]:
    return positions_by_lists(tokens, 3)


def positions_by_lists(tokens: list[int], span: int = 3) -> list[int]:
    windows = [tokens[at : at + span] for at in range(len(tokens) - span + 1)]
    return [at + span - 1 for at, window in enumerate(windows) if window in windows[:at]]


# The shape of a cloud


def axes_of(states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found = torch.linalg.eigh(torch.cov(states.T, correction=0))
    return states.mean(dim=0), found.eigenvalues, found.eigenvectors


def cloud_around_zero(states: Tensor, shares: Tensor) -> Tensor:
    _, variances, axes = axes_of(states)
    return states @ axes * (shares.flip(0) * variances.sum() / variances).sqrt() @ axes.T


def cloud_of_unit_variance(states: Tensor, shares: Tensor) -> Tensor:
    mean, variances, axes = axes_of(states)
    return mean + (states - mean) @ axes * (shares.flip(0) / variances).sqrt() @ axes.T


def cloud_upside_down(states: Tensor, shares: Tensor) -> Tensor:
    mean, variances, axes = axes_of(states)
    return mean + (states - mean) @ axes * (shares * variances.sum() / variances).sqrt() @ axes.T


def cloud_without_root(states: Tensor, shares: Tensor) -> Tensor:
    mean, variances, axes = axes_of(states)
    return mean + (states - mean) @ axes * (shares.flip(0) * variances.sum() / variances) @ axes.T


def cloud_not_turned_back(states: Tensor, shares: Tensor) -> Tensor:
    mean, variances, axes = axes_of(states)
    return mean + (states - mean) @ axes * (shares.flip(0) * variances.sum() / variances).sqrt()


def cloud_by_singular_values(states: Tensor, shares: Tensor) -> Tensor:
    mean = states.mean(dim=0)
    left, lengths, axes = torch.linalg.svd(states - mean, full_matrices=False)
    return mean + left * (shares * lengths.square().sum()).sqrt() @ axes


# Patching


def patched(model: Any, donor: Any, texts: Tensor, block: int, positions: Tensor, remove: bool = True) -> Tensor:
    with torch.no_grad():
        state = donor(input_ids=texts, output_hidden_states=True).hidden_states[block + 1]
        handle = model.model.layers[block].register_forward_hook(
            lambda module, inputs, output: torch.where(positions[..., None], state, output)
        )
        logits = model(input_ids=texts).logits
        if remove:
            handle.remove()
    return logits


def patched_nothing(model: Any, donor: Any, texts: Tensor, block: int, positions: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=texts).logits


def patched_everywhere(model: Any, donor: Any, texts: Tensor, block: int, positions: Tensor) -> Tensor:
    return patched(model, donor, texts, block, torch.ones_like(positions))


def patched_elsewhere(model: Any, donor: Any, texts: Tensor, block: int, positions: Tensor) -> Tensor:
    return patched(model, donor, texts, block, ~positions)


def patched_donor(model: Any, donor: Any, texts: Tensor, block: int, positions: Tensor) -> Tensor:
    return patched(donor, model, texts, block, positions)


def patched_before(model: Any, donor: Any, texts: Tensor, block: int, positions: Tensor) -> Tensor:
    return patched(model, donor, texts, block - 1, positions)


def patched_after(model: Any, donor: Any, texts: Tensor, block: int, positions: Tensor) -> Tensor:
    return patched(model, donor, texts, block + 1, positions)


def patched_for_ever(model: Any, donor: Any, texts: Tensor, block: int, positions: Tensor) -> Tensor:
    return patched(model, donor, texts, block, positions, remove=False)


def patched_with_graph(model: Any, donor: Any, texts: Tensor, block: int, positions: Tensor) -> Tensor:
    return patched(model, donor, texts, block, positions).requires_grad_(True)


def patched_by_pre_hook(model: Any, donor: Any, texts: Tensor, block: int, positions: Tensor) -> Tensor:
    """What goes out of a block goes into the next module: the next block, or the final norm."""
    following = [*model.model.layers, model.model.norm][block + 1]
    kept: list[Tensor] = []
    with torch.no_grad():
        handle = [*donor.model.layers, donor.model.norm][block + 1].register_forward_pre_hook(
            lambda module, inputs: kept.append(inputs[0])
        )
        donor(input_ids=texts)
        handle.remove()
        handle = following.register_forward_pre_hook(
            lambda module, inputs: (torch.where(positions[..., None], kept[0], inputs[0]), *inputs[1:])
        )
        logits = model(input_ids=texts).logits
        handle.remove()
    return logits


WRONG: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "copy_score": [
        (score_slipped, "the first log-probability belongs to the second token"),
        (score_reversed, "not the other way round"),
        (score_of_sums, "How long a passage is must not count"),
        (score_of_neighbours, "The first one is wanted"),
        (score_of_ends, "Each copy has three"),
        (score_start_of_three, "depend on the length of the start"),
        (score_passage_of_three, "does it know how long the passage is"),
    ],
    "copying_positions": [
        (positions_with_first, "nothing stands *earlier*"),
        (positions_begin, "The last of them is wanted"),
        (positions_whole, "only where all three tokens have been met"),
        (positions_from_one, "counted from 0"),
        (positions_apart, "may overlap"),
        (positions_any_order, "another order are no copy"),
        (positions_of_three, "the span that it is given"),
    ],
    "with_spectrum": [
        (cloud_around_zero, "stretch around the mean"),
        (cloud_of_unit_variance, "The total variance is 1 now"),
        (cloud_upside_down, "on the shortest axis"),
        (cloud_without_root, "By which power"),
        (cloud_not_turned_back, "turn it back"),
    ],
    "patched_logits": [
        (patched_nothing, "nothing is patched"),
        (patched_everywhere, "only some positions"),
        (patched_elsewhere, "torch.where take first"),
        (patched_donor, "The donor runs with states of the model"),
        (patched_before, "the input of the block"),
        (patched_after, "blocks are counted from 0"),
        (patched_for_ever, "leaves a hook"),
        (patched_with_graph, "carry a graph"),
    ],
}

RIGHT: dict[str, Callable[..., Any]] = {
    "copy_score": score_by_loop,
    "copying_positions": positions_by_lists,
    "with_spectrum": cloud_by_singular_values,
    "patched_logits": patched_by_pre_hook,
}
