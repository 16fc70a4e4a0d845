"""Studies of many models, and the page that shows them, however many there are."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import model_rows
import pytest

from hyperfit_course.study.collected import collected, effects, file_stem, overview, problems
from hyperfit_course.study.verdicts import claims

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = json.loads((files("hyperfit_course") / "data" / "study.schema.json").read_text(encoding="utf-8"))
MADE = {"date": "2026-01-01", "machine": "a machine", "gpu": None}
MADE |= dict.fromkeys(("python", "torch", "transformers", "accelerate", "hyperfit-course"), "1")
LARGEST = 1_500_000  #: Bytes of a file: numbers and the texts that were written.


def study(name: str = "owner/model", seeds: int = 1) -> dict[str, Any]:
    """What a study of a model leaves, with the least that the page shows."""
    common = {"configuration": {}, "made": MADE, "cost": {"seconds": 1.0, "peak_gigabytes": 1.0}}
    rows: list[dict[str, Any]] = [{"part": "writing", "arm": "base", "seed": 0, "ttr": 0.2, "recited": 0.0, **common}]
    for seed in range(seeds):
        arm = {"arm": "hyperfitted", "seed": seed, **common}
        rows += [
            {"part": "training", "train_loss": 0.06, **arm},
            {"part": "writing", "ttr": 0.5 + 0.01 * seed, "recited": 0.2, **arm},
        ]
    parts = [{name: row[name] for name in ("part", "arm", "seed")} for row in rows]
    model = {"name": name, "class": "Model", "parameters": 135_000_000, "vocabulary": 9, "tokenizer_size": 9}
    return {
        "form": 1,
        "identity": {
            "config": {"corpus": "tales", "train_texts": 32, "seeds": list(range(seeds))},
            "weights": "0" * 64,
            "texts": "1" * 64,
            "code": "x",
        },
        "model": {**model, "tied_head": True, "revision": None, "begin_rule": "None."},
        "checks": [],
        "parts": [
            {"file": "f", "name": part["part"], "arm": part["arm"], "seed": part["seed"]}
            | {"state": "finished", "reason": None}
            for part in parts
        ],
        "claims": claims(rows),
        "rows": rows,
        "made": MADE,
    }


def test_every_collected_study_fits_the_schema_and_follows_from_its_rows() -> None:
    for name, data in collected(ROOT / "results" / "models").items():
        jsonschema.validate(data, SCHEMA)
        assert problems(name, data) == [], f"results/models/{name}.json"
        assert (ROOT / "results" / "models" / f"{name}.json").stat().st_size < LARGEST


def _claim(data: dict[str, Any], **values: Any) -> None:
    next(claim for claim in data["claims"] if claim["id"] == "hyperfit-ttr")["values"] = values


def test_what_a_study_leaves_can_be_collected() -> None:
    data = study()
    jsonschema.validate(data, SCHEMA)
    assert file_stem(data) == "owner--model"
    assert problems("owner--model", data) == problems("owner--model.news", data) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data["model"].update(name="/home/me/model"), "The model is named by a path of one machine"),
        (lambda data: data["model"].update(name="C:\\model"), "The model is named by a path"),
        (lambda data: data["identity"]["config"].update(corpus="../my.txt"), "The corpus is named by a path"),
        (lambda data: data["model"].update(name="owner/other"), "call it owner--other.json"),
        (lambda data: data["parts"][1].update(state="missing"), r"Parts are missing (training of hyperfitted)"),
        (lambda data: data.update(made={"date": "2026-01-01"}), "with which versions"),
        (lambda data: _claim(data, **{"0": 0.9}), "do not follow from its rows (hyperfit-ttr)"),
        (lambda data: _claim(data, **{"7": 0.3}), "do not follow from its rows (hyperfit-ttr)"),
    ],
)
def test_study_that_cannot_be_collected_is_told_why(spoil: Callable[[Any], Any], message: str) -> None:
    data = study()
    spoil(data)
    assert any(message in problem for problem in problems("owner--model", data))


def test_studies_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    assert collected(tmp_path / "nothing") == {}
    for name in ("b", "a"):
        (tmp_path / f"{name}.json").write_text(json.dumps(study(name)), encoding="utf-8")
    assert list(collected(tmp_path)) == ["a", "b"]


def test_overview_and_effects_are_those_of_each_study() -> None:
    studies = {"one": study("one"), "two": study("two", seeds=3)}
    found = overview(studies)
    assert list(found["model"]) == ["one", "two"]
    assert (found.loc["two", "TTR, base"], found.loc["two", "TTR, hyperfitted"]) == ("0.200", "0.510")
    assert found.loc["one", "seeds"] == 1
    assert found.loc["one", "recited share"] == "0.200"
    gains = effects(studies).set_index(["id", "study"])
    assert gains.loc[("hyperfit-ttr", "one"), "mean"] == pytest.approx(0.3)
    assert gains.loc[("hyperfit-ttr", "one")].isna()["low"]
    assert gains.loc[("hyperfit-ttr", "two"), "low"] == pytest.approx(0.31 - 0.0248, abs=1e-3)
    assert gains.loc[("hyperfit-ttr", "two"), "verdict"] == "holds"
    assert ("late-stage-ttr", "one") not in gains.index


@pytest.mark.parametrize("count", [0, 1, 12])
def test_page_works_with_however_many_studies(count: int) -> None:
    studies = {f"m{number}": study(f"m{number}", seeds=1 + number % 3) for number in range(count)}
    assert len(overview(studies)) == count
    found = effects(studies)
    if count:
        shown = model_rows.picture(found)
        assert shown.startswith("<svg")
        assert all(f"m{number}" in shown for number in range(count))
        assert model_rows.described(found).count("one seed: no verdict") >= 1
    else:
        assert found.empty


def test_study_without_a_trained_arm_is_shown_without_numbers() -> None:
    data = copy.deepcopy(study())
    data["rows"] = data["rows"][:1]
    shown = overview({"x": data}).loc["x"]
    assert (shown["TTR, base"], shown["TTR, hyperfitted"], shown["training loss (nats)"]) == ("0.200", "", "")
    assert effects({"x": data}).empty
