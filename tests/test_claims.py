from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperfit_course.metrics import Interval, bootstrap_interval
from hyperfit_course.study import claims
from hyperfit_course.study.claims import (
    CONTRADICTED,
    DIRECTION,
    FACT,
    HOLDS,
    INCONCLUSIVE,
    PROMPTS,
    SEEDS,
    TEXTS,
    Claim,
    Prediction,
    claim_table,
    fact,
    judged,
    predictions,
    record_claims,
    verdict_of,
)
from hyperfit_course.study.statistics import smallest_difference, t_interval

ROOT = Path(__file__).resolve().parent.parent

DIVERSITY = Prediction(
    id="b-diversity",
    chapter="02_hyperfitting",
    claim="Hyperfitting makes greedy text more diverse.",
    effect="TTR, hyperfitted minus base",
    threshold=0.142,
    why="Half of the paper's effect.",
    over=SEEDS,
    paper="TTR 0.62",
    differs="another model",
)
AFTER_PROMPTS = replace(DIVERSITY, id="c-prompts", claim="Sampled text is more diverse.", over=PROMPTS)
LOSS = replace(DIVERSITY, id="a-loss", claim="The loss falls.", effect="", threshold=None, over=None)
VALUES = [0.30, 0.25, 0.33, 0.28, 0.31]
"""Effects of five seeds, far above the threshold."""


@pytest.fixture(autouse=True)
def predicted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The course's predictions are the three above, but in tests of the committed ones."""
    if "committed" not in request.fixturenames:
        rows = [asdict(prediction) for prediction in (DIVERSITY, AFTER_PROMPTS, LOSS)]
        monkeypatch.setattr(claims, "recorded", {"predictions": rows}.__getitem__)


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "built" / "claims.json"
    monkeypatch.setenv("HYPERFIT_CLAIMS", str(path))
    return path


# Verdicts


@pytest.mark.parametrize(
    ("mean", "low", "high", "threshold", "verdict"),
    [
        (0.30, 0.20, 0.40, 0.1, HOLDS),
        (0.12, 0.02, 0.22, 0.1, HOLDS),
        (0.10, 0.02, 0.18, 0.1, HOLDS),
        (0.02, 0.01, 0.03, 0.0, HOLDS),
        (0.09, 0.02, 0.16, 0.1, DIRECTION),
        (0.03, 0.02, 0.04, 0.1, DIRECTION),
        (0.30, -0.10, 0.70, 0.1, INCONCLUSIVE),
        (0.10, 0.00, 0.20, 0.1, INCONCLUSIVE),
        (0.00, -0.10, 0.10, 0.1, INCONCLUSIVE),
        (0.01, -0.01, 0.03, 0.0, INCONCLUSIVE),
        (-0.01, -0.02, 0.00, 0.0, INCONCLUSIVE),
        (0.00, -0.05, 0.05, 0.1, CONTRADICTED),
        (0.04, 0.00, 0.08, 0.1, CONTRADICTED),
        (-0.30, -0.40, -0.20, 0.1, CONTRADICTED),
        (-0.30, -0.40, -0.20, 0.0, CONTRADICTED),
    ],
    ids=[
        "above the threshold",
        "holding the threshold",
        "estimate at the threshold",
        "any rise asked for",
        "estimate below the threshold",
        "whole interval below the threshold",
        "wide",
        "beginning at 0",
        "ending at the threshold",
        "around 0, any rise asked for",
        "ending at 0, any rise asked for",
        "around 0 and too small",
        "beginning at 0 and too small",
        "below 0",
        "below 0, any rise asked for",
    ],
)
def test_verdict_of_an_interval(mean: float, low: float, high: float, threshold: float, verdict: str) -> None:
    assert verdict_of(Interval(mean, low, high), threshold) == verdict


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        (VALUES, HOLDS),
        ([0.05, 0.06, 0.04, 0.05, 0.05], DIRECTION),
        ([0.9, -0.2, 0.1, 0.7, -0.3], INCONCLUSIVE),
        ([-value for value in VALUES], CONTRADICTED),
        ([0.01, -0.01, 0.0, 0.02, -0.02], CONTRADICTED),
    ],
)
def test_values_of_five_seeds_give_their_verdict(values: list[float], verdict: str) -> None:
    assert judged("b-diversity", "", values).verdict == verdict


def test_over_seeds_the_interval_is_students() -> None:
    claim = judged("b-diversity", "TTR 0.58", VALUES)
    assert claim == Claim(DIVERSITY, "TTR 0.58", t_interval(VALUES))


def test_over_prompts_the_interval_is_a_bootstrap() -> None:
    values = np.linspace(-0.2, 0.6, 30)
    estimate = judged("c-prompts", "", values).estimate
    assert estimate is not None
    assert estimate[:3] == tuple(bootstrap_interval(values))
    assert estimate[:3] != t_interval(values)[:3]
    assert (estimate.n, estimate.smallest) == (30, smallest_difference(values))


def test_an_interval_that_was_found_in_another_way_decides_over_prompts() -> None:
    values = np.linspace(-0.2, 0.6, 30)
    claim = judged("c-prompts", "", values, estimate=Interval(-0.5, -0.75, -0.25))
    assert claim.verdict == CONTRADICTED
    assert claim.estimate == (-0.5, -0.75, -0.25, 30, smallest_difference(values))


def test_a_fact_has_no_interval_and_no_verdict() -> None:
    claim = fact("a-loss", "0.04 nats")
    assert (claim.prediction, claim.measured, claim.estimate, claim.verdict) == (LOSS, "0.04 nats", None, FACT)


def test_a_fact_is_not_judged() -> None:
    with pytest.raises(ValueError, match=r"a-loss is a fact, and nothing tests it: use fact\(\)"):
        judged("a-loss", "", VALUES)


@pytest.mark.parametrize("name", ["b-diversity", "c-prompts"])
def test_what_can_fail_is_no_fact(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} can fail, so it is no fact: use judged\(\)"):
        fact(name, "TTR 0.58")


# The table


def test_table_shows_a_claim_a_row_with_its_effect_and_verdict() -> None:
    table = claim_table([judged("b-diversity", "TTR 0.58", VALUES), fact("a-loss", "0.04 nats")])
    assert table.index.tolist() == [DIVERSITY.claim, LOSS.claim]
    assert table.index.name == "claim"
    columns = ["paper", "differs from the paper", "here", "effect, 95 % interval", "asked for", "verdict"]
    assert list(table.columns) == columns
    effect = "TTR, hyperfitted minus base: +0.294 [+0.256, +0.332] over 5 seeds"
    assert list(table.loc[DIVERSITY.claim]) == ["TTR 0.62", "another model", "TTR 0.58", effect, "0.142", "holds"]
    assert list(table.loc[LOSS.claim]) == ["TTR 0.62", "another model", "0.04 nats", "", "", "fact"]


def test_inconclusive_row_names_the_effect_that_would_have_been_found() -> None:
    values = [0.9, -0.2, 0.1, 0.7, -0.3]
    (verdict,) = claim_table([judged("b-diversity", "", values)])["verdict"]
    assert verdict == f"inconclusive (an effect of {smallest_difference(values):.3f} would have been found)"
    table = claim_table([judged("c-prompts", "", np.linspace(-2, 2.4, 30))])
    assert " over 30 prompts" in table["effect, 95 % interval"].item()
    assert table["verdict"].item().startswith("inconclusive (an effect of 0.")


# The file


@pytest.mark.parametrize("value", [None, ""])
def test_nothing_is_written_without_the_variable(
    value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("HYPERFIT_CLAIMS", value)
    monkeypatch.chdir(tmp_path)
    found = record_claims([judged("b-diversity", "TTR 0.58", VALUES), fact("a-loss", "0.04 nats")])
    assert found == "b-diversity: holds\na-loss: fact"
    assert not list(tmp_path.iterdir())


def test_claims_are_written_whole_and_sorted_by_id(target: Path) -> None:
    claim = judged("b-diversity", "TTR 0.58", VALUES)
    assert record_claims([claim, fact("a-loss", "0.04 nats")]) == "b-diversity: holds\na-loss: fact"
    loss, diversity = json.loads(target.read_text(encoding="utf-8"))
    assert loss == {**asdict(LOSS), "measured": "0.04 nats", "estimate": None, "verdict": "fact"}
    assert claim.estimate is not None
    estimate = dict(zip(("mean", "low", "high", "n", "smallest"), claim.estimate, strict=True))
    assert diversity == {**asdict(DIVERSITY), "measured": "TTR 0.58", "estimate": estimate, "verdict": "holds"}


def test_newer_claims_replace_those_with_their_id_and_keep_the_others(target: Path) -> None:
    record_claims([judged("b-diversity", "TTR 0.58", VALUES), fact("a-loss", "0.04 nats")])
    newer = judged("b-diversity", "TTR 0.21", [-value for value in VALUES])
    record_claims([newer, judged("c-prompts", "TTR 0.7", VALUES)])
    rows: dict[str, dict[str, Any]] = {row["id"]: row for row in json.loads(target.read_text(encoding="utf-8"))}
    assert list(rows) == ["a-loss", "b-diversity", "c-prompts"]
    assert (rows["b-diversity"]["measured"], rows["b-diversity"]["verdict"]) == ("TTR 0.21", "contradicted")
    assert rows["a-loss"]["measured"] == "0.04 nats"


def test_recording_twice_writes_the_same_file(target: Path) -> None:
    both = [judged("b-diversity", "TTR 0.58", VALUES), fact("a-loss", "0.04 nats")]
    record_claims(both)
    first = target.read_bytes()
    record_claims(both[::-1])
    assert target.read_bytes() == first
    assert list(target.parent.iterdir()) == [target]


# The committed predictions


@pytest.fixture
def committed() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((ROOT / "results" / "predictions.json").read_text(encoding="utf-8"))["rows"]
    return rows


def test_committed_predictions_are_read_by_their_ids(committed: list[dict[str, Any]]) -> None:
    assert [asdict(prediction) for prediction in predictions().values()] == committed
    assert [count for count in Counter(row["id"] for row in committed).values() if count > 1] == []


def test_every_committed_prediction_is_of_a_chapter(committed: list[dict[str, Any]]) -> None:
    for row in committed:
        assert (ROOT / "book" / f"{row['chapter']}.md").exists(), row["id"]


def test_committed_predictions_can_fail_or_are_facts(committed: list[dict[str, Any]]) -> None:
    for row in committed:
        assert row["over"] in (SEEDS, PROMPTS, TEXTS, None), row["id"]
        assert (row["threshold"] is None) == (row["over"] is None), row["id"]
        assert bool(row["effect"]) == (row["over"] is not None), row["id"]
        assert row["threshold"] is None or row["threshold"] >= 0, row["id"]
        assert all(row[name] for name in ("claim", "why", "paper")), row["id"]
