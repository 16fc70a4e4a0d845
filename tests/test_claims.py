from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hyperfit_course import claims
from hyperfit_course.claims import Claim, claim_table, record_claims, recorded, save_results

CLAIM = Claim(
    id="b-diversity",
    chapter="02",
    claim="Hyperfitting makes greedy text more diverse.",
    paper="TTR 0.62",
    measured="TTR 0.58",
    interval=(0.5, 0.66),
    n_prompts=30,
    seed=0,
    holds=True,
)
OTHER = replace(CLAIM, id="a-loss", claim="Validation loss falls.", interval=None, n_prompts=None, holds=False)


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "built" / "claims.json"
    monkeypatch.setenv("HYPERFIT_CLAIMS", str(path))
    return path


def test_table_shows_a_claim_a_row_with_interval_and_verdict() -> None:
    table = claim_table([CLAIM, OTHER])
    assert table.index.tolist() == [CLAIM.claim, OTHER.claim]
    assert list(table.loc[CLAIM.claim]) == ["TTR 0.62", "TTR 0.58", "0.500 to 0.660", "holds"]
    assert list(table.loc[OTHER.claim]) == ["TTR 0.62", "TTR 0.58", "", "does not hold"]


def test_table_shows_an_interval_that_begins_at_zero() -> None:
    assert claim_table([replace(CLAIM, interval=(0.0, 0.0))])["95 % interval"].item() == "0.000 to 0.000"


@pytest.mark.parametrize("value", [None, ""])
def test_nothing_is_written_without_the_variable(
    value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("HYPERFIT_CLAIMS", value)
    monkeypatch.chdir(tmp_path)
    assert record_claims([CLAIM, OTHER]) == "b-diversity: holds\na-loss: does not hold"
    assert not list(tmp_path.iterdir())


def test_claims_are_written_whole_and_sorted_by_id(target: Path) -> None:
    assert record_claims([CLAIM, OTHER]) == "b-diversity: holds\na-loss: does not hold"
    rows = json.loads(target.read_text())
    assert [row["id"] for row in rows] == ["a-loss", "b-diversity"]
    assert Claim(**rows[1] | {"interval": tuple(rows[1]["interval"])}) == CLAIM
    assert rows[0]["interval"] is None


def test_newer_claims_replace_those_with_their_id_and_keep_the_others(target: Path) -> None:
    record_claims([CLAIM, OTHER])
    record_claims([replace(CLAIM, measured="TTR 0.21", holds=False), replace(CLAIM, id="c-new")])
    rows = {row["id"]: row for row in json.loads(target.read_text())}
    assert list(rows) == ["a-loss", "b-diversity", "c-new"]
    assert rows["b-diversity"]["measured"] == "TTR 0.21"
    assert rows["b-diversity"]["holds"] is False
    assert rows["a-loss"]["claim"] == OTHER.claim


def test_recording_twice_writes_the_same_file(target: Path) -> None:
    record_claims([CLAIM, OTHER])
    first = target.read_bytes()
    record_claims([OTHER, CLAIM])
    assert target.read_bytes() == first
    assert list(target.parent.iterdir()) == [target]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the package's, with results beside it and inside it."""
    for folder in (tmp_path / "results", tmp_path / "package" / "results"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(claims, "__file__", str(tmp_path / "package" / "claims.py"))
    return tmp_path / "package"


@pytest.mark.parametrize("place", ["results", "../results"], ids=["installed", "checkout"])
def test_saved_results_are_found_again(package: Path, place: str) -> None:
    rows = [{"arm": "tales", "ttr": 0.5, "entropy": None}, {"arm": "news", "ttr": 0.25, "entropy": 1.5}]
    save_results(package / place / "arms.json", rows)
    assert [{name: row[name] for name in rows[0]} for row in recorded("arms")] == rows


def test_saved_results_say_what_they_were_measured_with(package: Path) -> None:
    save_results(package / "results" / "arms.json", [{"arm": "tales"}])
    made = recorded("arms")[0]["made"]
    assert {"date", "machine", "gpu", "python", "torch", "transformers", "hyperfit-course"} <= made.keys()
    assert made["torch"].split(".")[0].isdigit()
    assert made["machine"].endswith("cores")


def test_result_that_was_recorded_before_keeps_where_it_came_from(package: Path) -> None:
    elsewhere = {"date": "2026-01-01", "machine": "another"}
    save_results(package / "results" / "arms.json", [{"arm": "tales", "made": elsewhere}, {"arm": "news"}])
    assert [row["made"] == elsewhere for row in recorded("arms")] == [True, False]


def test_results_that_were_never_recorded_are_reported(package: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no results/nothing\.json: run 'make results'"):
        recorded("nothing")
