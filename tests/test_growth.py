"""The measurements of growth: what is recorded and when, the plan's numbers beside it, and what is drawn of both."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import growth
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from growth import BATCH, POINTS, Point, llama, plan_of

from hyperfit_course import training
from hyperfit_course.study.arms import base_model, held_out, tokenizer_of
from hyperfit_course.study.battery import forget
from hyperfit_course.study.growth_figure import ROWS, all_there, exponent, growth_figure, shared_table, statements
from hyperfit_course.study.predicted import Shape
from hyperfit_course.study.recording import Row

TINY = Shape("tiny", 2, 16, 32, 2, 2, 257, tied=True)
MACHINE = {"gflops": 40.0, "gigabytes_a_second": 8.0}
RECORDED = Path(__file__).resolve().parent.parent / "results" / "growth.json"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Point]:
    """The points that are measured; each takes twice the planned time, and its second run is the faster one."""
    points: list[Point] = []

    def run_once(point: Point) -> Row:
        points.append(point)
        seconds = 2 * plan_of(point, MACHINE)[0] * (1 if points.count(point) == 2 else 1.5)
        memory = {"megabytes": 300.0 + point.n_texts, "libraries_megabytes": 200.0}
        return {"seconds": 1e3 * seconds, "cpu_seconds": 1e3 * seconds, **memory}

    monkeypatch.setattr(growth, "run_once", run_once)
    monkeypatch.setattr(growth, "peaks", lambda: MACHINE)
    return points


@pytest.fixture
def rows(asked: list[Point], tmp_path: Path) -> Iterator[pd.DataFrame]:
    growth.main(["--out", str(tmp_path)])
    yield pd.DataFrame(read(tmp_path))
    plt.close("all")


def read(folder: Path) -> list[Row]:
    rows: list[Row] = json.loads((folder / "growth.json").read_text(encoding="utf-8"))["rows"]
    return rows


# What is recorded


def test_an_interrupted_recording_goes_on_with_what_is_missing(
    asked: list[Point], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping, usual = POINTS[2], growth.run_once
    with monkeypatch.context() as patch:
        patch.setattr(growth, "run_once", lambda point: usual(point) if point != stopping else pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception, match="stopped"):
            growth.main(["--out", str(tmp_path)])
    before = read(tmp_path)
    assert len(before) == 3, "the machine and two points"
    asked.clear()
    growth.main(["--out", str(tmp_path)])
    assert asked == [point for point in POINTS[2:] for _ in range(growth.RUNS)]
    assert read(tmp_path)[:3] == before
    asked.clear()
    growth.main(["--out", str(tmp_path)])
    assert asked == []


def test_rows_hold_the_smallest_of_both_runs_and_the_plan_beside_it(rows: pd.DataFrame) -> None:
    assert (
        rows["series"].value_counts().to_dict() == ROWS == {**Counter(point.series for point in POINTS), "machine": 1}
    )
    measured = rows[rows["series"] != "machine"]
    for point, (_, row) in zip(POINTS, measured.iterrows(), strict=True):
        seconds, megabytes = plan_of(point, MACHINE)
        assert row["seconds"] == row["cpu_seconds"] == pytest.approx(2e3 * seconds, abs=1e-3)
        assert max(row["all_seconds"]) == pytest.approx(3e3 * seconds, abs=1e-3)
        assert row["plan_seconds"] == seconds
        assert row["plan_megabytes"] == megabytes + 200
        assert row["parameters"] == point.shape.parameters()
        assert Point.read(json.dumps({key: row["configuration"][key] for key in vars(point)})) == point
    assert not measured.isna().any().drop(["gflops", "gigabytes_a_second"]).any()


def test_one_thing_grows_at_a_time() -> None:
    for series in ROWS.keys() - {"machine"}:
        settings = [vars(point) for point in POINTS if point.series == series]
        assert sum(len({str(each[name]) for each in settings}) > 1 for name in settings[0]) == 1, series


@pytest.mark.parametrize("shape", [*growth.SIZES, growth.BYTES], ids=lambda shape: shape.name)
def test_models_have_the_parameters_that_their_shapes_count(shape: Shape) -> None:
    with torch.device("meta"):
        counted = llama(shape).num_parameters()
    assert counted == shape.parameters()
    assert f"{counted / 1e6:.1f}M" == shape.name


@pytest.mark.skipif(not RECORDED.exists(), reason="the growth is not recorded yet: make benchmarks")
def test_recorded_rows_are_those_of_the_code_with_the_plan_of_today() -> None:
    recorded = read(RECORDED.parent)
    assert [row["configuration"] for row in recorded] == [task.configuration for task in growth.tasks(RECORDED.parent)]
    machine, *measured = recorded
    for point, row in zip(POINTS, measured, strict=True):
        seconds, megabytes = plan_of(point, machine)
        assert row["plan_seconds"] == pytest.approx(seconds)
        assert row["plan_megabytes"] == pytest.approx(megabytes + row["libraries_megabytes"])


# The plan's numbers


def test_plan_of_an_epoch_is_that_counted_by_hand() -> None:
    whole = 2 * TINY.block() + TINY.head()
    step = 6 * whole * BATCH * 64 / (0.3 * 40e9) + 28 * TINY.parameters() / 8e9
    point = Point("texts", TINY, n_texts=9, length=64)
    activations = BATCH * 64 * 16 * (34 + 5 * 2 * 64 / 16)
    assert plan_of(point, MACHINE) == pytest.approx((3 * step, (16 * TINY.parameters() + 2 * activations) / 1e6))
    two = plan_of(Point("processes", TINY, n_texts=9, length=64, processes=2), MACHINE)
    assert two[0] == pytest.approx(3 * step / 2), "they share the work, and each holds the whole model"
    assert two[1] == pytest.approx((16 * TINY.parameters() + 2 * activations) / 1e6)


def test_plan_of_a_study_gives_each_arm_to_the_first_free_job() -> None:
    one, two, many = (plan_of(Point("workers", TINY, workers=jobs), MACHINE)[0] for jobs in (1, 2, 9))
    # The base model b comes first, then four arms a: b + 4 a alone, b + 2 a of two, a of many.
    arm = (one - two) / 2
    assert many == pytest.approx(arm)
    assert 0 < one - 4 * arm < arm, "the base model is not trained"


# Measured for a moment


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement has a process of its own and changes its modules; here they are put back."""
    for name in ("evaluate", "put_weights", "save_file"):
        monkeypatch.setattr(training, name, getattr(training, name))
    monkeypatch.setattr(training.TrainingState, "save", training.TrainingState.save)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


def left(folder: Path) -> Row:
    row: Row = json.loads((folder / "process0.json").read_text(encoding="utf-8"))
    return row


def test_an_epoch_is_measured(patched: None, tmp_path: Path) -> None:
    growth.main(
        ["--out", str(tmp_path), "--only", json.dumps(vars(Point("texts")) | {"shape": vars(TINY), "length": 64})]
    )
    row = left(tmp_path)
    assert row.keys() == {"seconds", "cpu_seconds", "megabytes", "libraries_megabytes"}
    assert all(value > 0 for value in row.values())
    assert row["megabytes"] > 20


def test_a_study_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    growth.measure_here(Point("workers", TINY, n_texts=4, length=64, workers=1), tmp_path)
    rows = json.loads((tmp_path / "study" / "study.json").read_text(encoding="utf-8"))["rows"]
    assert {(row["part"], row["arm"], row["seed"]) for row in rows if row["part"] == "training"} == {
        ("training", "hyperfitted", seed) for seed in range(4)
    }
    assert left(tmp_path)["megabytes"] == 1e3 * max(row["cost"]["peak_gigabytes"] for row in rows)
    for cached in (base_model, held_out, tokenizer_of):
        cached.cache_clear()
    forget()


def test_two_processes_are_measured_and_their_cpu_seconds_added() -> None:
    row = growth.run_once(Point("processes", TINY, n_texts=4, length=64, processes=2))
    assert row.keys() == {"seconds", "cpu_seconds", "megabytes", "libraries_megabytes"}
    assert all(value > 0 for value in row.values())


def test_what_a_failed_measurement_said_is_shown() -> None:
    with pytest.raises(SystemExit, match=r"those before it are kept[\s\S]*batch_size has to be from 1 to 2"):
        growth.run_once(Point("texts", TINY, n_texts=2, length=64))


# What is drawn and said


def test_figure_has_what_was_measured_and_the_line_of_the_plan(rows: pd.DataFrame) -> None:
    panels = growth_figure(rows).axes
    expected = [
        (rows[rows["series"] == series], grows, *columns)
        for columns in (("cpu_seconds", "plan_seconds"), ("megabytes", "plan_megabytes"))
        for series, grows in (("texts", "n_texts"), ("length", "length"), ("size", "parameters"))
    ]
    for axes, (points, grows, measured, plan) in zip(panels, expected, strict=True):
        dots, line = axes.lines
        assert dots.get_xydata().tolist() == points[[grows, measured]].to_numpy(float).tolist()
        assert line.get_xydata().tolist() == points[[grows, plan]].to_numpy(float).tolist()
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [axes.get_ylabel() for axes in panels] == ["CPU seconds of an epoch", "", "", "megabytes", "", ""]
    assert [axes.get_xlabel() != "" for axes in panels] == [False] * 3 + [True] * 3
    assert [tick.get_text() for tick in panels[3].get_xticklabels()] == ["8", "16", "32", "64"]
    assert [tick.get_text() for tick in panels[5].get_xticklabels()] == ["1.4 M", "6.2 M", "16.9 M", "49.8 M"]


def test_exponent_is_that_of_a_power_law() -> None:
    points = pd.DataFrame({"x": [2.0, 4.0, 16.0]})
    assert exponent(points.assign(y=5 * points["x"] ** 1.5), "x", "y") == pytest.approx(1.5)


def test_statements_say_what_the_rows_hold(rows: pd.DataFrame) -> None:
    measured = rows["series"] != "machine"
    rows.loc[rows["series"] == "size", "megabytes"] = 100 + 24e-6 * rows["parameters"]
    rows.loc[(rows["workers"] == 2) & measured, "seconds"] = 0.75 * rows.loc[rows["workers"] == 1, "seconds"].iloc[0]
    texts, length, size, shared = statements(rows)
    # Every text costs the same, and what was measured is a multiple of what was planned: the powers are the plan's.
    assert "the texts to the power 1.00 (plan: 1.00); from 8 to 64, memory becomes 1.18 times as large" in texts
    assert "(plan: 1.00)." in texts, "the plan holds one step's texts, however many there are"
    assert "from 64 to 512, memory becomes 1.00 times as large" in length
    assert "one parameter more takes 24 bytes (plan: " in size
    planned = {jobs: plan_of(next(p for p in POINTS if p.workers == jobs), MACHINE)[0] for jobs in (1, 2)}
    of_study = f"0.75 for a study (plan: {planned[2] / planned[1]:.2f})."
    assert shared == f"Two processes take 0.50 of the time of one for an epoch (plan: 0.50), {of_study}"
    assert shared_table(rows)["by the plan"].tolist()[:2] == [1.0, 0.5]


def test_rows_are_all_there_or_not(rows: pd.DataFrame) -> None:
    assert all_there(rows)
    assert not all_there(rows[:-1])
    assert not all_there(pd.DataFrame(columns=["series"]))
