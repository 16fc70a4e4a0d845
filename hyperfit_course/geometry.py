"""Where does it happen? The shape of the residual stream after every block.

The states of a model at one place, over many positions of text, are a cloud of points in d dimensions. What is asked
of it is how many of these dimensions it uses, and how far it moved in training. Of the states themselves only a
sample is kept, for nearest neighbours; the rest is a d x d matrix of second moments for each text and place. Both the
stream after the last block and the output of the final norm are places of their own: transformers calls the latter
the last hidden state, and the two are easily mixed up.
"""

from __future__ import annotations

import contextlib
import functools
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
MOMENT_MEMORY = 3 << 30
"""Bytes of moments that are held at a time; where all places need more, the texts are read several times."""
TEXTS_AT_ONCE = 4
"""Texts that are read together: enough to keep a processor busy, and few enough for a small memory."""
SKIP = 1
"""Positions left out at the start of every text. The first one has no context; in many models its state is so much
longer than all others that it would decide the covariance alone (Sun et al., 2024, on massive activations)."""
NEIGHBOUR_POINTS = 1000
"""Positions among which nearest neighbours are looked for."""
LENS_STEP = 4
"""The logit lens reads every fourth position of a text: the head, once for every block, is its whole cost."""


class GeometryError(ValueError):
    """The geometry cannot be measured on these texts; the message says why and what to do."""


def place_names(model: CausalLM) -> list[str]:
    """The places of :func:`stream_states`: ``block 0`` to the last one, and ``final norm``."""
    return [f"block {number}" for number in range(len(anatomy(model).blocks))] + [FINAL_NORM]


@torch.no_grad()
def stream_states(model: CausalLM, texts: Tensor) -> Iterator[list[Tensor]]:
    """The residual stream after every block, and the output of the final norm, text by text.

    Args:
        model: a causal language model of any family.
        texts: token ids, shape (n, size).

    Yields:
        For each text one tensor a place (:func:`place_names`), float32 on the CPU, shape (size, d).
    """
    parts = anatomy(model)
    seen: list[Tensor] = []
    for batch in texts.split(TEXTS_AT_ONCE):
        with contextlib.ExitStack() as hooks:
            for module in (*parts.blocks, parts.final_norm):
                hook = module.register_forward_hook(lambda m, i, output: seen.append(hidden_state(output)))
                hooks.callback(hook.remove)
            parts.body(input_ids=batch.to(unwrapped(model).device), use_cache=False)
        for text in range(len(batch)):
            yield [states[text].float().cpu() for states in seen]
        seen.clear()


# Measures of one covariance matrix


def participation_ratio(covariance: Tensor) -> Tensor:
    """How many dimensions share the variance: ``(sum of the eigenvalues)^2 / sum of their squares``.

    d for a ball in d dimensions, 1 for a line. With eigenvalues 3 and 1 it is 16 / 10. It equals
    ``trace(C)^2 / trace(C @ C)``, so no eigenvalues are needed; and ``trace(C @ C)`` is the square of the Frobenius
    norm of C. Li et al. (2026) call it effective dimension; the measure is common in neuroscience (Gao et al., 2017).

    Args:
        covariance: symmetric, shape (..., d, d).

    Returns:
        Shape (...).
    """
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return (trace / torch.linalg.matrix_norm(covariance)) ** 2


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
    points: Tensor
    """A sample of the states, shape (points, d)."""
    group_of_point: Tensor
    """The group of each of these points, shape (points,)."""

    def covariance(self, weights: Tensor | None = None) -> Tensor:
        """Covariance over all positions, shape (d, d), or (sets, d, d) with weights of the groups (sets, groups)."""
        if weights is None:
            return self.covariance(torch.ones(1, len(self.counts)))[0]
        number = weights * self.counts
        total = number.sum(dim=1, keepdim=True)
        shares = number / total
        within = (weights / total) @ self.scatters.flatten(1)
        apart = (self.means - (shares @ self.means)[:, None]) * shares.sqrt()[..., None]
        return within.view(-1, *self.scatters.shape[1:]).baddbmm_(apart.mT, apart)

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

        distances, groups = self._neighbours
        chosen = distances.repeat_interleave(weights[groups].long(), dim=0)
        return float(TwoNN(dist=True).fit(chosen.numpy()).dimension_)

    @functools.cached_property
    def _neighbours(self) -> tuple[Tensor, Tensor]:
        """Distances of the points to their two nearest neighbours, shape (points, 2), and the groups of the points."""
        points = self.points.numpy()
        # The nearest point to each is itself.
        distances, _ = NearestNeighbors(n_neighbors=3, algorithm="brute").fit(points).kneighbors(points)
        apart = torch.from_numpy(distances[:, 1] > 0)  # equal tokens in equal contexts have no distance
        return torch.from_numpy(distances[:, 1:].astype(np.float64))[apart], self.group_of_point[apart]


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
    names = place_names(model)
    collection = _Collection(texts, range(len(names)) if places is None else places, skip)
    for states in stream_states(model, texts):
        collection.add(states)
    return {names[place]: moments for place, moments in collection.finished().items()}


class _Collection:
    """Adds up the moments of one model at some places, text by text."""

    def __init__(self, texts: Tensor, places: Sequence[int], skip: int) -> None:
        if len(texts) < 2:
            raise GeometryError("The geometry needs two texts at least: intervals come from redrawing them.")
        self.length = texts.shape[1] - skip
        if self.length < 1:
            raise GeometryError(
                f"Texts of {texts.shape[1]} tokens have none left without the first {skip}: give longer ones."
            )
        groups = min(GROUPS, len(texts))
        self.skip, self.positions, self.read = skip, len(texts) * self.length, 0
        self.group_of_text = (torch.arange(len(texts)) * groups // len(texts)).tolist()
        self.sampled = torch.linspace(0, self.positions - 1, min(NEIGHBOUR_POINTS, self.positions)).long()
        self.collectors = {place: _Collector(groups) for place in places}

    def add(self, states: list[Tensor]) -> None:
        inside = self.sampled[self.sampled // self.length == self.read] % self.length
        for place, collector in self.collectors.items():
            collector.add(self.group_of_text[self.read], states[place][self.skip :], inside)
        self.read += 1

    def finished(self) -> dict[int, Moments]:
        dimensions = next(iter(self.collectors.values())).means.shape[1]
        if self.positions <= dimensions:
            warnings.warn(
                f"{self.positions} positions are too few for {dimensions} dimensions: no participation ratio or rank "
                f"can come out above {self.positions - 1}. Give more or longer texts.",
                stacklevel=3,
            )
        return {place: collector.finished() for place, collector in self.collectors.items()}


class _Collector:
    """Adds up the moments of one place, text by text."""

    def __init__(self, groups: int) -> None:
        self.counts = torch.zeros(groups)
        self.means, self.scatters = torch.empty(0), torch.empty(0)
        self.points: list[Tensor] = []
        self.groups: list[int] = []

    def add(self, group: int, states: Tensor, sampled: Tensor) -> None:
        if not self.means.numel():
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
        return Moments(self.counts, self.means, self.scatters, torch.cat(self.points), torch.tensor(self.groups))


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
    return _measured([model], texts, measures, skip)[0]


def compare_layers(
    base: CausalLM, tuned: CausalLM, texts: Tensor, measures: Sequence[str] = tuple(MEASURES)
) -> pd.DataFrame:
    """The measures at every place of two models, and how far their states are from each other.

    Args:
        base: the model before training.
        tuned: the same model after it.
        texts: token ids that neither was trained on, shape (n, size).
        measures: names from :data:`MEASURES`.

    Returns:
        The columns of :func:`measure_layers`, and ``model``: ``base`` or ``tuned``. Rows with the model ``both`` have
        the measures ``cosine`` (between the two states of a position) and ``L2`` (length of their difference): means
        over positions but the first, with bootstrap intervals over texts.

    Raises:
        GeometryError: there are fewer than two texts, they are too short, or the models differ in depth or width.
    """
    names = place_names(base)
    if names != place_names(tuned) or _width(base) != _width(tuned):
        raise GeometryError("The two models differ in depth or width: compare a model with a tuned copy of itself.")
    between = _Distances(names)
    of_base, of_tuned = _measured([base, tuned], texts, measures, SKIP, between.add)
    frames = {"base": of_base, "tuned": of_tuned, "both": between.frame()}
    return pd.concat([frame.assign(model=model) for model, frame in frames.items()], ignore_index=True)


def _measured(
    models: Sequence[CausalLM],
    texts: Tensor,
    measures: Sequence[str],
    skip: int,
    watch: Callable[..., None] = lambda *states: None,
) -> list[pd.DataFrame]:
    """Measures at every place of models of one shape; ``watch`` sees the states of all of them, text by text."""
    names = place_names(models[0])
    at_once = max(1, MOMENT_MEMORY // (len(models) * min(GROUPS, len(texts)) * _width(models[0]) ** 2 * 4))
    frames: list[list[pd.DataFrame]] = [[] for _ in models]
    for start in range(0, len(names), at_once):
        collections = [_Collection(texts, range(len(names))[start : start + at_once], skip) for _ in models]
        for states in zip(*(stream_states(model, texts) for model in models), strict=True):
            for collection, of_model in zip(collections, states, strict=True):
                collection.add(of_model)
            if start == 0:
                watch(*states)
        for done, collection in zip(frames, collections, strict=True):
            for place, moments in collection.finished().items():
                done.append(measure(moments, measures).assign(place=names[place], depth=place))
    columns = ["place", "depth", "measure", "value", "low", "high"]
    return [pd.concat(done, ignore_index=True)[columns] for done in frames]


def _width(model: CausalLM) -> int:
    """d, the number of dimensions of the residual stream."""
    return int(model.config.get_text_config().hidden_size)


class _Distances:
    """Collects how far the states of two models are from each other, text by text."""

    def __init__(self, names: list[str]) -> None:
        self.of_place: list[tuple[str, dict[str, list[float]]]] = [(name, {"cosine": [], "L2": []}) for name in names]

    def add(self, ours: list[Tensor], theirs: list[Tensor]) -> None:
        for (_, values), before, after in zip(self.of_place, ours, theirs, strict=True):
            before, after = before[SKIP:], after[SKIP:]
            values["cosine"].append(torch.cosine_similarity(before, after, dim=-1).mean().item())
            values["L2"].append((after - before).norm(dim=-1).mean().item())

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(
            _interval_row(name, depth, measure, of_text)
            for depth, (name, values) in enumerate(self.of_place)
            for measure, of_text in values.items()
        )


@torch.no_grad()
def logit_lens(model: CausalLM, texts: Tensor) -> pd.DataFrame:
    """From which block on the final norm and the head would already give the model's own next token.

    The stream after each block is sent through the final norm and the head as if it were the last
    (nostalgebraist, 2020), at every fourth position after the first.

    Returns:
        ``place``, ``depth``, ``measure`` (always ``same token``), ``value`` (share of positions at which the most
        probable token is the final one), ``low`` and ``high`` (bootstrap over texts).
    """
    parts = anatomy(model)
    read = [torch.stack(states)[:, SKIP::LENS_STEP] for states in stream_states(model, texts)]
    *streams, normed = torch.stack(read, dim=1).to(unwrapped(model).device)  # each (texts, positions, d)
    tokens = [parts.head(state).argmax(dim=-1) for state in (*map(parts.final_norm, streams), normed)]
    return pd.DataFrame(
        _interval_row(place, depth, "same token", (token == tokens[-1]).double().mean(dim=1))
        for depth, (place, token) in enumerate(zip(place_names(model), tokens, strict=True))
    )


def _interval_row(place: str, depth: int, measure: str, of_text: list[float] | Tensor) -> dict[str, str | float]:
    """The mean over texts with its bootstrap interval, as a row of a frame."""
    value, low, high = bootstrap_interval(of_text)
    return {"place": place, "depth": depth, "measure": measure, "value": value, "low": low, "high": high}
