"""Arms with other texts and with another loss, on a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from conftest import tiny_model
from samples import local_corpus, random_splits, shrink_the_course
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hyperfit_course.corpora import make_texts
from hyperfit_course.late_stage import late_stage_lora
from hyperfit_course.logits import at_positions
from hyperfit_course.study import variants
from hyperfit_course.study.arms import Arm, held_out
from hyperfit_course.study.variants import Unsure, Variant, train_unsure
from hyperfit_course.temperature import predictive_entropy
from hyperfit_course.training import HyperfitConfig

CONFIG = HyperfitConfig(epochs=1, learning_rate=5e-3, evaluate_every=0, evaluation_prompts=1, seed=1)


@pytest.fixture(autouse=True)
def tiny(tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_the_course(monkeypatch, tokenizer, blocks=4)


def rows(texts: Tensor) -> set[tuple[int, ...]]:
    return {tuple(text) for text in texts.tolist()}


def test_variant_that_changes_nothing_has_the_texts_and_the_model_of_the_arm() -> None:
    arm, same = Arm(CONFIG), Variant(CONFIG)
    assert same.label == arm.label == "hyperfitted"
    for split, texts in arm.splits().items():
        assert torch.equal(same.splits()[split], texts)
    models = [each.trained()[0].state_dict() for each in (arm, same)]
    assert all(torch.equal(weight, models[1][name]) for name, weight in models[0].items())


def test_more_texts_are_the_same_and_others() -> None:
    few, usual, more = (Variant(CONFIG, texts=number).splits()["train"] for number in (8, 32, 64))
    assert [len(texts) for texts in (few, usual, more)] == [8, 32, 64]
    assert rows(few) < rows(usual) < rows(more)
    assert Variant(CONFIG, texts=8).label == "hyperfitted, 8 texts"


def test_other_order_has_the_texts_of_the_drawn_seed_and_the_order_of_the_training_seed() -> None:
    arm, other = Arm(CONFIG), Variant(replace(CONFIG, seed=7), drawn=1)
    assert other.label == "hyperfitted, texts of seed 1"
    assert other.seed == 7
    assert torch.equal(other.splits()["train"], arm.splits()["train"])
    assert not torch.equal(Arm(replace(CONFIG, seed=7)).splits()["train"], arm.splits()["train"])
    weights = [next(each.trained()[0].parameters()).detach() for each in (arm, other)]
    assert not torch.equal(*weights), "the order of the texts is the same"


def test_wiki_is_trained_on_articles_that_are_not_held_out(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    articles = {
        "train": ["a" * 128 * 3] * 10 + ["c" * 128] * 20,
        "validation": ["v" * 128 * 12],
        "prompts": ["b" * 128 * 40],
    }
    monkeypatch.setattr(variants, "load_corpus", lambda name: articles)
    monkeypatch.setattr("hyperfit_course.study.arms.load_corpus", lambda name: articles)
    splits = Variant(CONFIG, "wiki").splits()
    assert [sorted(set(str(tokenizer.decode(splits[name].flatten())))) for name in splits] == [["b"], ["v"], ["a", "c"]]
    assert set(str(tokenizer.decode(held_out("wiki").flatten()))) <= {"a", "c"}


def test_configurations_differ_with_every_part() -> None:
    several = [
        Arm(CONFIG),
        Variant(CONFIG),
        Variant(CONFIG, texts=8),
        Variant(CONFIG, drawn=0),
        Variant(CONFIG, drawn=1),
        Unsure(CONFIG, rank=2, count=2, place="last"),
        Unsure(CONFIG, rank=2, count=2, place="last", least_entropy=2.0),
    ]
    written = [json.dumps(arm.configuration()) for arm in several]
    assert len(set(written)) == len(several)
    assert [json.loads(text) for text in written] == [arm.configuration() for arm in several]


def test_texts_are_those_of_the_course(tokenizer: PreTrainedTokenizerBase) -> None:
    expected = make_texts(local_corpus("news"), tokenizer, n_train=16, seed=1)["train"]
    assert torch.equal(Variant(CONFIG, "news", texts=16).splits()["train"], expected)


# Confidence


def entropy(model: object, texts: Tensor) -> float:
    return at_positions(predictive_entropy, model, texts=texts).mean().item()  # type: ignore[arg-type]


def test_penalised_model_learns_its_texts_and_stays_unsure() -> None:
    texts, entropies = random_splits()["train"][:4], {}
    for least in (0.0, 4.5):
        model = tiny_model()
        train_unsure(model, texts, replace(CONFIG, epochs=60, learning_rate=1e-2), least)
        choices = at_positions(lambda logits: logits.argmax(-1), model, texts=texts)
        assert (choices == texts[:, 1:]).double().mean() > 0.9
        entropies[least] = entropy(model, texts)
    assert entropies[0.0] < 2
    assert entropies[4.5] == pytest.approx(4.5, abs=0.4)


def test_penalty_leaves_what_is_frozen_and_the_order_is_that_of_the_seed() -> None:
    texts, weights = random_splits()["train"], []
    for seed in (1, 1, 2):
        model = late_stage_lora(tiny_model(), 1, rank=2)
        frozen = {name: weight.clone() for name, weight in model.named_parameters() if not weight.requires_grad}
        train_unsure(model, texts, replace(CONFIG, seed=seed), 3.5)
        parameters = dict(model.named_parameters())
        assert all(torch.equal(parameters[name], weight) for name, weight in frozen.items())
        assert all(weight.grad is None for weight in parameters.values())
        weights.append(torch.cat([p.detach().flatten() for p in parameters.values() if p.requires_grad]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_without_a_penalty_it_is_the_training_of_the_course() -> None:
    arm = Arm(CONFIG, rank=2, count=2, place="last")
    expected, history = arm.trained()
    found, row = Unsure(CONFIG, rank=2, count=2, place="last", least_entropy=0.0).trained()
    with torch.no_grad():
        logits = [model(input_ids=held_out("tales")[:2]).logits for model in (expected, found)]
    torch.testing.assert_close(*logits, rtol=1e-2, atol=1e-2)
    assert row["validation_loss"].iloc[-1] == pytest.approx(history["validation_loss"].iloc[-1], rel=1e-3)
    assert row["epoch"].tolist() == [1]
    assert Unsure(CONFIG, rank=2, count=2, place="last").label == "last 2, unsure"


def test_training_that_diverges_is_stopped() -> None:
    model = late_stage_lora(tiny_model(), 1, rank=2)
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))
    with pytest.raises(ValueError, match="no longer a number: lower the learning rate"):
        train_unsure(model, random_splits()["train"], CONFIG, 3.5)
