from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyperfit_course.study.recording import TEXTS, Row, Task, drop_damaged, record, recorded_texts


class Measured:
    """Makes tasks, and knows which of them were measured."""

    def __init__(self) -> None:
        self.labels: list[str] = []

    def task(self, label: str, *rows: Row, fails: bool = False) -> Task:
        def measure() -> list[Row]:
            if fails:
                raise KeyboardInterrupt
            self.labels.append(label)
            return [dict(row) for row in rows or ({"number": 1}, {"number": 2})]

        return Task(label, {"label": label}, measure)

    def writing(self, label: str, *texts: list[list[int]], fails: bool = False) -> Task:
        """A task that gives a row for each batch of texts."""
        rows = [{"arm": label, "seed": 3, "ttr": 0.5, TEXTS: each} for each in texts or ([[1, 2], [ord(label)]],)]
        return self.task(label, *rows, fails=fails)


@pytest.fixture
def measured() -> Measured:
    return Measured()


def saved(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "some.json").read_text(encoding="utf-8"))["rows"]
    return rows


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "texts" / "some.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


# Rows


def test_recording_goes_on_where_it_stopped_and_drops_what_is_no_longer_wanted(
    tmp_path: Path, measured: Measured
) -> None:
    record("some", [measured.task("old"), measured.task("c")], tmp_path)
    with pytest.raises(KeyboardInterrupt):
        record("some", [measured.task("a"), measured.task("b", fails=True), measured.task("c")], tmp_path)
    record("some", [measured.task("a"), measured.task("b"), measured.task("c")], tmp_path)
    assert measured.labels == ["old", "c", "a", "b"]
    assert [(row["configuration"]["label"], row["number"]) for row in saved(tmp_path)] == [
        (label, number) for label in "abc" for number in (1, 2)
    ]


def test_rows_that_are_no_longer_wanted_go_also_where_nothing_is_measured(tmp_path: Path, measured: Measured) -> None:
    record("some", [measured.task("a"), measured.task("b")], tmp_path)
    record("some", [measured.task("b")], tmp_path)
    assert [row["configuration"]["label"] for row in saved(tmp_path)] == ["b", "b"]


def test_rows_carry_the_configuration_of_their_task_and_where_they_were_measured(tmp_path: Path) -> None:
    record("some", [Task("one", {"alpha": 0.5, "bias": None}, lambda: [{"ttr": 0.25}])], tmp_path)
    (row,) = saved(tmp_path)
    assert row["ttr"] == 0.25
    assert row["configuration"] == {"alpha": 0.5, "bias": None}
    assert {"date", "machine", "torch"} <= row["made"].keys()


def test_task_with_another_configuration_is_measured_again_and_what_was_recorded_stays_as_it_was(
    tmp_path: Path,
) -> None:
    file = tmp_path / "some.json"

    def wanted(second: int) -> list[Task]:
        return [
            Task("first", {"seed": 0}, lambda: [{"x": 1}]),
            Task("second", {"seed": second}, lambda: [{"x": second}]),
        ]

    record("some", wanted(1), tmp_path)
    kept = saved(tmp_path)
    kept[0]["made"] = {"machine": "another"}
    file.write_text(json.dumps({"rows": kept}), encoding="utf-8")
    record("some", wanted(2), tmp_path)
    rows = saved(tmp_path)
    assert [(row["configuration"]["seed"], row["x"]) for row in rows] == [(0, 1), (2, 2)]
    assert rows[0]["made"] == {"machine": "another"}


def test_progress_says_how_many_tasks_are_left(
    tmp_path: Path, measured: Measured, capsys: pytest.CaptureFixture[str]
) -> None:
    record("some", [measured.task("b")], tmp_path)
    capsys.readouterr()
    record("some", [measured.task(label) for label in "abcd"], tmp_path)
    first, second, third, last = capsys.readouterr().out.splitlines()
    assert first == "some [1/4] a: measuring, 3 to go"
    assert second == "some [2/4] b: recorded"
    assert third == "some [3/4] c: measuring, 2 to go, about 0 minutes left"
    assert last == "some [4/4] d: measuring, 1 to go, about 0 minutes left"


# Texts


def test_texts_stand_beside_the_rows_and_come_back(tmp_path: Path, measured: Measured) -> None:
    batches = [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [1, 1, 1]]]
    record("some", [measured.writing("a", *batches), measured.task("no texts", {"ttr": 1.0})], tmp_path)
    first, second, without = saved(tmp_path)
    assert all(TEXTS not in row for row in (first, second, without))
    assert "texts" not in without
    found = recorded_texts("some", tmp_path)
    assert [found[row["texts"]] for row in (first, second)] == batches
    assert [line[TEXTS] for line in lines(tmp_path)] == batches
    assert [(line["arm"], line["seed"], line["texts"]) for line in lines(tmp_path)] == [
        ("a", 3, row["texts"]) for row in (first, second)
    ]


def test_recording_again_measures_nothing_and_leaves_both_files_as_they_are(tmp_path: Path, measured: Measured) -> None:
    wanted = [measured.writing("a"), measured.writing("b"), measured.task("no texts")]
    record("some", wanted, tmp_path)
    files = [tmp_path / "some.json", tmp_path / "texts" / "some.jsonl"]
    before = [file.read_bytes() for file in files]
    record("some", wanted, tmp_path)
    assert measured.labels == ["a", "b", "no texts"]
    assert [file.read_bytes() for file in files] == before


def test_texts_of_recorded_rows_are_written_again_with_those_of_new_ones(tmp_path: Path, measured: Measured) -> None:
    record("some", [measured.writing("b")], tmp_path)
    record("some", [measured.writing(label) for label in "abc"], tmp_path)
    assert measured.labels == ["b", "a", "c"]
    assert [line[TEXTS] for line in lines(tmp_path)] == [[[1, 2], [ord(label)]] for label in "abc"]
    assert [row["texts"] for row in saved(tmp_path)] == [line["texts"] for line in lines(tmp_path)]


def test_row_whose_texts_are_lost_is_measured_again(tmp_path: Path, measured: Measured) -> None:
    wanted = [measured.writing("a"), measured.writing("b", [[1]], [[2]]), measured.writing("c")]
    record("some", wanted, tmp_path)
    file = tmp_path / "texts" / "some.jsonl"
    kept = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join([*kept[:1], *kept[2:]]), encoding="utf-8")
    record("some", wanted, tmp_path)
    assert measured.labels == ["a", "b", "c", "b"]
    assert [line[TEXTS] for line in lines(tmp_path)] == [[[1, 2], [97]], [[1]], [[2]], [[1, 2], [99]]]
    assert [row["arm"] for row in saved(tmp_path)] == ["a", "b", "b", "c"]


def test_all_is_measured_again_when_the_file_of_texts_is_lost(tmp_path: Path, measured: Measured) -> None:
    wanted = [measured.writing("a"), measured.task("no texts"), measured.writing("b")]
    record("some", wanted, tmp_path)
    (tmp_path / "texts" / "some.jsonl").unlink()
    record("some", wanted, tmp_path)
    assert measured.labels == ["a", "no texts", "b", "a", "b"]


@pytest.mark.parametrize("name", ["some.json", "texts/some.jsonl"])
def test_damaged_file_is_named_and_made_again_and_others_stay(
    name: str, tmp_path: Path, measured: Measured, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [measured.writing("a"), measured.writing("b")]
    record("some", wanted, tmp_path)
    record("other", [measured.writing("c")], tmp_path)
    (tmp_path / name).write_text((tmp_path / name).read_text(encoding="utf-8")[:-20], encoding="utf-8")
    drop_damaged(tmp_path)
    assert str(tmp_path / "some.json") in capsys.readouterr().out
    record("some", wanted, tmp_path)
    record("other", [measured.writing("c")], tmp_path)
    assert measured.labels == ["a", "b", "c", "a", "b"]


def test_interrupted_run_keeps_what_it_measured_with_its_texts(tmp_path: Path, measured: Measured) -> None:
    with pytest.raises(KeyboardInterrupt):
        record("some", [measured.writing("a"), measured.writing("b"), measured.writing("c", fails=True)], tmp_path)
    rows, found = saved(tmp_path), recorded_texts("some", tmp_path)
    assert [found[row["texts"]] for row in rows] == [[[1, 2], [97]], [[1, 2], [98]]]
    record("some", [measured.writing(label) for label in "abc"], tmp_path)
    assert measured.labels == ["a", "b", "c"]


def test_rows_that_are_no_longer_wanted_take_their_texts_with_them(tmp_path: Path, measured: Measured) -> None:
    record("some", [measured.writing(label) for label in "abc"], tmp_path)
    record("some", [measured.writing("c"), measured.writing("a")], tmp_path)
    assert [row["arm"] for row in saved(tmp_path)] == ["c", "a"]
    assert [line["arm"] for line in lines(tmp_path)] == ["c", "a"]
    record("some", [measured.task("no texts")], tmp_path)
    assert recorded_texts("some", tmp_path) == {}
    assert not (tmp_path / "texts" / "some.jsonl").exists()


def test_two_rows_with_the_same_texts_both_keep_them(tmp_path: Path, measured: Measured) -> None:
    wanted = [measured.writing("a", [[1, 2]]), measured.writing("b", [[1, 2]])]
    record("some", wanted, tmp_path)
    record("some", [*wanted, measured.writing("c")], tmp_path)
    assert measured.labels == ["a", "b", "c"]
    assert [line["arm"] for line in lines(tmp_path)] == ["a", "b", "c"]


def test_file_without_texts_has_none_beside_it(tmp_path: Path, measured: Measured) -> None:
    record("some", [measured.task("a")], tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file() and path.parent == tmp_path) == [
        "some.json"
    ]
    assert not (tmp_path / "texts").exists()
    assert recorded_texts("some", tmp_path) == {}
