"""Where does it happen? How many of its d dimensions the residual stream uses at each layer, and how far it moved."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hyperfit_course.anatomy import CausalLM, anatomy, unwrapped
from hyperfit_course.metrics import bootstrap_interval
from hyperfit_course.stream import GROUPS, SKIP, Collection, GeometryError, Moments, layer_names, stream_states

RESAMPLES = 50  #: Redrawn sets of texts, enough to know a standard error to 10 %.
MOMENT_MEMORY = 3 << 30  #: Bytes of moments held at a time; if all layers need more, the texts are read several times.
LENS_STEP = 4  #: The logit lens reads every fourth position: the head, once for every block, is its whole cost.


def participation_ratio(covariance: Tensor) -> Tensor:
    """How many dimensions share the variance: ``(sum of the eigenvalues)^2 / sum of their squares``.

    d for a ball in d dimensions, 1 for a line. With eigenvalues 3 and 1 it is 16 / 10. It equals
    ``trace(C)^2 / trace(C @ C)``, so no eigenvalues are needed; and ``trace(C @ C)`` is the square of the Frobenius
    norm of C. Li et al. (2026) call it effective dimension; the measure is common in neuroscience (Gao et al., 2017).
    A symmetric covariance, shape (..., d, d), gives the shape (...).
    """
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return (trace / torch.linalg.matrix_norm(covariance)) ** 2


def effective_rank(covariance: Tensor) -> Tensor:
    """Exponential of the entropy of the eigenvalues' shares, ``exp(-sum p ln p)`` (Roy and Vetterli, 2007).

    Small eigenvalues count for more in it than in the participation ratio, which it never falls below. A symmetric
    covariance, shape (..., d, d), gives the shape (...).
    """
    return torch.special.entr(spectrum(covariance)).sum(dim=-1).exp()


def spectrum(covariance: Tensor) -> Tensor:
    """Eigenvalues as shares of their sum, the largest first, shape (..., d): squared singular values up to a factor."""
    eigenvalues = torch.linalg.eigvalsh(covariance).clamp(min=0).flip(-1)
    return eigenvalues / eigenvalues.sum(dim=-1, keepdim=True)


def standardised(covariance: Tensor) -> Tensor:
    """The covariance with all dimensions scaled to variance 1, or left at 0: a few large ones lose their power."""
    deviation = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    scale = torch.where(deviation > 0, 1 / deviation, 0.0)
    return covariance * scale[..., :, None] * scale[..., None, :]


MEASURES: dict[str, Callable[[Moments, Tensor, Tensor], Tensor]] = {
    "participation ratio": lambda moments, weights, covariances: participation_ratio(covariances),
    "uncentred": lambda moments, weights, covariances: participation_ratio(moments.uncentred(weights, covariances)),
    "standardised": lambda moments, weights, covariances: participation_ratio(standardised(covariances)),
    "effective rank": lambda moments, weights, covariances: effective_rank(covariances),
    "TwoNN": lambda moments, weights, covariances: torch.tensor([moments.two_nn(row) for row in weights]),
}
"""What is measured at a layer. ``uncentred`` and ``standardised`` are participation ratios too."""


def measure(moments: Moments, measures: Sequence[str] = tuple(MEASURES)) -> pd.DataFrame:
    """Measures of one layer (names from :data:`MEASURES`): rows of ``measure``, ``value``, ``low`` and ``high``.

    The 95 % interval is ``value * exp(+-1.96 s)``, s the standard deviation of a measure's logarithm over bootstrap
    sets of texts: how much it would vary with as many other texts. Percentiles of these sets would lie too low: a
    redrawn set has some texts twice and others never, and so fills fewer dimensions than as many different texts.
    More texts would give larger values, for every model: that is not in the interval.
    """
    groups = len(moments.counts)
    drawn = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    weights = torch.cat([torch.ones(1, groups), torch.from_numpy(drawn).float()])
    covariances = moments.covariance(weights)
    rows = []
    for name in measures:
        values = MEASURES[name](moments, weights, covariances)
        value, factor = values[0].item(), math.exp(1.96 * values[1:].log().std().item())
        rows.append({"measure": name, "value": value, "low": value / factor, "high": value * factor})
    return pd.DataFrame(rows)


def measure_layers(
    model: CausalLM, texts: Tensor, measures: Sequence[str] = tuple(MEASURES), skip: int = SKIP
) -> pd.DataFrame:
    """Measures at every layer of one model: the columns of :func:`measure`, after ``layer`` and ``depth`` (from 0).

    Raises:
        GeometryError: there are fewer than two texts, or they are too short.
    """
    return _measured([model], texts, measures, skip)[0]


def compare_layers(
    base: CausalLM, tuned: CausalLM, texts: Tensor, measures: Sequence[str] = tuple(MEASURES)
) -> pd.DataFrame:
    """Measures at every layer before and after training, on texts, shape (n, length), that neither was trained on.

    Returns:
        The columns of :func:`measure_layers`, and ``model``: ``base`` or ``tuned``. Rows with the model ``both`` have
        the measures ``cosine`` (between the two states of a position) and ``L2`` (length of their difference): means
        over positions but the first, with bootstrap intervals over texts.

    Raises:
        GeometryError: there are fewer than two texts, they are too short, or the models differ in depth or width.
    """
    names = layer_names(base)
    if names != layer_names(tuned) or _width(base) != _width(tuned):
        raise GeometryError("The two models differ in depth or width: compare a model with a tuned copy of itself.")
    distances: dict[tuple[int, str], list[float]] = defaultdict(list)  # one value a text

    def add_distances(ours: list[Tensor], theirs: list[Tensor]) -> None:
        for depth, (before, after) in enumerate(zip(ours, theirs, strict=True)):
            before, after = before[SKIP:], after[SKIP:]
            distances[depth, "cosine"].append(torch.cosine_similarity(before, after, dim=-1).mean().item())
            distances[depth, "L2"].append((after - before).norm(dim=-1).mean().item())

    of_base, of_tuned = _measured([base, tuned], texts, measures, SKIP, add_distances)
    rows = [_interval_row(names[depth], depth, name, of_text) for (depth, name), of_text in distances.items()]
    frames = {"base": of_base, "tuned": of_tuned, "both": pd.DataFrame(rows)}
    return pd.concat([frame.assign(model=model) for model, frame in frames.items()], ignore_index=True)


def _measured(
    models: Sequence[CausalLM], texts: Tensor, measures: Sequence[str], skip: int, watch: Callable | None = None
) -> list[pd.DataFrame]:
    """Measures at every layer of models of one shape; ``watch`` sees the states of all of them, text by text."""
    names = layer_names(models[0])
    at_once = max(1, MOMENT_MEMORY // (len(models) * min(GROUPS, len(texts)) * _width(models[0]) ** 2 * 4))
    frames: list[list[pd.DataFrame]] = [[] for _ in models]
    for start in range(0, len(names), at_once):
        collections = [Collection(texts, range(len(names))[start : start + at_once], skip) for _ in models]
        for states in zip(*(stream_states(model, texts) for model in models), strict=True):
            for collection, of_model in zip(collections, states, strict=True):
                collection.add(of_model)
            if watch and start == 0:
                watch(*states)
        for done, collection in zip(frames, collections, strict=True):
            for layer, moments in collection.finished().items():
                done.append(measure(moments, measures).assign(layer=names[layer], depth=layer))
    columns = ["layer", "depth", "measure", "value", "low", "high"]
    return [pd.concat(done, ignore_index=True)[columns] for done in frames]


def _width(model: CausalLM) -> int:
    """d, the number of dimensions of the residual stream."""
    return int(model.config.get_text_config().hidden_size)


@torch.no_grad()
def logit_lens(model: CausalLM, texts: Tensor) -> pd.DataFrame:
    """From which block on the final norm and the head would already give the model's own next token.

    Each block's stream goes through them as if it were the last (nostalgebraist, 2020), at every fourth position.

    Returns:
        ``layer``, ``depth``, ``measure`` (always ``same token``), ``value`` (share of positions at which the most
        probable token is the final one), ``low`` and ``high`` (bootstrap over texts).
    """
    parts = anatomy(model)
    read = [torch.stack(states)[:, SKIP::LENS_STEP] for states in stream_states(model, texts)]
    *streams, normed = torch.stack(read, dim=1).to(unwrapped(model).device)  # each (texts, positions, d)
    tokens = [parts.head(state).argmax(dim=-1) for state in (*map(parts.final_norm, streams), normed)]
    return pd.DataFrame(
        _interval_row(layer, depth, "same token", (token == tokens[-1]).double().mean(dim=1))
        for depth, (layer, token) in enumerate(zip(layer_names(model), tokens, strict=True))
    )


def _interval_row(layer: str, depth: int, measure: str, of_text: list[float] | Tensor) -> dict[str, str | float]:
    """The mean over texts with its bootstrap interval, as a row of a frame."""
    value, low, high = bootstrap_interval(of_text)
    return {"layer": layer, "depth": depth, "measure": measure, "value": value, "low": low, "high": high}
