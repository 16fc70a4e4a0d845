"""What is recorded in results/ is what the code and the committed notebooks say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import nbformat

import results
from hyperfit_course.claims import Claim

ROOT = Path(__file__).resolve().parent.parent


def load(name: str) -> Any:
    return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))


def test_recorded_arms_are_those_that_the_code_would_train() -> None:
    recorded = [(row["configuration"], row["prompts"]) for row in load("hyperfit_arms.json")["rows"]]
    expected = [(results.configuration(arm), prompts) for arm in results.ARMS for prompts in results.PROMPT_CORPORA]
    assert recorded == expected, "a configuration changed since `make results`: run it again"


def test_recorded_numbers_say_where_they_come_from() -> None:
    for name in ("hyperfit_arms.json", "benchmarks.json"):
        made = load(name)["made"]
        assert {"date", "machine", "python", "torch", "transformers"} <= made.keys()


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
