"""What passes from block to block? The states of the residual stream at every layer of a model, and their moments.

A *layer* is here a point of the network at which the stream can be read: after each block, and after the final norm.
transformers calls the output of the norm the last hidden state, and it is easily taken for the stream after the last
block. The states at a layer, over many positions, are a cloud of points in d dimensions. Only a sample of them is kept,
for nearest neighbours; the rest is a d x d matrix of second moments for each group of texts and layer.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from hyperfit_course.anatomy import TEXTS_AT_ONCE, CausalLM, anatomy, hidden_state, unwrapped

FINAL_NORM = "final norm"
GROUPS = 32  #: Most groups of texts whose moments are held apart; the bootstrap redraws groups.
NEIGHBOUR_POINTS = 1000  #: Positions among which nearest neighbours are looked for.
SKIP = 1
"""Positions left out at the start of every text. The first one has no context; in many models its state is so much
longer than all others that it would decide the covariance alone (Sun et al., 2024, on massive activations)."""


class GeometryError(ValueError):
    """The geometry cannot be measured on these texts; the message says why and what to do."""


def layer_names(model: CausalLM) -> list[str]:
    """The layers of :func:`stream_states`: ``block 0`` to the last one, and ``final norm``."""
    return [f"block {number}" for number in range(len(anatomy(model).blocks))] + [FINAL_NORM]


@torch.no_grad()
def stream_states(model: CausalLM, texts: Tensor) -> Iterator[list[Tensor]]:
    """The residual stream after every block, and the output of the final norm, text by text.

    Yields:
        For each text (token ids, shape (n, length)) one float32 tensor a layer (:func:`layer_names`) on the CPU, shape
        (length, d).
    """
    parts = anatomy(model)
    seen: list[Tensor] = []
    for batch in texts.split(TEXTS_AT_ONCE):
        with contextlib.ExitStack() as hooks:
            for module in (*parts.blocks, parts.final_norm):
                hooks.enter_context(module.register_forward_hook(lambda m, i, out: seen.append(hidden_state(out))))
            parts.body(input_ids=batch.to(unwrapped(model).device), use_cache=False)
        for text in range(len(batch)):
            yield [states[text].float().cpu() for states in seen]
        seen.clear()


@dataclass(frozen=True)
class Moments:
    """First and second moments of the states at one layer, for each group of texts."""

    counts: Tensor  #: Positions, shape (groups,).
    means: Tensor  #: Shape (groups, d).
    scatters: Tensor  #: Sums of ``(x - mean)(x - mean)^T`` over a group's positions, shape (groups, d, d).
    points: Tensor  #: A sample of the states, shape (points, d).
    group_of_point: Tensor  #: The group of each of these points, shape (points,).

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
    model: CausalLM, texts: Tensor, layers: Sequence[int] | None = None, skip: int = SKIP
) -> dict[str, Moments]:
    """Moments of the states at the layers of a model, by the name of the layer.

    Args:
        texts: token ids, shape (n, length); the first ``skip`` positions of each are left out.
        layers: numbers of the layers (:func:`layer_names`); all of them by default, which takes 32 x d x d floats
            for each (1.3 GB for the embedded model).

    Raises:
        GeometryError: there are fewer than two texts, or they are too short.

    Warns:
        UserWarning: there are no more positions than dimensions, which bounds every measure of dimension.
    """
    names = layer_names(model)
    collection = Collection(texts, range(len(names)) if layers is None else layers, skip)
    for states in stream_states(model, texts):
        collection.add(states)
    return {names[layer]: moments for layer, moments in collection.finished().items()}


class Collection:
    """Adds up the moments of one model at some layers, text by text."""

    def __init__(self, texts: Tensor, layers: Sequence[int], skip: int) -> None:
        number, length = texts.shape
        if number < 2:
            raise GeometryError("The geometry needs two texts at least, to redraw them for intervals: give more.")
        if length <= skip:
            raise GeometryError(f"Texts of {length} tokens have none left without the first {skip}: give longer ones.")
        groups = min(GROUPS, number)
        self.skip, self.length, self.positions, self.read = skip, length - skip, number * (length - skip), 0
        self.group_of_text = (torch.arange(number) * groups // number).tolist()
        self.sampled = torch.linspace(0, self.positions - 1, min(NEIGHBOUR_POINTS, self.positions)).long()
        self.collectors = {layer: _LayerMoments(groups) for layer in layers}

    def add(self, states: list[Tensor]) -> None:
        inside = self.sampled[self.sampled // self.length == self.read] % self.length
        for layer, collector in self.collectors.items():
            collector.add(self.group_of_text[self.read], states[layer][self.skip :], inside)
        self.read += 1

    def finished(self) -> dict[int, Moments]:
        dimensions = next(iter(self.collectors.values())).means.shape[1]
        if self.positions <= dimensions:
            warnings.warn(
                f"{self.positions} positions are too few for {dimensions} dimensions: no participation ratio or rank "
                f"can come out above {self.positions - 1}. Give more or longer texts.",
                stacklevel=3,
            )
        return {layer: collector.finished() for layer, collector in self.collectors.items()}


class _LayerMoments:
    """Adds up the moments of one layer, text by text."""

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
