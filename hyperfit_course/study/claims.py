"""Does it replicate? What the papers say, what was predicted here, and what was measured.

Every statement that a chapter tests stands in ``results/predictions.json``, with the effect that it predicts and the
size from which on it holds. It is committed before the rows that test it. The chapter brings the measured values, and
the verdict follows (:func:`verdict_of`). A statement that cannot fail is a *fact* and has no verdict.

While the book is being built, the claims are also written to the file that the environment variable
``HYPERFIT_CLAIMS`` names; running a notebook otherwise writes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from hyperfit_course.artifacts import atomic_path
from hyperfit_course.metrics import Interval, bootstrap_interval
from hyperfit_course.study.records import recorded
from hyperfit_course.study.statistics import Estimate, t_interval, with_power

pd.set_option("display.max_colwidth", None)  # a claim is a sentence, and pandas would cut it at 50 characters

HOLDS, DIRECTION, INCONCLUSIVE, CONTRADICTED = "holds", "direction only", "inconclusive", "contradicted"
FACT = "fact"  #: In place of a verdict, for what cannot fail.
SEEDS, PROMPTS, TEXTS = "seeds", "prompts", "texts"
"""Units over which an interval is taken: training seeds, or the prompts or texts that one model was given."""


@dataclass(frozen=True)
class Prediction:
    """A statement before it is tested."""

    id: str
    chapter: str
    claim: str  #: The statement, one sentence.
    effect: str  #: The number that is estimated, positive in the direction of the statement.
    threshold: float | None  #: The effect from which on it holds; ``None`` for a fact.
    why: str  #: Why this threshold, or why it cannot fail.
    over: str | None  #: Unit of the interval: :data:`SEEDS`, :data:`PROMPTS`, :data:`TEXTS`; none for a fact.
    paper: str  #: What the paper reports.
    differs: str  #: What is different here.


@dataclass(frozen=True)
class Claim:
    """A statement and how it fared."""

    prediction: Prediction
    measured: str  #: The measured numbers for a table, with their units.
    estimate: Estimate | None  #: Of the effect.

    @property
    def verdict(self) -> str:
        """One of the four verdicts, or :data:`FACT`."""
        if self.estimate is None or self.prediction.threshold is None:
            return FACT
        return verdict_of(self.estimate, self.prediction.threshold)


def verdict_of(estimate: Interval | Estimate, threshold: float) -> str:
    """What an interval says of a predicted effect of at least ``threshold``, which is 0 or more.

    - *holds*: the interval lies above 0, and the estimate reaches the threshold;
    - *direction only*: the interval lies above 0, and the estimate is smaller than the threshold;
    - *contradicted*: the interval lies below 0; or it holds 0 and lies below the threshold, so that neither a direction
      is seen nor an effect of that size is possible;
    - *inconclusive*: the interval holds 0 and the threshold.
    """
    if estimate.low > 0:
        return HOLDS if estimate.mean >= threshold else DIRECTION
    return CONTRADICTED if estimate.high < threshold else INCONCLUSIVE


def predictions() -> dict[str, Prediction]:
    """All statements that the course tests, by their ids."""
    return {row["id"]: Prediction(**row) for row in recorded("predictions")}


def judged(name: str, measured: str, values: ArrayLike, estimate: Interval | None = None) -> Claim:
    """The claim ``name`` with the values that test it.

    Args:
        name: id of its prediction.
        measured: the numbers for the table.
        values: the effect, one value a seed, prompt or text: over seeds a t interval is taken, else a bootstrap.
        estimate: an interval of the effect that was found in another way; then the values tell the power only.

    Raises:
        ValueError: the statement is a fact; see :func:`fact`.
    """
    prediction = predictions()[name]
    if prediction.over is None:
        raise ValueError(f"{name} is a fact, and nothing tests it: use fact().")
    if prediction.over == SEEDS:
        return Claim(prediction, measured, t_interval(values))
    return Claim(prediction, measured, with_power(estimate or bootstrap_interval(np.asarray(values)), values))


def fact(name: str, measured: str) -> Claim:
    """The claim ``name``, which cannot fail, with the number that it is about.

    Raises:
        ValueError: it can fail; see :func:`judged`.
    """
    prediction = predictions()[name]
    if prediction.over is not None:
        raise ValueError(f"{name} can fail, so it is no fact: use judged().")
    return Claim(prediction, measured, None)


def claim_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """The claims of a chapter for its readers, one row each."""
    return pd.DataFrame([_shown(claim) for claim in claims]).set_index("claim")


def _shown(claim: Claim) -> dict[str, str]:
    prediction, estimate = claim.prediction, claim.estimate
    effect, asked, missed = "", "", ""
    if estimate is not None:
        asked = f"{prediction.threshold:.3g}" if prediction.threshold else "any above 0"
        effect = f"{prediction.effect}: {estimate} over {estimate.n} {prediction.over}"
        if claim.verdict == INCONCLUSIVE:
            missed = f" (an effect of {estimate.smallest:.3f} would have been found)"
    return {
        "claim": prediction.claim,
        "paper": prediction.paper,
        "differs from the paper": prediction.differs,
        "here": claim.measured,
        "effect, 95 % interval": effect,
        "asked for": asked,
        "verdict": claim.verdict + missed,
    }


def record_claims(claims: Sequence[Claim]) -> str:
    """Write claims to the file that ``HYPERFIT_CLAIMS`` names, if it is set, in place of older ones with their ids.

    Returns:
        One line a claim, its id and its verdict: what the tests of the notebooks compare.
    """
    target = os.environ.get("HYPERFIT_CLAIMS")
    if target:
        path = Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        merged = {row["id"]: row for row in known} | {claim.prediction.id: _as_json(claim) for claim in claims}
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps([merged[key] for key in sorted(merged)], indent=1) + "\n", encoding="utf-8")
    return "\n".join(f"{claim.prediction.id}: {claim.verdict}" for claim in claims)


def _as_json(claim: Claim) -> dict[str, Any]:
    estimate = claim.estimate._asdict() if claim.estimate else None
    return {**asdict(claim.prediction), "measured": claim.measured, "estimate": estimate, "verdict": claim.verdict}
