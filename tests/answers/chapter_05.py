"""Answers to the exercises on chapter 05."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def eigenvalues(states: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(torch.cov(states.T))


def pr_upside_down(states: Tensor) -> float:
    values = eigenvalues(states)
    return (values.square().sum() / values.sum() ** 2).item()


def pr_not_centred(states: Tensor) -> float:
    values = torch.linalg.eigvalsh(states.T @ states / len(states))
    return (values.sum() ** 2 / values.square().sum()).item()


def pr_singular_values(states: Tensor) -> float:
    values = torch.linalg.svdvals(states - states.mean(dim=0))
    return (values.sum() ** 2 / values.square().sum()).item()


def pr_sum_not_squared(states: Tensor) -> float:
    values = eigenvalues(states)
    return (values.sum() / values.square().sum()).item()


def pr_square_of_sum_below(states: Tensor) -> float:
    values = eigenvalues(states)
    return (values.sum() ** 2 / values.sum() ** 2).item()


def pr_as_tensor(states: Tensor) -> Tensor:
    values = eigenvalues(states)
    return values.sum() ** 2 / values.square().sum()


def pr_by_svd(states: Tensor) -> float:
    values = torch.linalg.svdvals((states - states.mean(dim=0)).double()).square()
    return (values.sum().square() / values.square().sum()).item()


def traces_of_diagonal(covariance: Tensor) -> float:
    diagonal = covariance.diagonal()
    return (diagonal.sum() ** 2 / diagonal.square().sum()).item()


def traces_of_all(covariance: Tensor) -> float:
    return (covariance.sum() ** 2 / covariance.square().sum()).item()


def traces_by_eigenvalues(covariance: Tensor) -> float:
    values = torch.linalg.eigvalsh(covariance)
    return (values.sum() ** 2 / values.square().sum()).item()


def traces_upside_down(covariance: Tensor) -> float:
    return (covariance.square().sum() / covariance.trace() ** 2).item()


def traces_not_squared(covariance: Tensor) -> float:
    return (covariance.trace() / covariance.square().sum()).item()


def traces_by_product(covariance: Tensor) -> float:
    return (covariance.trace() ** 2 / (covariance @ covariance).trace()).item()


def outliers_by(sizes: Tensor, share: float) -> list[int]:
    order = sizes.argsort(descending=True)
    reached = (sizes[order].cumsum(0) / sizes.sum() < share).sum().item() + 1
    return order[:reached].tolist()


def outliers_by_size(states: Tensor, share: float) -> list[int]:
    return outliers_by(states.square().mean(0), share)


def outliers_by_deviation(states: Tensor, share: float) -> list[int]:
    return outliers_by(states.std(0), share)


def outliers_below(states: Tensor, share: float) -> list[int]:
    return outliers_by(states.var(0), share)[:-1]


def outliers_as_tensor(states: Tensor, share: float) -> Tensor:
    return torch.tensor(outliers_by(states.var(0), share))


def outliers_by_loop(states: Tensor, share: float) -> list[int]:
    variances = states.var(0).tolist()
    left, found = sum(variances) * share, []
    while left > 0:
        biggest = max(range(len(variances)), key=lambda number: variances[number])
        left -= variances[biggest]
        variances[biggest] = -1.0
        found.append(biggest)
    return found


def pr_of_variances(states: Tensor) -> float:
    values = states.var(dim=0)
    return (values.sum() ** 2 / values.square().sum()).item()


def pr_standardised(states: Tensor) -> float:
    values = torch.linalg.eigvalsh(torch.corrcoef(states.T))
    return (values.sum() ** 2 / values.square().sum()).item()


def pr_one_mean_for_all(states: Tensor) -> float:
    centred = states - states.mean()
    values = torch.linalg.eigvalsh(centred.T @ centred)
    return (values.sum() ** 2 / values.square().sum()).item()


def outliers_sorted(states: Tensor, share: float) -> list[int]:
    return sorted(outliers_by(states.var(0), share))


def outliers_smallest_first(states: Tensor, share: float) -> list[int]:
    order = states.var(0).argsort()
    reached = (states.var(0)[order].cumsum(0) / states.var(0).sum() < share).sum().item() + 1
    return order[:reached].tolist()


def outliers_of_states(states: Tensor, share: float) -> list[int]:
    return outliers_by(states.var(1), share)


WRONG: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "participation_ratio": [
        (pr_upside_down, "upside down"),
        (pr_not_centred, "centre the states first"),
        (pr_singular_values, "singular values are not eigenvalues"),
        (pr_sum_not_squared, "the sum above the line is squared"),
        (pr_square_of_sum_below, "each eigenvalue is squared before"),
        (pr_as_tensor, ".item()"),
        (pr_of_variances, "are not the eigenvalues"),
        (pr_standardised, "as they are"),
        (pr_one_mean_for_all, "each dimension by its own mean"),
    ],
    "pr_by_traces": [
        (traces_of_diagonal, "the squares of the diagonal are not enough"),
        (traces_of_all, "the sum of the diagonal only"),
        (traces_by_eigenvalues, "find the two sums without them"),
        (traces_upside_down, "upside down"),
        (traces_not_squared, "above the line is squared"),
    ],
    "outlier_dimensions": [
        (outliers_by_size, "only the variance counts"),
        (outliers_by_deviation, "or standard deviations"),
        (outliers_below, "hold less than the share"),
        (outliers_as_tensor, "a list of whole numbers"),
        (outliers_sorted, "the right dimensions"),
        (outliers_smallest_first, "the one that varies most"),
        (outliers_of_states, "there are 8 dimensions"),
    ],
}

RIGHT: dict[str, Callable[..., Any]] = {
    "participation_ratio": pr_by_svd,
    "pr_by_traces": traces_by_product,
    "outlier_dimensions": outliers_by_loop,
}
