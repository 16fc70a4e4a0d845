"""Is the change of the logits the base logits again, times a number? What a temperature, an offset or both leave over.

Dividing logits ``z`` by a temperature T changes them by ``(1 / T - 1) z``: by themselves, times one number. So a change
that a scale explains is a temperature, whatever it was that changed the model.
"""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

EXPLANATIONS = {
    "scale": "one number for all positions, times the base logits",
    "static": "one offset a token",
    "scale and static": "both, fitted together",
    "scale a position": "another number at every position, times the base logits",
}  #: Columns of :func:`left_over`.


def left_over(base_logits: Tensor, tuned_logits: Tensor, contexts: Tensor) -> pd.DataFrame:
    """How much of the change of the logits remains, text by text, when an explanation is taken from it.

    Both logits are centred at every position, over the given tokens. An explanation is fitted to the change, by least
    squares, on all *other* texts, except ``scale a position``: that one has seen the change that it explains, so it
    leaves the least that any temperatures could, another one at each position.

    Of the change the share ``1 - left / change`` is explained; for ``static`` it is that of
    :func:`~hyperfit_course.reweighting.variance_explained`.

    Args:
        base_logits, tuned_logits: of the same positions, shape (n, vocabulary); also of a part of the vocabulary.
        contexts: for each position the number of its text, shape (n,).

    Returns:
        A row a text. ``change`` is the sum of squares of the change itself; the other columns, named as in
        :data:`EXPLANATIONS`, hold that of what is left. Sums over texts give shares of all.

    Raises:
        ValueError: the shapes do not fit, or there are fewer than two texts.
    """
    names, which, sizes = contexts.unique(return_inverse=True, return_counts=True)
    if base_logits.shape != tuned_logits.shape or contexts.shape != base_logits.shape[:1] or len(names) < 2:
        raise ValueError(
            f"Logits of shapes {tuple(base_logits.shape)} and {tuple(tuned_logits.shape)}, {len(names)} texts: give "
            "the logits of the same positions, the text of each position, and at least two texts."
        )
    base, change = _centred(base_logits), _centred(tuned_logits.double() - base_logits.double())
    on_itself, along = base.square().sum(dim=-1), (base * change).sum(dim=-1)  # of each position

    def of_others(values: Tensor) -> Tensor:
        """Sums over the positions of all texts but one, for each text."""
        sums = values.new_zeros(len(names), *values.shape[1:]).index_add_(0, which, values)
        return sums.sum(dim=0) - sums

    others = (len(which) - sizes).double()[:, None]
    mean_base, mean_change = of_others(base) / others, of_others(change) / others
    scale = of_others(along) / of_others(on_itself)
    # With an offset too, the slope is that of a regression: both sides around their means.
    slope = of_others(along) - others[:, 0] * (mean_base * mean_change).sum(dim=-1)
    slope /= of_others(on_itself) - others[:, 0] * mean_base.square().sum(dim=-1)
    explained = {  # each is as large as the change, so they are made one after the other
        "scale": lambda: scale[which, None] * base,
        "static": lambda: mean_change[which],
        "scale and static": lambda: mean_change[which] + slope[which, None] * (base - mean_base[which]),
        "scale a position": lambda: (along / on_itself)[:, None] * base,
    }
    squares = {"change": change.square().sum(dim=-1)}
    squares |= {name: (change - part()).square().sum(dim=-1) for name, part in explained.items()}
    of_positions = torch.stack(list(squares.values()), dim=-1)
    left = of_positions.new_zeros(len(names), len(squares)).index_add_(0, which, of_positions)
    return pd.DataFrame(left.cpu().numpy(), columns=list(squares), index=pd.Index(names.tolist(), name="text"))


def _centred(logits: Tensor) -> Tensor:
    return (logits - logits.mean(dim=-1, keepdim=True)).double()
