"""What is recorded in results/ is what the code and the committed notebooks say."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import course_results
import evidence_results
import nbformat
import pytest
from conftest import tiny_model
from course_results import EARLY, EQUAL_LOSS, EQUAL_STEPS, FULL, HALFWAY, RANK, five
from notebook_pipeline.execute import recorded_files
from transformers import LlamaForCausalLM

from hyperfit_course.anatomy import blocks_of
from hyperfit_course.late_stage import choose_blocks, late_stage_lora, trained_modules
from hyperfit_course.study.arms import Arm
from hyperfit_course.study.claims import FACT, Prediction, predictions, verdict_of
from hyperfit_course.study.recording import Row, Task, recorded_texts
from hyperfit_course.study.statistics import Estimate

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"


def load(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


# Of a lab's page, if its module is there: everything but a lab works without it.
READ = sorted(
    {
        name
        for path in (ROOT / "book").rglob("*.md")
        if path.parent.name != "labs" or (ROOT / "hyperfit_course/labs" / f"{path.stem}.py").exists()
        for name in recorded_files(path.read_text(encoding="utf-8"))
    }
    - {"tales", "news"}  # kinds of prompts, which stand in the same calls
    - {"growth"}  # of a benchmark: test_growth.py compares it with its code
    - {"second_reader"}  # of a tool of its own: test_second_reader.py does
)
TASKS = course_results.tasks() | evidence_results.tasks()
RECORDED = [name for name in TASKS if (RESULTS / f"{name}.json").exists()]


def configurations(rows: list[Row]) -> list[Any]:
    """Those of some rows, each once where several rows in a row have it."""
    found = [row["configuration"] for row in rows]
    return [row for before, row in zip([None, *found], found, strict=False) if row != before]


def test_what_a_chapter_reads_is_recorded() -> None:
    assert {*READ} - {"benchmarks", "predictions"} <= {*RECORDED}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_rows_are_those_that_the_code_would_measure(name: str) -> None:
    expected = [task.configuration for task in TASKS[name]]
    found = configurations(load(name)["rows"])
    assert found == expected, "a configuration changed, or rows are missing: run `make results`"


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_arms_have_a_row_for_each_corpus_of_prompts_and_rows_their_texts(name: str) -> None:
    rows, texts = load(name)["rows"], recorded_texts(name, RESULTS)
    assert {row["texts"] for row in rows if "texts" in row} == set(texts)
    prompts: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if isinstance(row["configuration"].get("prompts"), list):
            prompts[json.dumps(row["configuration"])].append(row["prompts"])
    for configuration, found in prompts.items():
        assert list(dict.fromkeys(found)) == json.loads(configuration)["prompts"]


def test_rows_of_one_model_count_once() -> None:
    assert configurations([{"configuration": value} for value in (1, 1, 2, 1)]) == [1, 2, 1]


def test_labs_say_themselves_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course_results, "PACKAGE", tmp_path)
    assert course_results.lab_tasks() == {}, "a course without labs"
    (tmp_path / "labs").mkdir()
    for name in ("__init__", "first", "second"):
        (tmp_path / "labs" / f"{name}.py").touch()
    labs = {"first": SimpleNamespace(tasks=lambda: ["a task"]), "second": SimpleNamespace()}
    monkeypatch.setattr(importlib, "import_module", lambda name: labs[name.removeprefix("hyperfit_course.labs.")])
    assert course_results.lab_tasks() == {"lab_first": ["a task"]}


# The arms


def kinds(arms: list[Arm]) -> dict[Arm, list[int]]:
    """The training seeds of every kind of arm; the kind is the arm with seed 0."""
    found: dict[Arm, list[int]] = defaultdict(list)
    for arm in arms:
        config = dataclasses.replace(arm.config, seed=0) if arm.config else None
        found[dataclasses.replace(arm, config=config)].append(arm.seed)
    return dict(found)


def test_headlines_rest_on_five_seeds_and_the_rest_on_three_or_two() -> None:
    arms = course_results.trained_arms()
    seeds = {name: kinds(of_file) for name, of_file in arms.items()}
    fives, threes = [0, 1, 2, 3, 4], [0, 1, 2]
    assert seeds["full_arms"] == {
        Arm(): [0],
        Arm(FULL): fives,
        Arm(EARLY): threes,
        Arm(HALFWAY): threes,
        Arm(FULL, "news"): threes,
    }
    for name, config in (("equal_loss", EQUAL_LOSS), ("equal_steps", EQUAL_STEPS)):
        compared = [*(five(config, place) for place in ("first", "middle", "last", "spread")), Arm(config, rank=2)]
        same_rank = {Arm(EQUAL_STEPS, rank=12): threes} if name == "equal_steps" else {}
        assert seeds[name] == dict.fromkeys(compared, fives) | same_rank
    for name, number, expected in (
        ("windows", 4, threes),
        ("rates", 6, threes),
        ("whole_blocks", 2, threes),
        ("last_blocks", 7, threes),
    ):
        assert len(seeds[name]) == number, name
        assert all(found == expected for found in seeds[name].values()), name
    assert {arm.label for arm in seeds["windows"]} == {"blocks 5-9", "blocks 10-14", "blocks 18-22", "blocks 21-25"}
    assert {arm.label for arm in seeds["whole_blocks"]} == {"last 5, all weights", "middle 5, all weights"}


def test_comparisons_are_recorded_seed_by_seed() -> None:
    first = course_results.trained_arms()["equal_loss"][:5]
    assert [arm.label for arm in first] == ["first 5", "middle 5", "last 5", "spread 5", "all blocks"]
    assert {arm.seed for arm in first} == {0}


def test_every_arm_is_trained_for_one_file_and_every_task_is_there_once() -> None:
    arms = [arm for of_file in course_results.trained_arms().values() for arm in of_file]
    assert len(set(arms)) == len(arms)
    assert course_results.tasks().keys().isdisjoint(evidence_results.tasks())
    for name, tasks in TASKS.items():
        labels = [task.label for task in tasks]
        found = [json.dumps(task.configuration, sort_keys=True) for task in tasks]
        assert len(set(labels)) == len(set(found)) == len(tasks) > 0, name


def test_configurations_come_back_from_a_file_as_they_were() -> None:
    for tasks in TASKS.values():
        for task in tasks:
            assert json.loads(json.dumps(task.configuration)) == task.configuration, task.label


def test_full_arms_differ_from_the_run_of_chapter_02_in_one_thing_each() -> None:
    chapter = Arm(FULL)
    changes = set()
    for arm in kinds(course_results.trained_arms()["full_arms"]):
        if arm.config:
            settings = {**dataclasses.asdict(arm), **dataclasses.asdict(arm.config)}
            same = {**dataclasses.asdict(chapter), **dataclasses.asdict(FULL)}
            changes.add(tuple(name for name in same if name != "config" and settings[name] != same[name]))
    assert changes == {(), ("epochs",), ("trained_on",)}


@pytest.mark.parametrize("name", ["equal_loss", "equal_steps"])
def test_arms_that_are_compared_have_equally_many_parameters_and_settings(name: str) -> None:
    config = tiny_model().config
    config.num_hidden_layers = 30

    def parameters(arm: Arm) -> int:
        model = LlamaForCausalLM(config)
        blocks = choose_blocks(model, arm.count or len(blocks_of(model)), str(arm.place or "last"))
        return int(trained_modules(late_stage_lora(model, blocks, arm.rank or 0))["parameters"].sum())

    equal = [arm for arm in kinds(course_results.trained_arms()[name]) if (arm.place, arm.rank) != (None, RANK)]
    assert {arm.label for arm in equal} == {"all blocks", "first 5", "middle 5", "last 5", "spread 5"}
    assert len({parameters(arm) for arm in equal}) == 1
    assert len({arm.config for arm in equal}) == 1
    assert {arm.trained_on for arm in equal} == {"tales"}


def test_controls_are_of_arms_that_are_recorded_themselves() -> None:
    """So every control has its pair, and nothing is trained for it alone."""
    trained = [arm.configuration() for of_file in course_results.trained_arms().values() for arm in of_file]
    tasks = course_results.tasks()
    for name in ("sampled", "order_and_shape", "damage", "curves"):
        for task in tasks[name]:
            assert {key: task.configuration[key] for key in trained[0]} in trained, task.label
    for task in tasks["shared_overrides"]:
        late, early = task.configuration["late"], task.configuration["early"]
        assert late in trained
        assert early in trained
        assert late["config"]["seed"] == early["config"]["seed"]
    assert all(task.configuration["arm"] in trained for task in tasks["biases"])


# What is measured with a bias


@pytest.mark.parametrize(
    ("kind", "bias", "model"),
    [
        ("500 tokens", "bias of 500", "base model"),
        ("all tokens", "bias of None", "base model"),
        ("learned", "learned bias", "base model"),
        ("taken out", "bias of None", "the arm's model"),
    ],
)
def test_each_kind_of_bias_is_put_on_its_model(
    kind: str, bias: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = SimpleNamespace(
        seed=2, subject=None, trained=lambda: ("the arm's model", None), splits=lambda: {"train": "the arm's texts"}
    )

    def bias_rows(*arguments: Any) -> Iterator[Row]:
        yield {"arguments": arguments}

    monkeypatch.setattr(course_results, "bias_rows", bias_rows)
    monkeypatch.setattr(course_results, "base_model", lambda _: "base model")
    monkeypatch.setattr(course_results, "model_bias", lambda arm, tokens: f"bias of {tokens}")
    monkeypatch.setattr(course_results, "trained_bias", lambda arm: "learned bias")
    (row,) = course_results.measure_bias(kind, arm, 0.25)  # type: ignore[arg-type]
    assert row == {"seed": 2, "arguments": (kind, bias, 0.25, model, "the arm's texts")}
    assert kind in course_results.BIASES


def test_static_part_is_taken_out_of_the_model_whole() -> None:
    assert course_results.BIASES["taken out"] == (-1.0,)


# The command


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were to be recorded."""
    names: list[str] = []

    def record(name: str, wanted: list[Task], folder: Path) -> None:
        known = course_results.tasks()[name]
        assert [task.configuration for task in wanted] == [task.configuration for task in known]
        assert folder == RESULTS
        names.append(name)

    monkeypatch.setattr(course_results, "record", record)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    return names


@pytest.mark.parametrize(
    ("names", "expected"),
    [([], list(course_results.tasks())), (["curves", "full_arms"], ["curves", "full_arms"])],
    ids=["all", "some"],
)
def test_files_that_are_named_are_recorded_in_float32(
    names: list[str], expected: list[str], asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["course_results.py", *names])
    course_results.main()
    assert asked == expected
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "no"


def test_name_of_no_file_is_refused_before_anything_is_measured(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["course_results.py", "full_arms", "hyperfit_arms"])
    with pytest.raises(SystemExit) as stop:
        course_results.main()
    assert stop.value.code == 2
    assert "there is no hyperfit_arms: choose from full_arms, sampled, " in capsys.readouterr().err
    assert asked == []


@pytest.mark.parametrize("script", [course_results, evidence_results], ids=lambda script: script.__name__)
def test_docstring_names_every_file(script: Any) -> None:
    named = re.findall(r"^    (\w+)\.json ", str(script.__doc__), re.MULTILINE)
    files = {re.sub(r"^lab_.*", "lab_NAME", name) for name in script.tasks()}
    # The line for labs stands there with or without one.
    assert sorted(named) == sorted(files | ({"lab_NAME"} if script is course_results else set()))


# What is in the files


def test_recorded_numbers_say_where_they_come_from() -> None:
    for name in {*READ, *RECORDED, "benchmarks"}:
        for row in load(name)["rows"]:
            assert {"date", "machine", "python", "torch", "transformers"} <= row["made"].keys()


def committed_claims() -> list[Row]:
    rows: list[Row] = load("claims")
    assert rows
    return rows


def test_claims_have_the_documented_fields() -> None:
    fields = {field.name for field in dataclasses.fields(Prediction)} | {"measured", "estimate", "verdict"}
    for claim in committed_claims():
        assert claim.keys() == fields
        assert claim["estimate"] is None or claim["estimate"].keys() == set(Estimate._fields)
    ids = [claim["id"] for claim in committed_claims()]
    assert ids == sorted(set(ids))


def test_claims_are_what_was_predicted_and_their_verdicts_follow() -> None:
    predicted = predictions()
    for claim in committed_claims():
        prediction = predicted[claim["id"]]
        assert {key: claim[key] for key in dataclasses.asdict(prediction)} == dataclasses.asdict(prediction)
        if prediction.threshold is None:
            assert (claim["estimate"], claim["verdict"]) == (None, FACT)
        else:
            assert claim["verdict"] == verdict_of(Estimate(**claim["estimate"]), prediction.threshold)


def test_every_prediction_is_tested() -> None:
    assert {claim["id"] for claim in committed_claims()} == set(predictions())


def test_claims_are_those_that_the_committed_notebooks_show() -> None:
    shown: dict[str, str] = {}
    for path in (ROOT / "book").rglob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if "record_claims(claims)" in cell.source:
                text = "".join(output.text for output in cell.outputs)
                shown |= dict(line.split(": ") for line in text.splitlines())
    assert shown == {claim["id"]: claim["verdict"] for claim in committed_claims()}
