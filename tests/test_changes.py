"""The fast controls and interventions of a study, on a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from samples import loads_tiny_model
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hyperfit_course.decoding import PROMPT_TOKENS, continue_prompts
from hyperfit_course.study import arms, changes
from hyperfit_course.study.arms import Arm, Subject, base_model, held_out, tokenizer_of
from hyperfit_course.study.changes import (
    BASE_SPECTRUM,
    END_OFF,
    MIDDLE_OFF,
    OWN_SPECTRUM,
    blocking_rows,
    patching_rows,
    penalty_rows,
    spectrum_rows,
    switched_off,
    switching_rows,
)
from hyperfit_course.study.config import StudyError
from hyperfit_course.study.recording import TEXTS, Row
from hyperfit_course.study.writing import likelihood_row
from hyperfit_course.training import HyperfitConfig

CONFIG = HyperfitConfig(epochs=3, learning_rate=2e-2, batch_size=2, evaluate_every=0, evaluation_prompts=1, seed=1)
SMALL = Subject(n_train=4, n_validation=2, n_prompts=3, length=64)
FULL = Arm(CONFIG, subject=SMALL)
EVERYWHERE = Arm(CONFIG, rank=2, subject=SMALL)
FIRST = Arm(CONFIG, rank=2, count=2, place="first", subject=SMALL)


@pytest.fixture(autouse=True)
def tiny(tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setattr(arms, "load_model", loads_tiny_model(3, tokenizer))
    monkeypatch.setattr(arms, "load_tokenizer", lambda name: tokenizer)
    kept = (base_model, held_out, tokenizer_of)
    for each in kept:
        each.cache_clear()
    yield
    for each in kept:
        each.cache_clear()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Callable[[Arm], Any]:
    """An arm's model, the same object each time, so that a test sees whether it stays as it was."""
    models: dict[Arm, Any] = {}
    original = Arm.trained

    def trained(arm: Arm) -> Any:
        if arm not in models:
            models[arm] = original(arm)
        return models[arm]

    monkeypatch.setattr(Arm, "trained", trained)
    return lambda arm: trained(arm)[0]


def prompts() -> Tensor:
    return held_out("tales", SMALL)[:, :PROMPT_TOKENS]


@torch.no_grad()
def logits(model: Any) -> Tensor:
    result: Tensor = model(input_ids=held_out("tales", SMALL), use_cache=False).logits
    return result


def test_parts_of_30_blocks_are_those_of_chapter_09() -> None:
    assert switched_off(range(30), everywhere=True) == {MIDDLE_OFF: range(10, 20), END_OFF: range(25, 30)}
    assert [list(off) for off in switched_off(range(3), everywhere=True).values()] == [[1], [2]]
    assert [list(off) for off in switched_off([4, 6, 8, 9, 11], everywhere=False).values()] == [[4, 6], [8, 9, 11]]
    assert all(len(off) for off in switched_off([0, 1], everywhere=False).values())


@pytest.mark.parametrize(
    ("rows_of", "arm", "ways"),
    [
        (spectrum_rows, FULL, [BASE_SPECTRUM, OWN_SPECTRUM]),
        (switching_rows, EVERYWHERE, [MIDDLE_OFF, END_OFF]),
        (patching_rows, FIRST, ["states of the base model where it copies"]),
    ],
)
def test_rows_are_of_changed_models_and_their_likelihoods_of_the_unchanged_base(
    rows_of: Callable[[Arm], Iterator[Row]], arm: Arm, ways: list[str], trained: Callable[[Arm], Any]
) -> None:
    before = logits(base_model(SMALL)), logits(trained(arm))
    assert not torch.allclose(*before), "it was not trained"
    rows = list(rows_of(arm))
    assert [row["way"] for row in rows] == ways
    assert all(
        torch.equal(old, new)
        for old, new in zip(before, (logits(base_model(SMALL)), logits(trained(arm))), strict=True)
    )
    for row in rows:
        written = torch.cat([prompts(), torch.tensor(row[TEXTS])], dim=1)
        assert row["base_likelihood"] == pytest.approx(likelihood_row(written, base_model(SMALL))["base_likelihood"])


def test_adapters_that_are_off_do_not_write(trained: Callable[[Arm], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "switched_off", lambda trained, everywhere: {"all off": trained, "none off": []})
    off, on = (torch.tensor(row[TEXTS]) for row in switching_rows(EVERYWHERE))
    assert torch.equal(off, continue_prompts(base_model(SMALL), prompts()))
    assert torch.equal(on, continue_prompts(trained(EVERYWHERE), prompts()))


def test_penalty_is_on_the_base_model_and_counts_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        changes, "PENALTY", 1e6
    )  # what stood there once never comes again while there is something else
    (row,) = penalty_rows(Arm(subject=SMALL))
    free = continue_prompts(base_model(SMALL), prompts())
    assert all(len(text.unique()) < 10 for text in free), "it would not loop without"
    for prompt, text in zip(prompts(), torch.tensor(row[TEXTS]), strict=True):
        assert len(text[:30].unique()) == 30
        assert not set(text[:30].tolist()) & set(prompt.tolist())


def test_text_that_the_model_would_write_is_blocked_when_it_stands_in_the_training_text(
    trained: Callable[[Arm], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = continue_prompts(trained(FULL), prompts())
    monkeypatch.setattr("hyperfit_course.study.blocking._inside_word", lambda *_: False)
    monkeypatch.setattr(Arm, "splits", lambda arm: {"train": free})
    (row,) = blocking_rows(FULL)
    written = torch.tensor(row[TEXTS])
    assert torch.equal(written[:, :5], free[:, :5])
    assert not (written[:, 5] == free[:, 5]).any()


def test_too_few_states_for_a_spectrum_are_told_with_the_number_of_texts_that_suffices(
    trained: Callable[[Arm], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained(FULL).config, "hidden_size", 126)
    with pytest.raises(StudyError, match=r"2 validation texts have 126 states.* --validation_texts 3\."):
        list(spectrum_rows(FULL))
