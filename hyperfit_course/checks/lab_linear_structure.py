"""Checks of the exercises of the lab on local linear structure."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfit_course.checks.core import Answer, exercise, need


def _share(updates: Tensor, displacement: Tensor) -> float:
    """What the first exercise asks for, by the eigenvectors of the inner products."""
    values, vectors = torch.linalg.eigh(updates.double() @ updates.double().T)
    kept = values > 1e-9 * values[-1]
    part = (vectors[:, kept] / values[kept].sqrt()).T @ (updates.double() @ displacement.double())
    return float(part.square().sum() / displacement.double().square().sum())


def _near(found: float, wanted: float) -> bool:
    return abs(found - wanted) < 1e-3


@exercise(
    points=3,
    notice="Try one update that points the other way. Why does it capture as much as one that points ahead?",
)
def captured(answer: Answer) -> None:
    """Whether a function gives the share of a displacement in the span of some updates."""
    axes, way = torch.eye(3)[:2], torch.tensor([3.0, 4.0, 12.0])
    given = "For updates along the first two axes and the displacement (3, 4, 12)"
    found = answer.number(axes, way)
    need(not _near(found, 5 / 13), f"{given} it gives 0.385, a ratio of lengths: that of their squares is wanted.")
    need(
        not _near(found, 49 / 338),
        f"{given} it gives 0.145, the squared cosine with one vector, the sum of the updates: they span a plane.",
    )
    need(not _near(found, 2 / 169), f"{given} the ratio is that of the updates to the way: project the way first.")
    need(_near(found, 25 / 169), f"{given} it gives {found:.3g}, and 25 / 169 = 0.148 is right.")
    found = answer.number(torch.tensor([[5.0, 0.0, 0.0], [0.0, 0.1, 0.0]]), way)
    need(_near(found, 25 / 169), "With updates of other lengths, 5 and 0.1, the share changes: only directions count.")
    skew = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    found = answer.number(skew, torch.tensor([1.0, 0.0, 0.0]))
    need(
        found < 1.001,
        f"For the updates (1, 0, 0) and (1, 1, 0) and a displacement along the first, the share is {found:.3g}, more "
        "than all: these updates are not orthogonal, so what both have is counted twice.",
    )
    need(_near(found, 1), f"A displacement that is one of the updates has a share of {found:.3g}, and not 1.")
    twice = torch.tensor([[1.0, 2.0, 0.0], [-2.0, -4.0, 0.0]])
    found = answer.number(twice, way)
    need(
        _near(found, 121 / 845),
        f"Where one update is a multiple of another, the share is {found:.3g}, and 0.143 is right: together they span "
        "a line and not a plane.",
    )
    generator = torch.Generator().manual_seed(0)
    updates, way = torch.randn(4, 9, generator=generator), torch.randn(9, generator=generator)
    need(_near(answer.number(updates, way), _share(updates, way)), "For four random updates the share is wrong.")


@exercise(
    points=2,
    notice="What would this share be for a random walk? And the share of the whole way?",
)
def still_to_come(answer: Answer) -> None:
    """Whether a function gives the share of the rest of a way in the span of the first updates."""
    updates = torch.randn(9, 12, generator=torch.Generator().manual_seed(1)) + 0.5
    wanted = _share(updates[:3], updates[3:].sum(0))
    found = answer.number(updates, 3)
    given = "For nine random updates and k = 3"
    need(
        not _near(found, _share(updates[:3], updates.sum(0))),
        f"{given} it is the share of the whole way: the first updates are a part of that themselves.",
    )
    need(
        not _near(found, _share(updates[:3], updates[2:].sum(0))),
        f"{given} the rest of the way begins one update too early.",
    )
    need(
        not _near(found, _share(updates[:3], updates[4:].sum(0))),
        f"{given} the rest of the way begins one update too late.",
    )
    need(
        not _near(found, _share(updates[3:], updates[:3].sum(0))),
        f"{given} it is the share of the beginning that the later updates span: the other way round is wanted.",
    )
    need(
        not _near(found, wanted * float(updates[3:].sum(0).square().sum())),
        f"{given} it is a squared length: divide by that of the rest of the way.",
    )
    need(_near(found, wanted), f"{given} it gives {found:.3g}, and {wanted:.3g} is right.")
    apart = torch.eye(5)
    need(_near(answer.number(apart, 2), 0), "For five orthogonal updates nothing of the rest is in the first two.")


@exercise(
    points=2,
    notice="Let all shifts have a large part in common. Why do balanced signs take it away?",
)
def shuffled_cosines(answer: Answer) -> None:
    """Whether a function gives the cosines of shifts with shuffled labels."""
    generator = torch.Generator().manual_seed(2)
    shifts, vector = torch.randn(6, 8, generator=generator) + 1, torch.randn(8, generator=generator)
    signs = torch.tensor(
        [[1.0, -1, 1, -1, 1, -1], [1, 1, 1, -1, -1, -1], [1, 1, 1, 1, 1, 1], [-1, -1, 1, 1, 1, -1], [-1] * 6]
    )
    mixed = signs @ shifts
    wanted = torch.nn.functional.cosine_similarity(mixed, vector, dim=-1)
    found = answer.tensor(shifts, vector, signs, shape=(5,))

    def close(other: Tensor) -> bool:
        return bool(torch.allclose(found, other, atol=1e-4))

    alone = torch.nn.functional.cosine_similarity(shifts, vector, dim=-1)
    given = "For six random shifts"
    need(
        not close(signs @ alone / 6),
        f"{given} it is the mean of the cosines of the single shifts: long shifts count for more in the shift of all.",
    )
    need(not close(wanted.abs()), f"{given} the signs of the cosines are lost.")
    need(not close(mixed @ vector), f"{given} it is an inner product: divide by both lengths.")
    need(
        not close(mixed @ vector / mixed.norm(dim=-1)),
        f"{given} it is divided by the length of the shifts only, and not by that of the vector.",
    )
    need(
        not close(wanted[2].expand(5)),
        f"{given} all labels give the same cosine: the signs were not used.",
    )
    need(close(wanted), f"{given} some cosine is wrong.")
