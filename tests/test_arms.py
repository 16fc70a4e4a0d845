"""The arms of a study, on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from peft import PeftModel
from samples import loads_tiny_model, local_corpus
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hyperfit_course.anatomy import CausalLM
from hyperfit_course.corpora import make_texts
from hyperfit_course.late_stage import LateStageError, trained_modules
from hyperfit_course.study import arms
from hyperfit_course.study.arms import Arm, base_model, held_out, tokenizer_of
from hyperfit_course.training import HyperfitConfig, hyperfit

CONFIG = HyperfitConfig(epochs=1, learning_rate=5e-3, evaluate_every=0, evaluation_prompts=1, seed=1)


@pytest.fixture(autouse=True)
def tiny(tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The course's model is a tiny one of eight blocks, and nothing is fetched."""
    monkeypatch.setattr(arms, "load_model", loads_tiny_model(8, tokenizer))
    monkeypatch.setattr(arms, "load_tokenizer", lambda name: tokenizer)
    monkeypatch.setattr(arms, "load_corpus", local_corpus)
    monkeypatch.setattr("hyperfit_course.evaluation.NEW_TOKENS", 8)
    for cached in (base_model, held_out, tokenizer_of):
        cached.cache_clear()
    yield
    for cached in (base_model, held_out, tokenizer_of):
        cached.cache_clear()


class Runs:
    """What :func:`hyperfit` was called with, run by run."""

    def __init__(self) -> None:
        self.trained: list[list[str]] = []
        self.modules: list[pd.DataFrame] = []
        self.starts: list[dict[str, Tensor]] = []
        self.splits: list[dict[str, Tensor]] = []
        self.configs: list[HyperfitConfig] = []

    def __call__(self, model: CausalLM, splits: dict[str, Tensor], config: HyperfitConfig) -> pd.DataFrame:
        parameters = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        self.trained.append(sorted(parameters))
        self.starts.append(parameters)
        self.splits.append(splits)
        self.configs.append(config)
        if isinstance(model, PeftModel):
            self.modules.append(trained_modules(model))
        return hyperfit(model, splits, config)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    watched = Runs()
    monkeypatch.setattr(arms, "hyperfit", watched)
    return watched


@pytest.mark.parametrize(
    ("arm", "label"),
    [
        (Arm(), "base"),
        (Arm(CONFIG), "hyperfitted"),
        (Arm(CONFIG, "news"), "hyperfitted"),
        (Arm(CONFIG, rank=2), "all blocks"),
        (Arm(CONFIG, rank=2, count=5, place="last"), "last 5"),
        (Arm(CONFIG, rank=12, count=1, place="first"), "first 1"),
        (Arm(CONFIG, rank=2, count=3, place="spread"), "spread 3"),
        (Arm(CONFIG, rank=2, count=5, place=10), "blocks 10-14"),
        (Arm(CONFIG, rank=2, count=1, place=0), "blocks 0-0"),
        (Arm(CONFIG, count=5, place="middle"), "middle 5, all weights"),
        (Arm(CONFIG, count=2, place=3), "blocks 3-4, all weights"),
    ],
)
def test_label_of_each_kind_of_arm(arm: Arm, label: str) -> None:
    assert arm.label == label


def test_seed_is_that_of_the_training_and_0_for_the_base_model() -> None:
    assert Arm().seed == 0
    assert Arm(replace(CONFIG, seed=7)).seed == 7


def test_configuration_comes_back_from_a_file_as_it_was_and_differs_with_every_part_of_the_arm() -> None:
    several = [
        Arm(),
        Arm(CONFIG),
        Arm(replace(CONFIG, epochs=2)),
        Arm(replace(CONFIG, seed=2)),
        Arm(CONFIG, "news"),
        Arm(CONFIG, rank=2),
        Arm(CONFIG, rank=3),
        Arm(CONFIG, rank=2, count=5, place="last"),
        Arm(CONFIG, rank=2, count=4, place="last"),
        Arm(CONFIG, rank=2, count=5, place="first"),
        Arm(CONFIG, rank=2, count=5, place=0),
        Arm(CONFIG, rank=2, count=5, place=1),
        Arm(CONFIG, count=5, place="last"),
    ]
    written = [json.dumps(arm.configuration()) for arm in several]
    assert len(set(written)) == len(several)
    assert [json.loads(text) for text in written] == [arm.configuration() for arm in several]


def weights(model: CausalLM) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_base_arm_is_the_model_as_it_was_loaded(runs: Runs) -> None:
    model, history = Arm().trained()
    assert history.empty
    assert not runs.trained
    before, after = weights(arms.load_model()[0]), weights(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_full_arm_trains_all_weights(runs: Runs) -> None:
    model, history = Arm(CONFIG).trained()
    assert history["epoch"].tolist() == [0, 1]
    assert not isinstance(model, PeftModel)
    before, after = weights(arms.load_model()[0]), weights(model)
    assert runs.trained == [sorted(before)]
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert runs.configs == [CONFIG]


@pytest.mark.parametrize(
    ("arm", "blocks"),
    [
        (Arm(CONFIG, rank=2, count=5, place="middle"), [2, 3, 4, 5, 6]),
        (Arm(CONFIG, rank=2, count=2, place="first"), [0, 1]),
        (Arm(CONFIG, rank=2, count=1, place="last"), [7]),
        (Arm(CONFIG, rank=2, count=4, place="spread"), [1, 3, 5, 7]),
        (Arm(CONFIG, rank=2), [0, 1, 2, 3, 4, 5, 6, 7]),
        (Arm(CONFIG, rank=2, count=3, place=4), [4, 5, 6]),
        (Arm(CONFIG, rank=2, count=2, place=0), [0, 1]),
    ],
    ids=lambda value: value.label if isinstance(value, Arm) else "",
)
def test_an_arm_trains_the_blocks_that_it_names(arm: Arm, blocks: list[int], runs: Runs) -> None:
    model, history = arm.trained()
    assert isinstance(model, PeftModel)
    assert sorted(runs.modules[0]["block"].unique()) == blocks
    assert len(runs.modules[0]) == 7 * len(blocks), "not every linear map of these blocks"
    assert {start.shape[0] for name, start in runs.starts[0].items() if "lora_A" in name} == {arm.rank}
    assert history["epoch"].tolist() == [0, 1]
    assert history["train_loss"].notna().tolist() == [False, True]
    original = weights(arms.load_model()[0])
    kept = {name.replace(".base_layer", ""): p for name, p in model.get_base_model().named_parameters()}
    assert all(torch.equal(kept[name], tensor) for name, tensor in original.items()), "frozen weights have changed"


@pytest.mark.parametrize(
    ("arm", "blocks"),
    [
        (Arm(CONFIG, count=5, place="middle"), {2, 3, 4, 5, 6}),
        (Arm(CONFIG, count=2, place="last"), {6, 7}),
        (Arm(CONFIG, count=2, place=3), {3, 4}),
        (Arm(CONFIG, count=1, place=0), {0}),
    ],
    ids=lambda value: value.label if isinstance(value, Arm) else "",
)
def test_an_arm_of_blocks_without_rank_trains_all_their_weights_and_no_others(
    arm: Arm, blocks: set[int], runs: Runs
) -> None:
    model, history = arm.trained()
    assert not isinstance(model, PeftModel)
    before, after = weights(arms.load_model()[0]), weights(model)
    inside = sorted(name for name in before if any(f"layers.{number}." in name for number in blocks))
    assert len(inside) == 9 * len(blocks), "seven linear maps and two norms"
    assert runs.trained == [inside]
    assert sorted(name for name in before if not torch.equal(before[name], after[name])) == inside
    assert history["epoch"].tolist() == [0, 1]


@pytest.mark.parametrize("settings", [{"count": 5}, {"place": "last"}, {"place": 0}], ids=str)
def test_arm_with_a_count_and_no_place_or_the_other_way_round_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Name the count of the blocks and their place, or neither"):
        Arm(CONFIG, **settings)


def test_arm_of_no_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one block, not 0"):
        Arm(CONFIG, count=0, place="last")


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("place", [6, -1])
def test_blocks_that_the_model_does_not_have_are_named_before_anything_is_trained(
    place: int, rank: int | None, runs: Runs
) -> None:
    with pytest.raises(LateStageError, match=f"has the blocks 0 to 7: 3 of them cannot start at {place}"):
        Arm(CONFIG, rank=rank, count=3, place=place).trained()
    assert not runs.trained


@pytest.mark.parametrize(("seed", "corpus"), [(1, "tales"), (2, "tales"), (1, "news")])
def test_texts_of_an_arm_are_those_that_it_is_trained_on(
    seed: int, corpus: str, runs: Runs, tokenizer: PreTrainedTokenizerBase
) -> None:
    arm = Arm(replace(CONFIG, seed=seed), corpus, rank=2, count=1, place="last")
    arm.trained()
    expected = make_texts(local_corpus(corpus), tokenizer, seed=seed)
    for splits in (arm.splits(), runs.splits[0]):
        assert splits.keys() == expected.keys()
        assert all(torch.equal(splits[split], expected[split]) for split in expected)


def test_seed_decides_the_start_of_the_adapters(runs: Runs) -> None:
    for seed, corpus in ((1, "tales"), (2, "tales"), (1, "news")):
        Arm(replace(CONFIG, seed=seed), corpus, rank=2, count=1, place="last").trained()
    first, other, again = runs.starts
    name = next(name for name in first if "lora_A" in name)
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


def test_base_model_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = base_model()
    monkeypatch.setattr(arms, "load_model", lambda: pytest.fail("it was loaded again"))
    assert base_model() is model


@pytest.mark.parametrize("corpus", ["tales", "news"])
def test_held_out_texts_are_thirty_that_no_arm_trains_on(corpus: str, tokenizer: PreTrainedTokenizerBase) -> None:
    texts = held_out(corpus)
    assert texts.shape == (30, 128)
    assert len(texts.unique(dim=0)) == 30
    rows = {tuple(row) for row in texts.tolist()}
    for seed in (0, 1, 2):
        train = make_texts(local_corpus(corpus), tokenizer, seed=seed)["train"]
        assert not rows & {tuple(row) for row in train.tolist()}


def test_held_out_texts_of_a_corpus_with_few_prompts_are_texts_to_train_on(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    articles = [chr(ord("a") + number) * 256 for number in range(20)]
    small = {"train": articles, "validation": ["0" * 128 * 12], "prompts": ["1" * 128]}
    monkeypatch.setattr(arms, "load_corpus", {"wiki": small}.__getitem__)
    texts = held_out("wiki")
    assert texts.shape == (30, 128)
    assert {str(tokenizer.decode(row)) for row in texts} <= {article[:128] for article in articles}
