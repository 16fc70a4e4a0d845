"""Where does it happen? The shape of the residual stream after every block.

The states of a model at one place, over many positions of text, are a cloud of points in d dimensions. What is asked
of it is how many of these dimensions it uses, and how far it moved in training. Of the states themselves only a
sample is kept, for nearest neighbours; the rest is a d x d matrix of second moments for each text and place. Both the
stream after the last block and the output of the final norm are places of their own: transformers calls the latter
the last hidden state, and the two are easily mixed up.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from hyperfit_course.anatomy import CausalLM, anatomy, hidden_state, unwrapped
from hyperfit_course.metrics import bootstrap_interval

FINAL_NORM = "final norm"
GROUPS = 32
"""Most groups of texts whose moments are held apart; the bootstrap redraws groups."""
RESAMPLES = 50
"""Redrawn sets of texts, enough to know a standard error to 10 %."""
MOMENT_MEMORY = 2 << 30
"""Bytes of moments that are held at a time; where all places need more, the texts are read several times."""
SKIP = 1
"""Positions left out at the start of every text. The first one has no context; in many models its state is so much
longer than all others that it would decide the covariance alone (Sun et al., 2024, on massive activations)."""
NEIGHBOUR_POINTS = 1000
"""Positions among which nearest neighbours are looked for."""


class GeometryError(ValueError):
    """The geometry cannot be measured on these texts; the message says why and what to do."""


def place_names(model: CausalLM) -> list[str]:
    """The places of :func:`stream_states`: ``block 0`` to the last one, and ``final norm``."""
    return [f"block {number}" for number in range(len(anatomy(model).blocks))] + [FINAL_NORM]


@torch.no_grad()
def stream_states(model: CausalLM, texts: Tensor) -> Iterator[list[Tensor]]:
    """The residual stream after every block, and the output of the final norm, one text at a time.

    Args:
        model: a causal language model of any family.
        texts: token ids, shape (n, size).

    Yields:
        For each text one tensor a place (:func:`place_names`), float32 on the CPU, shape (size, d).
    """
    parts = anatomy(model)
    seen: list[Tensor] = []
    for text in texts:
        with contextlib.ExitStack() as hooks:
            for module in (*parts.blocks, parts.final_norm):
                hook = module.register_forward_hook(lambda m, i, output: seen.append(hidden_state(output)[0]))
                hooks.callback(hook.remove)
            parts.body(input_ids=text[None].to(unwrapped(model).device), use_cache=False)
        yield [states.float().cpu() for states in seen]
        seen.clear()


# Measures of one covariance matrix


def participation_ratio(covariance: Tensor) -> Tensor:
    """How many dimensions share the variance: ``(sum of the eigenvalues)^2 / sum of their squares``.

    d for a ball in d dimensions, 1 for a line. With eigenvalues 3 and 1 it is 16 / 10. It equals
    ``trace(C)^2 / trace(C @ C)``, so no eigenvalues are needed. Li et al. (2026) call it effective dimension; the
    measure is common in neuroscience (Gao et al., 2017).

    Args:
        covariance: symmetric, shape (..., d, d).

    Returns:
        Shape (...).
    """
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return trace**2 / covariance.square().sum(dim=(-2, -1))


def effective_rank(covariance: Tensor) -> Tensor:
    """Exponential of the entropy of the eigenvalues' shares, ``exp(-sum p ln p)`` (Roy and Vetterli, 2007).

    Small eigenvalues count for more in it than in the participation ratio, which it never falls below.

    Args:
        covariance: symmetric, shape (..., d, d).

    Returns:
        Shape (...).
    """
    shares = spectrum(covariance)
    return torch.special.entr(shares).sum(dim=-1).exp()


def spectrum(covariance: Tensor) -> Tensor:
    """Eigenvalues as shares of their sum, the largest first, shape (..., d).

    They are the squares of the singular values of the centred states, up to the common factor.
    """
    eigenvalues = torch.linalg.eigvalsh(covariance).clamp(min=0).flip(-1)
    return eigenvalues / eigenvalues.sum(dim=-1, keepdim=True)


def standardised(covariance: Tensor) -> Tensor:
    """The covariance with every dimension scaled to variance 1, which takes the power from a few large dimensions.

    Dimensions without variance are left at zero.
    """
    deviation = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    scale = torch.where(deviation > 0, 1 / deviation, 0.0)
    return covariance * scale[..., :, None] * scale[..., None, :]


@dataclass(frozen=True)
class Moments:
    """First and second moments of the states at one place, for each group of texts."""

    counts: Tensor
    """Positions, shape (groups,)."""
    means: Tensor
    """Shape (groups, d)."""
    scatters: Tensor
    """Sums of ``(x - mean)(x - mean)^T`` over a group's positions, shape (groups, d, d)."""
    distances: Tensor
    """Of some points the distances to their first and second nearest neighbour, shape (points, 2)."""
    group_of_point: Tensor
    """The group of each of these points, shape (points,)."""

    def covariance(self, weights: Tensor | None = None) -> Tensor:
        """Covariance over all positions, shape (d, d), or (sets, d, d) with weights of the groups (sets, groups)."""
        if weights is None:
            return self.covariance(torch.ones(1, len(self.counts)))[0]
        number = weights * self.counts
        shares = number / number.sum(dim=1, keepdim=True)
        within = (weights @ self.scatters.flatten(1)).view(-1, *self.scatters.shape[1:])
        apart = (self.means - (shares @ self.means)[:, None]) * shares.sqrt()[..., None]
        return within / number.sum(dim=1)[:, None, None] + apart.mT @ apart

    def uncentred(self, weights: Tensor, covariances: Tensor) -> Tensor:
        """Second moments around zero, from the covariances for these weights; shape (sets, d, d)."""
        number = weights * self.counts
        mean = (number / number.sum(dim=1, keepdim=True)) @ self.means
        return covariances + mean[:, :, None] * mean[:, None, :]

    def two_nn(self, weights: Tensor) -> float:
        """Intrinsic dimension by TwoNN (Facco et al., 2017), from the ratios of the two neighbours' distances.

        Weights, shape (groups,), repeat the points of a group. Their neighbours stay those of the whole sample.
        """
        from skdim.id import TwoNN  # it compiles for seconds when imported

        chosen = self.distances.repeat_interleave(weights[self.group_of_point].long(), dim=0)
        return float(TwoNN(dist=True).fit(chosen.numpy()).dimension_)


def layer_states(
    model: CausalLM, texts: Tensor, places: Sequence[int] | None = None, skip: int = SKIP
) -> dict[str, Moments]:
    """Moments of the states at every place of a model.

    Args:
        model: a causal language model.
        texts: token ids, shape (n, size).
        places: numbers of the places (:func:`place_names`); all of them by default, which takes 32 x d x d floats
            for each (1.3 GB for the embedded model).
        skip: positions that are left out at the start of every text.

    Returns:
        By the name of the place.

    Raises:
        GeometryError: there are fewer than two texts, or they are too short.

    Warns:
        UserWarning: there are no more positions than dimensions, which bounds every measure of dimension.
    """
    if len(texts) < 2:
        raise GeometryError("The geometry needs two texts at least: intervals come from redrawing them.")
    length = texts.shape[1] - skip
    if length < 1:
        raise GeometryError(
            f"Texts of {texts.shape[1]} tokens have none left without the first {skip}: give longer ones."
        )
    names = place_names(model)
    places = range(len(names)) if places is None else places
    groups = min(GROUPS, len(texts))
    of_text = torch.arange(len(texts)) * groups // len(texts)
    positions = len(texts) * length
    sampled = torch.linspace(0, positions - 1, min(NEIGHBOUR_POINTS, positions)).long()
    collected = {place: _Collector(groups) for place in places}
    for number, states in enumerate(stream_states(model, texts)):
        inside = sampled[sampled // length == number] % length
        for place, collector in collected.items():
            collector.add(int(of_text[number]), states[place][skip:], inside)
    dimensions = next(iter(collected.values())).means.shape[1]
    if positions <= dimensions:
        warnings.warn(
            f"{positions} positions are too few for {dimensions} dimensions: no participation ratio or rank can "
            f"come out above {positions - 1}. Give more or longer texts.",
            stacklevel=2,
        )
    return {names[place]: collector.finished() for place, collector in collected.items()}


class _Collector:
    """Adds up the moments of one place, text by text."""

    def __init__(self, groups: int) -> None:
        self.counts = torch.zeros(groups)
        self.means, self.scatters = torch.empty(0), torch.empty(0)
        self.points: list[Tensor] = []
        self.groups: list[int] = []

    def add(self, group: int, states: Tensor, sampled: Tensor) -> None:
        if not self.groups:
            d = states.shape[1]
            self.means, self.scatters = torch.zeros(len(self.counts), d), torch.zeros(len(self.counts), d, d)
        # Around the text's own mean first: in float32 a large mean would swallow a small variance.
        mean, count = states.mean(dim=0), len(states)
        centred, shift = states - mean, mean - self.means[group]
        before = self.counts[group].clone()
        self.scatters[group].addmm_(centred.T, centred)
        self.scatters[group].addr_(shift, shift, alpha=float(before * count / (before + count)))
        self.means[group] += shift * count / (before + count)
        self.counts[group] += count
        self.points.append(states[sampled])
        self.groups += [group] * len(sampled)

    def finished(self) -> Moments:
        points = torch.cat(self.points)
        # The nearest point to each is itself.
        distances, _ = NearestNeighbors(n_neighbors=3, algorithm="brute").fit(points.numpy()).kneighbors(points.numpy())
        apart = distances[:, 1] > 0  # equal tokens in equal contexts have no distance
        return Moments(
            self.counts,
            self.means,
            self.scatters,
            torch.from_numpy(distances[apart, 1:].astype(np.float64)),
            torch.tensor(self.groups)[torch.from_numpy(apart)],
        )


MEASURES: dict[str, Callable[[Moments, Tensor, Tensor], Tensor]] = {
    "participation ratio": lambda moments, weights, covariances: participation_ratio(covariances),
    "uncentred": lambda moments, weights, covariances: participation_ratio(moments.uncentred(weights, covariances)),
    "standardised": lambda moments, weights, covariances: participation_ratio(standardised(covariances)),
    "effective rank": lambda moments, weights, covariances: effective_rank(covariances),
    "TwoNN": lambda moments, weights, covariances: torch.tensor([moments.two_nn(row) for row in weights]),
}
"""What is measured at a place. ``uncentred`` and ``standardised`` are participation ratios too."""


def measure(moments: Moments, measures: Sequence[str] = tuple(MEASURES)) -> pd.DataFrame:
    """Measures of one place, with 95 % intervals.

    The interval is ``value * exp(+-1.96 s)``, with s the standard deviation of the measure's logarithm over bootstrap
    sets of texts: how much it would vary with as many other texts. Percentiles of these sets would lie too low: a
    redrawn set has some texts twice and others never, and so fills fewer dimensions than as many different texts.
    More texts would give larger values, for every model: that is not in the interval.

    Args:
        moments: of one place.
        measures: names from :data:`MEASURES`.

    Returns:
        One row a measure: ``measure``, ``value``, ``low``, ``high``.
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
    """Measures at every place of one model (see :func:`measure` and :func:`layer_states`).

    Returns:
        The columns of :func:`measure`, after ``place`` and ``depth`` (its number, from 0).

    Raises:
        GeometryError: there are fewer than two texts, or they are too short.
    """
    names = place_names(model)
    at_once = max(1, MOMENT_MEMORY // (min(GROUPS, len(texts)) * _width(model) ** 2 * 4))
    frames = []
    for start in range(0, len(names), at_once):
        places = range(start, min(start + at_once, len(names)))
        for place, moments in zip(places, layer_states(model, texts, places, skip).values(), strict=True):
            frames.append(measure(moments, measures).assign(place=names[place], depth=place))
    return pd.concat(frames, ignore_index=True)[["place", "depth", "measure", "value", "low", "high"]]


def _width(model: CausalLM) -> int:
    """d, the number of dimensions of the residual stream."""
    return int(model.config.get_text_config().hidden_size)


def distances(base: CausalLM, tuned: CausalLM, texts: Tensor) -> pd.DataFrame:
    """How far a model's states are from another's on the same texts, at every place.

    Returns:
        Columns as of :func:`measure_layers`. The measures are ``cosine`` (between the two states of a position) and
        ``L2`` (length of their difference), means over positions but the first, with bootstrap intervals over texts.

    Raises:
        GeometryError: the models differ in depth or width.
    """
    names = place_names(base)
    if names != place_names(tuned) or _width(base) != _width(tuned):
        raise GeometryError("The two models differ in depth or width: compare a model with a tuned copy of itself.")
    of_text: dict[tuple[int, str], list[float]] = {}
    for ours, theirs in zip(stream_states(base, texts), stream_states(tuned, texts), strict=True):
        for place, (before, after) in enumerate(zip(ours, theirs, strict=True)):
            before, after = before[SKIP:], after[SKIP:]
            cosine = torch.cosine_similarity(before, after, dim=-1).mean().item()
            of_text.setdefault((place, "cosine"), []).append(cosine)
            of_text.setdefault((place, "L2"), []).append((after - before).norm(dim=-1).mean().item())
    rows = []
    for (place, name), values in of_text.items():
        interval = dict(zip(("value", "low", "high"), bootstrap_interval(values), strict=True))
        rows.append({"place": names[place], "depth": place, "measure": name, **interval})
    return pd.DataFrame(rows)


def compare_layers(
    base: CausalLM, tuned: CausalLM, texts: Tensor, measures: Sequence[str] = tuple(MEASURES)
) -> pd.DataFrame:
    """The measures at every place of two models, and the distances between them.

    Args:
        base: the model before training.
        tuned: the same model after it.
        texts: token ids that neither was trained on, shape (n, size).
        measures: names from :data:`MEASURES`.

    Returns:
        The columns of :func:`measure_layers`, and ``model``: ``base``, ``tuned``, or ``both`` for distances.

    Raises:
        GeometryError: there are fewer than two texts, they are too short, or the models differ in depth or width.
    """
    between = distances(base, tuned, texts).assign(model="both")
    frames = [
        measure_layers(model, texts, measures).assign(model=name) for name, model in (("base", base), ("tuned", tuned))
    ]
    return pd.concat([*frames, between], ignore_index=True)


@torch.no_grad()
def logit_lens(model: CausalLM, texts: Tensor) -> pd.DataFrame:
    """From which block on the final norm and the head would already give the model's own next token.

    The stream after each block is sent through the final norm and the head as if it were the last
    (nostalgebraist, 2020).

    Returns:
        ``place``, ``depth``, ``measure`` (always ``same token``), ``value`` (share of positions at which the most
        probable token is the final one), ``low`` and ``high`` (bootstrap over texts).
    """
    parts, names = anatomy(model), place_names(model)
    device = unwrapped(model).device
    shares: dict[int, list[float]] = {place: [] for place in range(len(names))}
    for states in stream_states(model, texts):
        final = parts.head(states[-1].to(device)).argmax(dim=-1)
        for place, stream in enumerate(states[:-1]):
            token = parts.head(parts.final_norm(stream.to(device))).argmax(dim=-1)
            shares[place].append((token == final).double().mean().item())
        shares[len(names) - 1].append(1.0)
    rows = [(place, *bootstrap_interval(values)) for place, values in shares.items()]
    return pd.DataFrame(
        {"place": names[place], "depth": place, "measure": "same token", "value": value, "low": low, "high": high}
        for place, value, low, high in rows
    )
