"""Rows of models that are changed inside, on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from samples import shrink_the_course
from transformers import PreTrainedTokenizerBase

from hyperfit_course.decoding import continue_prompts
from hyperfit_course.study import causes
from hyperfit_course.study.arms import Arm, base_model
from hyperfit_course.study.causes import (
    EVERY,
    base_texts,
    changed_rows,
    copying_row,
    copying_rows,
    headless_rows,
    patched_rows,
    rotated_rows,
    spectrum_rows,
    strongest_heads,
    switched_rows,
    trained_rows,
)
from hyperfit_course.study.copying import copy_score, induction_scores, loop_persistence
from hyperfit_course.study.interventions import adapters_off, heads_off
from hyperfit_course.study.measures import arm_rows
from hyperfit_course.study.recording import Row
from hyperfit_course.training import HyperfitConfig

CONFIG = HyperfitConfig(epochs=1, learning_rate=2e-2, evaluate_every=0, evaluation_prompts=1, seed=1)
ADAPTED = Arm(CONFIG, rank=2)
BLOCKS = 4
ALL_PASSAGES = causes.passages


@pytest.fixture(autouse=True)
def tiny(tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_the_course(monkeypatch, tokenizer, BLOCKS)


@pytest.fixture
def lean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows hold some logits only: the other measures have tests of their own."""

    def model_rows(arm: Arm, model: Any, of_run: Row, source: Any, corpora: Any) -> Iterator[Row]:
        assert torch.equal(source, arm.splits()["train"])
        for corpus in corpora:
            yield {"arm": arm.label, "prompts": corpus, **of_run, "logits": logits(model)}

    monkeypatch.setattr(causes, "model_rows", model_rows)
    monkeypatch.setattr(causes, "copying_row", lambda model, every: {"copying": "measured"})


@torch.no_grad()
def logits(model: Any) -> list[float]:
    """Some of a model's, as it is now."""
    return model(input_ids=causes.held_out("tales"), use_cache=False).logits[:, -1, :3].flatten().tolist()


def can_be_recorded(rows: list[Row]) -> bool:
    return json.loads(json.dumps(rows, allow_nan=False)) == rows and not any("texts" in row for row in rows)


def test_passages_are_the_first_sentences_of_the_tales_and_random_strings(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    start, sentences, strings = ALL_PASSAGES()
    assert str(tokenizer.decode(start)) == "It was late."
    assert len(sentences) == 30
    assert all(str(tokenizer.decode(ids)).startswith(" ") for ids in sentences)
    assert all(str(tokenizer.decode(ids)).rstrip("”’\"'")[-1] in ".!?" for ids in sentences)
    assert strings.shape == (20, 25)


def test_copying_of_a_model_is_its_scores_persistence_and_heads() -> None:
    kept = causes.passages()
    model = ADAPTED.trained()[0]
    row = copying_row(model)
    assert can_be_recorded([row])
    copied = [copy_score(model, sentence, kept.start) for sentence in kept.sentences]
    assert row["first_copy_sentences_of_texts"] == pytest.approx([each.first for each in copied], abs=1e-4)
    assert row["copy_score_sentences"] == pytest.approx(sum(each.score for each in copied) / 3, abs=1e-3)
    assert row["last_copy_random_of_texts"][1] == pytest.approx(
        copy_score(model, kept.strings[1], kept.start).last, abs=1e-4
    )
    persistence = loop_persistence(model, base_texts(), 32)
    assert row["loop_persistence_of_loops"] == pytest.approx(persistence, abs=1e-4)
    assert row["loop_persistence"] == pytest.approx(sum(persistence) / len(persistence), abs=1e-4)
    scores = induction_scores(base_model(), kept.strings)
    assert strongest_heads()[0] == divmod(int(scores.argmax()), 4)
    mine = induction_scores(model, kept.strings)
    assert row["strongest_heads"] == pytest.approx(sum(mine[head].item() for head in strongest_heads()) / 10, abs=1e-5)
    assert len(row["induction_of_heads"]) == BLOCKS
    part = copying_row(model, every=2)
    for name in ("first_copy_sentences_of_texts", "last_copy_random_of_texts"):
        assert part[name] == pytest.approx(row[name][::2], abs=1e-3)
    assert len(part["loop_persistence_of_loops"]) <= 2


def test_loops_are_those_that_the_base_model_writes() -> None:
    prompts = causes.held_out("tales")[:, :32]
    assert torch.equal(base_texts(), torch.cat([prompts, continue_prompts(base_model(), prompts)], dim=1))


def test_copying_is_recorded_for_an_arm() -> None:
    (row,) = copying_rows(Arm(CONFIG, rank=2, count=1, place="last"))
    assert can_be_recorded([row])
    assert (row["arm"], row["rank"], row["seed"]) == ("last 1", 2, 1)
    assert 0 <= row["loop_persistence"] <= 1


@pytest.mark.filterwarnings("ignore:.*participation ratio")
def test_rows_of_an_arm_are_those_of_the_study_and_its_copying() -> None:
    arm = Arm(CONFIG, rank=2, count=1, place="last")
    (row,) = trained_rows(arm)
    (expected,) = arm_rows(arm, ("tales",))
    assert can_be_recorded([row])
    assert row == {**expected, **copying_row(arm.trained()[0], EVERY), "way": "trained"}


@pytest.mark.usefixtures("lean")
def test_turned_change_comes_after_the_trained_one() -> None:
    arm = Arm(CONFIG, rank=2, count=2, place="last")
    trained, turned = rotated_rows(arm, ("tales",))
    assert (trained["way"], turned["way"], turned["factor"] > 0) == ("trained", "random directions", True)
    assert trained["logits"] == logits(arm.trained()[0]) != turned["logits"]


@pytest.mark.usefixtures("lean")
def test_adapters_are_switched_off_in_a_part_and_in_all_others() -> None:
    rows = {row["way"]: row for row in switched_rows(ADAPTED, {"0-1": [0, 1], "all": range(BLOCKS)})}
    assert list(rows) == ["trained", "0-1 off", "only 0-1 on", "all off", "only all on"]
    assert rows["only all on"]["logits"] == rows["trained"]["logits"] == logits(ADAPTED.trained()[0])
    assert rows["all off"]["logits"] == logits(base_model()) != rows["trained"]["logits"]
    model = ADAPTED.trained()[0]
    with adapters_off(model, [2, 3]):
        assert rows["only 0-1 on"]["logits"] == logits(model)


@pytest.mark.usefixtures("lean")
def test_spectrum_is_taken_from_the_arm_and_given_to_the_base_model() -> None:
    arm = Arm(CONFIG)
    rows = list(spectrum_rows(arm))
    assert [row["way"] for row in rows] == [
        "trained",
        "spectrum of the base model",
        "random map",
        "base model with the arm's spectrum",
    ]
    assert all(row["copying"] == "measured" for row in rows)
    assert rows[0]["logits"] == logits(arm.trained()[0])
    assert len({tuple(row["logits"]) for row in rows}) == 4
    assert rows[3]["logits"] != logits(base_model())


@pytest.mark.usefixtures("lean")
def test_states_are_patched_in_both_directions_and_the_model_of_reference_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, seen = logits(base_model()), []

    def patched_output(model: Any, donor: Any, block: int) -> Any:
        seen.append((model is base_model() or donor is base_model(), block))
        return adapters_off(donor if hasattr(donor, "peft_config") else model, [])

    monkeypatch.setattr(causes, "patched_output", patched_output)
    into, reverse = patched_rows(ADAPTED, 2)
    assert (into["way"], into["block"]) == ("base model with states of the arm", 2)
    assert reverse["way"] == "with states of the base model"
    assert (into["logits"], reverse["logits"]) == (before, logits(ADAPTED.trained()[0]))
    assert seen == [(False, 2), (False, 2)], "likelihoods would be those of a patched model"


def test_patched_rows_are_of_models_that_read_each_others_states() -> None:
    before = logits(base_model())
    rows = list(patched_rows(ADAPTED, 2))
    assert can_be_recorded(rows)
    assert rows[0]["kl_from_base"] > 0
    assert 0 < rows[1]["kl_from_base"] != rows[0]["kl_from_base"]
    assert logits(base_model()) == before


@pytest.mark.usefixtures("lean")
def test_heads_that_copy_are_off_and_then_as_many_others_of_their_blocks() -> None:
    without, other = headless_rows(3)
    assert (without["way"], other["way"]) == ("without heads that copy", "without other heads")
    assert [tuple(head) for head in without["heads"]] == strongest_heads()[:3]
    assert [head[0] for head in other["heads"]] == [block for block, _ in strongest_heads()[:3]]
    assert not {tuple(head) for head in other["heads"]} & {*strongest_heads()}
    with heads_off(base_model(), strongest_heads()[:3]):
        assert without["logits"] == logits(base_model())
    assert {"arm", "prompts", "copying"} <= without.keys()


def test_changed_rows_say_what_was_done() -> None:
    (row,) = changed_rows(Arm(), "nothing", base_model(), more={"block": 3})
    assert (row["way"], row["block"], row["arm"], row["kl_from_base"]) == (
        "nothing",
        3,
        "base",
        pytest.approx(0, abs=1e-6),
    )
