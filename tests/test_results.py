"""What is recorded in results/ is what the code and the committed notebooks say."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
import recording

import results
from hyperfit_course.claims import Claim

ROOT = Path(__file__).resolve().parent.parent


def load(name: str) -> Any:
    return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))


READ = sorted(
    {
        name
        for path in (ROOT / "book").glob("*.md")
        for name in re.findall(r'recorded\("(\w+)"\)', path.read_text(encoding="utf-8"))
    }
)


@pytest.mark.parametrize("name", [name for name in READ if name != "benchmarks"])
def test_recorded_rows_are_those_that_the_code_would_measure(name: str) -> None:
    recorded = [row["configuration"] for row in load(f"{name}.json")["rows"]]
    expected = [task.configuration for task in results.tasks()[name]]
    once = [row for before, row in zip([None, *recorded], recorded, strict=False) if row != before]
    assert once == expected, "a configuration changed since `make results`: run it again"


def test_every_recorded_arm_has_a_row_for_each_corpus_of_prompts() -> None:
    prompts = [row["prompts"] for row in load("hyperfit_arms.json")["rows"]]
    assert prompts == list(results.PROMPT_CORPORA) * len(results.ARMS)


def test_recording_goes_on_where_it_stopped_and_drops_what_is_no_longer_wanted(tmp_path: Path) -> None:
    measured: list[str] = []

    def task(label: str, fails: bool = False) -> recording.Task:
        def measure() -> list[dict[str, Any]]:
            if fails:
                raise KeyboardInterrupt
            measured.append(label)
            return [{"number": 1}, {"number": 2}]

        return recording.Task(label, {"label": label}, measure)

    recording.record("some", [task("old"), task("c")], tmp_path)
    with pytest.raises(KeyboardInterrupt):
        recording.record("some", [task("a"), task("b", fails=True), task("c")], tmp_path)
    recording.record("some", [task("a"), task("b"), task("c")], tmp_path)
    assert measured == ["old", "c", "a", "b"]
    rows = json.loads((tmp_path / "some.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["configuration"]["label"], row["number"]) for row in rows] == [
        (label, number) for label in "abc" for number in (1, 2)
    ]


def test_recorded_numbers_say_where_they_come_from() -> None:
    for name in (*READ, "benchmarks"):
        for row in load(f"{name}.json")["rows"]:
            assert {"date", "machine", "python", "torch", "transformers"} <= row["made"].keys()


def test_claims_have_the_documented_fields() -> None:
    fields = {field.name for field in dataclasses.fields(Claim)}
    claims = load("claims.json")
    assert claims
    for claim in claims:
        assert claim.keys() == fields
        assert (ROOT / "book" / f"{claim['chapter']}.md").exists()
    assert [claim["id"] for claim in claims] == sorted({claim["id"] for claim in claims})


def test_claims_are_those_that_the_committed_notebooks_show() -> None:
    shown: dict[str, str] = {}
    for path in (ROOT / "book").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if "record_claims(claims)" in cell.source:
                text = "".join(output.text for output in cell.outputs)
                shown |= dict(line.split(": ") for line in text.strip().splitlines())
    recorded = {claim["id"]: "holds" if claim["holds"] else "does not hold" for claim in load("claims.json")}
    assert shown == recorded
