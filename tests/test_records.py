from __future__ import annotations

from pathlib import Path

import pytest

from hyperfit_course.study import records
from hyperfit_course.study.records import recorded, save_results


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the package's, with results beside it and inside it."""
    for folder in (tmp_path / "results", tmp_path / "package" / "results"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(records, "PACKAGE", tmp_path / "package")
    return tmp_path / "package"


@pytest.mark.parametrize("folder", ["results", "../results"], ids=["installed", "checkout"])
def test_saved_results_are_found_again(package: Path, folder: str) -> None:
    rows = [{"arm": "tales", "ttr": 0.5, "entropy": None}, {"arm": "news", "ttr": 0.25, "entropy": 1.5}]
    save_results(package / folder / "arms.json", rows)
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
    save_results(package / "results" / "arms.json", [{"arm": "tales"}])
    with pytest.raises(
        FileNotFoundError, match=r"no record 'nothing': choose one of arms, or, if 'make results' makes it, run"
    ):
        recorded("nothing")
