"""The tasks of chapters 07 to 09: which models they measure, with which seeds, and that each can be run."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import course_results
import evidence_results
import pandas as pd
import pytest
import torch
from course_results import EARLY, EQUAL_LOSS, EQUAL_STEPS, FULL, five
from evidence_results import LATER_SEEDS
from samples import shrink_the_course
from transformers import PreTrainedTokenizerBase

from hyperfit_course.study import causes, measures, rivals
from hyperfit_course.study.arms import Arm
from hyperfit_course.study.claims import predictions
from hyperfit_course.study.recording import Row, Task
from hyperfit_course.study.variants import Variant

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = [field.name for field in dataclasses.fields(Arm) if field.name != "subject"]


def seeds_of(tasks: Iterable[Task]) -> dict[str, list[int]]:
    """The training seeds of each kind of arm, by the name of a task without its seed."""
    found = defaultdict(list)
    for task in tasks:
        config = task.configuration["config"]
        label = task.label.split(", seed")[0] + task.label.partition(", after")[2]
        found[label].append(config["seed"] if config else 0)
    return dict(found)


def trained_before() -> list[dict[str, Any]]:
    return [arm.configuration() for arms in course_results.trained_arms().values() for arm in arms]


def trained_here(name: str) -> list[str]:
    """Tasks of a file whose models are not trained by course_results.py."""
    known = trained_before()
    models = [
        (task.label, {key: task.configuration[key] for key in known[0]}) for task in evidence_results.tasks()[name]
    ]
    return [label for label, model in models if model not in known]


def test_what_had_been_looked_at_with_seed_0_is_measured_with_other_seeds() -> None:
    assert LATER_SEEDS == (1, 2, 3, 4, 5)
    for name, kinds in {"rotated": 2, "spectra": 1, "switched": 1}.items():
        found = seeds_of(evidence_results.tasks()[name])
        assert list(found.values()) == [[1, 2, 3, 4, 5]] * kinds, name
    for claim in ("cause-rotated-damage", "cause-spectrum", "cause-switch-off"):
        assert "seeds 1 to 5" in predictions()[claim].differs


def test_turned_changes_are_those_of_the_two_places_at_equal_loss() -> None:
    (middle, last) = ({**five(EQUAL_LOSS, place).configuration()} for place in ("middle", "last"))
    for task, expected in zip(evidence_results.tasks()["rotated"], [middle, last] * 5, strict=True):
        assert {key: task.configuration[key] for key in SETTINGS if key != "config"} == {
            key: expected[key] for key in SETTINGS if key != "config"
        }


def test_models_that_are_recorded_already_are_not_trained_for_these_files() -> None:
    for name in ("copying", "blocked", "chance", "patched", "long"):
        assert trained_here(name) == [], name
    for name, number in {"rotated": 2, "spectra": 1, "switched": 1}.items():
        assert len(trained_here(name)) == number, f"{name}: seed 5 only"
        assert all(label.endswith("seed 5") for label in trained_here(name))


def test_every_model_that_is_recorded_with_five_seeds_is_asked_how_it_copies() -> None:
    arms = course_results.trained_arms()
    expected = [arm.configuration() for name in ("full_arms", "equal_loss") for arm in arms[name]]
    found = [{key: task.configuration[key] for key in expected[0]} for task in evidence_results.tasks()["copying"]]
    assert found == expected


def test_parts_of_the_network_are_the_thirty_blocks_once() -> None:
    parts = evidence_results.tasks()["switched"][0].configuration["parts"]
    assert [number for blocks in parts.values() for number in blocks] == list(range(30))
    assert all(name == f"{blocks[0]}-{blocks[-1]}" for name, blocks in parts.items())


def test_states_are_patched_after_these_blocks() -> None:
    found = defaultdict(list)
    for task in evidence_results.tasks()["patched"]:
        found[task.configuration["block"]].append(task.configuration["config"]["seed"])
    assert found == {17: [1, 2, 3], 29: [1, 2, 3], 12: [1], 24: [1], 28: [1]}


def test_other_orders_and_amounts_and_fresh_texts_are_as_many_updates_on_their_texts() -> None:
    tasks = evidence_results.tasks()
    for name in ("orders", "amounts", "fresh"):
        for task in tasks[name]:
            config, texts = task.configuration["config"], task.configuration["texts"]
            assert config["epochs"] * texts == FULL.epochs * 32, task.label
            assert {**config, "epochs": 8, "seed": 0} == dataclasses.asdict(FULL)
    assert {task.configuration["texts"] for task in tasks["amounts"]} == {8, 16, 64, 128}
    for task in tasks["orders"]:
        assert task.configuration["drawn"] == task.configuration["config"]["seed"] - 100
    assert {task.configuration["trained_on"] for task in tasks["fresh"]} == {"wiki"}


def test_every_corpus_is_trained_on_and_tested_on_in_one_of_the_files() -> None:
    found = {
        (task.configuration["trained_on"], prompts, task.configuration["config"]["seed"])
        for task in [*course_results.tasks()["full_arms"], *evidence_results.tasks()["domains"]]
        if task.configuration["config"] and task.configuration["config"]["epochs"] == FULL.epochs
        for prompts in task.configuration["prompts"]
    }
    corpora = ("tales", "news", "wiki")
    assert found >= {(of, on, seed) for of in corpora for on in corpora for seed in (0, 1, 2)}
    assert ["wiki"] in [
        task.configuration["prompts"]
        for task in evidence_results.tasks()["domains"]
        if not task.configuration["config"]
    ]


def test_early_stops_are_compared_with_whole_runs_of_seeds_that_nobody_had_looked_at() -> None:
    known = [arm.configuration() for arm in course_results.trained_arms()["full_arms"]]
    known += [{key: task.configuration[key] for key in known[0]} for task in evidence_results.tasks()["stopped"]]
    for seed in (3, 4, 5):
        for config in (EARLY, FULL):
            assert Arm(dataclasses.replace(config, seed=seed)).configuration() in known


def test_moments_of_a_run_end_with_the_run_itself() -> None:
    tasks = evidence_results.tasks()["epochs"]
    epochs = {task.configuration["config"]["epochs"] for task in tasks}
    assert epochs == {1, 2, 4, 8, EQUAL_STEPS.epochs}
    assert not [label for label in trained_here("epochs") if f"{EQUAL_STEPS.epochs} epochs" in label]


def test_fresh_texts_and_wiki_runs_share_their_seeds() -> None:
    found = seeds_of(evidence_results.tasks()["fresh"])
    assert list(found.values()) == [[0, 1, 2]]
    wiki = [arm for arm in evidence_results.domain_arms() if arm.trained_on == "wiki"]
    assert wiki == course_results.seeds(Variant(FULL, "wiki"))


def test_files_that_are_named_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        course_results, "record", lambda name, wanted, folder: asked.append((name, len(wanted), folder))
    )
    monkeypatch.setattr(sys, "argv", ["evidence_results.py", "decodings", "headless"])
    evidence_results.main()
    assert asked == [("decodings", 5, ROOT / "results"), ("headless", 2, ROOT / "results")]


def test_make_records_both_lists() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nresults:")[2].partition("\n\n")[0]
    assert "tools/course_results.py\n" in recipe
    assert recipe.endswith("tools/evidence_results.py")


@pytest.mark.parametrize("name", evidence_results.tasks())
def test_a_task_of_every_file_runs(
    name: str, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a tiny model of as many blocks, with adapters that change something; what is measured has other tests."""
    shrink_the_course(monkeypatch, tokenizer, blocks=30)

    def trained(model: Any, *_: Any) -> pd.DataFrame:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn(parameter.shape))
        return pd.DataFrame([{"epoch": 1, "train_loss": 0.5, "validation_loss": 4.0}])

    monkeypatch.setattr("hyperfit_course.study.arms.hyperfit", trained)
    monkeypatch.setattr("hyperfit_course.study.variants.train_unsure", trained)
    for module in (causes, measures, rivals):
        monkeypatch.setattr(module, "model_rows", rows_of_prompts, raising=False)
        monkeypatch.setattr(module, "text_row", lambda *_: {}, raising=False)
    monkeypatch.setattr(causes, "copying_row", lambda *_: {})
    monkeypatch.setattr(rivals, "continue_prompts", lambda model, prompts, new=96, **_: prompts.repeat(1, 15)[:, :new])
    task = evidence_results.tasks()[name][-1]
    rows = [row | {"configuration": task.configuration} for row in task.measure()]
    assert rows
    assert json.loads(json.dumps(rows)) == rows
    wanted = task.configuration.get("prompts", [])
    assert list(dict.fromkeys(row["prompts"] for row in rows if "prompts" in row)) == wanted or name == "long"


def rows_of_prompts(arm: Arm, model: Any, of_run: Row, source: Any, corpora: Iterable[str]) -> Iterator[Row]:
    for corpus in corpora:
        yield {"arm": arm.label, "prompts": corpus, **of_run}
