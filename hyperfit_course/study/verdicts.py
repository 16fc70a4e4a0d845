"""Does it hold for this model? The course's predictions, tested with the rows of a study.

Statements, effects and thresholds are those of ``results/predictions.json``: they were written down for the course's
model, before anybody measured another one. Numbers of its blocks become parts of the network. The unit is the training
seed, as in the course. With one seed there is a number and no verdict.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hyperfit_course.sources import PACKAGE
from hyperfit_course.study.changes import BASE_SPECTRUM, END_OFF, MIDDLE_OFF, OWN_SPECTRUM
from hyperfit_course.study.claims import Prediction, predictions, verdict_of
from hyperfit_course.study.recording import Row
from hyperfit_course.study.statistics import t_interval

ONE_SEED, NOT_MEASURED = "one seed: no verdict", "not measured"
FULL, LAST, MIDDLE, FIRST, ALL = "hyperfitted", "last 5", "middle 5", "first 5", "all blocks"
TURNED = f"{MIDDLE}, random directions"


def values(rows: Sequence[Row], part: str, arm: str, column: str, **where: Any) -> pd.Series:
    """One number of each seed of an arm, by its seed."""
    wanted = {"part": part, "arm": arm, **where}
    found = {
        row["seed"]: float(row[column])
        for row in rows
        if all(row.get(name) == value for name, value in wanted.items()) and row.get(column) is not None
    }
    return pd.Series(found, dtype=float)


def _base(rows: Sequence[Row], part: str, column: str) -> float:
    found = values(rows, part, "base", column)
    return float(found.iloc[0]) if len(found) else float("nan")


Test = Callable[[Sequence[Row]], pd.Series]


def _gain(part: str, column: str, arm: str = FULL, sign: int = 1) -> Test:
    """An arm minus the base model (or the other way round)."""
    return lambda rows: sign * (values(rows, part, arm, column) - _base(rows, part, column))


def _between(arm: str, other: str, margin: float = 0.0, column: str = "ttr") -> Test:
    """One arm minus another, seed by seed."""
    return lambda rows: values(rows, "writing", arm, column) - values(rows, "writing", other, column) + margin


def _of(
    part: str, column: str, change: Callable[[pd.Series], pd.Series] = lambda series: series, arm: str = FULL
) -> Test:
    return lambda rows: change(values(rows, part, arm, column))


def _way(way: str, other: str) -> Test:
    return lambda rows: (
        values(rows, "sampling", FULL, "ttr", way=way) - values(rows, "sampling", FULL, "ttr", way=other)
    )


def _cell(first: tuple[str, str], second: tuple[str, str]) -> Test:
    """Differences of two cells of order and shape."""

    def difference(rows: Sequence[Row]) -> pd.Series:
        of, over = (values(rows, "order", FULL, "ttr", order=order, shape=shape) for order, shape in (first, second))
        return of - over

    return difference


def _bias(kinds: tuple[str, ...]) -> Test:
    """Half of the gain minus the best gain that a static bias reaches."""

    def left(rows: Sequence[Row]) -> pd.Series:
        base = _base(rows, "writing", "ttr")
        tried = [row for row in rows if row.get("part") == "bias" and row.get("bias") in kinds]
        best = pd.Series({row["seed"]: 0.0 for row in tried}, dtype=float)
        for row in tried:
            best[row["seed"]] = max(best[row["seed"]], row["ttr"] - base)
        return (values(rows, "writing", FULL, "ttr") - base) / 2 - best

    return left


def _expansion(column: str) -> Test:
    return lambda rows: np.log(values(rows, "geometry", FULL, column) / _base(rows, "geometry", column))


def _rise(rows: Sequence[Row]) -> pd.Series:
    after, before = (values(rows, "training", FULL, f"validation_loss{when}") for when in ("", "_before"))
    return after - before


def _last_block(rows: Sequence[Row]) -> pd.Series:
    after, before = (values(rows, "geometry", FULL, column) for column in ("prenorm", "before_last"))
    return pd.Series(np.log(after / before), dtype=float)


def _gained(rows: Sequence[Row], part: str = "writing", arm: str = FULL, **where: Any) -> pd.Series:
    """How much more diverse than the base model's greedy text the text of a part is."""
    return values(rows, part, arm, "ttr", **where) - _base(rows, "writing", "ttr")


def _kept(rows: Sequence[Row], way: str) -> pd.Series:
    """Share of the gain of adapters on all blocks that is left when some are off."""
    return _gained(rows, "switching", ALL, way=way) / _gained(rows, arm=ALL)


def _spectrum(rows: Sequence[Row]) -> pd.Series:
    """The smaller of two effects: what is lost without the spectrum, and what the base model gains with it."""
    half = _gained(rows) / 2
    lost = half - _gained(rows, "spectrum", way=BASE_SPECTRUM)
    given = _gained(rows, "spectrum", way=OWN_SPECTRUM) - half
    return pd.concat([lost, given], axis=1).min(axis=1, skipna=False)


_BASE, _TUNED = "base", "hyperfitted"
TESTS: dict[str, Test] = {
    "hyperfit-ttr": _gain("writing", "ttr"),
    "hyperfit-bigram": _gain("writing", "bigram_repetition", sign=-1),
    "hyperfit-entropy": _gain("prediction", "prompt_entropy", sign=-1),
    "hyperfit-val-loss": _rise,
    "hyperfit-across-prompts": _gain("writing", "distinct_3"),
    "hyperfit-recites-little": _of("writing", "recited", lambda shares: 0.1 - shares),
    "temperature-sampled-ttr": _way("hyperfitted", "base at T*"),
    "order-under-its-shape": _cell((_TUNED, _TUNED), (_BASE, _TUNED)),
    "order-under-base-shape": _cell((_TUNED, _BASE), (_BASE, _BASE)),
    "sharpening-costs": _cell((_BASE, _BASE), (_BASE, _TUNED)),
    "static-bias-harms-or-fails": _bias(("500 tokens", "all tokens")),
    "learned-bias-fails": _bias(("learned",)),
    "rank-override-share": _of("prediction", "override_share"),
    "rank-deep-tail": _of("prediction", "deep_tail_of_all"),
    **{
        f"terminal-expansion-{place}{positions}{centring}": _expansion(
            f"{place}{'_uncentred' if centring else ''}{'_all' if positions else ''}"
        )
        for place in ("prenorm", "postnorm")
        for positions in ("", "-all-positions")
        for centring in ("", "-uncentred")
    },
    "last-block-expands": _last_block,
    "late-stage-ttr": _gain("writing", "ttr", LAST),
    "late-stage-vs-full": _between(LAST, ALL, 0.039),
    "late-stage-vs-first-five": _between(LAST, FIRST),
    "late-stage-vs-middle-five": _between(LAST, MIDDLE),
    "damage-does-less": lambda rows: values(rows, "writing", MIDDLE, "ttr") - values(rows, "damage", TURNED, "ttr"),
    "memory-blocked-ttr": lambda rows: _gained(rows, "blocking") - _gained(rows) / 2,
    "control-repetition-penalty": lambda rows: _base(rows, "penalty", "ttr") - values(rows, "writing", FULL, "ttr"),
    "cause-switch-off": lambda rows: _kept(rows, END_OFF) - _kept(rows, MIDDLE_OFF),
    "cause-spectrum": _spectrum,
    "cause-rotated-damage": lambda rows: _gained(rows, "damage", TURNED) - _gained(rows, arm=MIDDLE) / 2,
    "cause-patch": lambda rows: _gained(rows, arm=MIDDLE) / 2 - _gained(rows, "patching", MIDDLE),
}
"""What tests a prediction: one value a seed, the effect in its direction."""
AT_ANY_DEPTH = {
    "blocks 10 to 19": "the middle third of the blocks",
    "blocks 25 to 29": "the last sixth",
    "10-19": "the middle third",
    "25-29": "the last sixth",
    "after block 17": "after the last trained block",
}
"""What the predictions name by numbers, of a network of 30 blocks, in words that hold for others."""


def claims(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every prediction that a study can test: the paper's number, the course's, and this model's, as JSON values."""
    course = _of_course()
    return [_claim(prediction, course.get(name), rows) for name, prediction in predictions().items() if name in TESTS]


def _claim(prediction: Prediction, course: dict[str, Any] | None, rows: Sequence[Row]) -> dict[str, Any]:
    effects = TESTS[prediction.id](rows).dropna().sort_index()
    estimate = t_interval(effects.to_numpy()) if len(effects) > 1 else None
    verdict = NOT_MEASURED if effects.empty else ONE_SEED
    if estimate is not None and prediction.threshold is not None:
        verdict = verdict_of(estimate, prediction.threshold)
    measured = "" if effects.empty else f"{effects.mean():+.3f}" if estimate is None else str(estimate)
    return {
        "id": prediction.id,
        "claim": _at_any_depth(prediction.claim),
        "effect": _at_any_depth(prediction.effect),
        "threshold": prediction.threshold,
        "paper": prediction.paper,
        "course": course and {"measured": course["measured"], "verdict": course["verdict"]},
        "measured": measured,
        "values": {str(seed): value for seed, value in effects.items()},
        "estimate": estimate and estimate._asdict(),
        "verdict": verdict,
    }


def _at_any_depth(text: str) -> str:
    for numbers, words in AT_ANY_DEPTH.items():
        text = text.replace(numbers, words)
    return text


def _of_course() -> dict[str, dict[str, Any]]:
    """The course's own claims, by their ids."""
    for folder in (PACKAGE / "results", PACKAGE.parent / "results"):
        path = folder / "claims.json"
        if path.is_file():
            return {row["id"]: row for row in json.loads(path.read_text(encoding="utf-8"))}
    return {}
