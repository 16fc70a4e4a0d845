"""The lab on local linear structure, its second part: one gradient step against contrasts of states."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import tiny_model
from transformers import PreTrainedModel

from hyperfit_course.labs import linear_steering as lab
from hyperfit_course.labs.linear_steering import (
    Prompts,
    added,
    answer_contrast,
    balanced_signs,
    course_prompts,
    gradient,
    label_contrast,
    last_states,
    log_odds,
    part,
    step_size,
    stepped,
    without_largest,
)

COUNT = len(lab.GOOD) + len(lab.BAD)


def some(count: int = 6) -> Prompts:
    ids = torch.randint(256, (count, 5), generator=torch.Generator().manual_seed(0))
    return Prompts(ids, torch.arange(count) < count // 2, (7, 9))


def tokenizer(text: str) -> dict[str, list[int]]:
    answers = {" positive": [7], " negative": [9]}
    return {"input_ids": answers.get(text) or [3, *text.encode()[13:16], 5]}


def test_a_contrast_changes_its_sign_with_the_labels() -> None:
    states, good = torch.randn(6, 2, 4, generator=torch.Generator().manual_seed(0)), some().good
    assert torch.allclose(label_contrast(states, good), -label_contrast(states, ~good))
    assert torch.allclose(label_contrast(states, good), states[:3].mean(0) - states[3:].mean(0))
    for missing in (torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)):
        with pytest.raises(ValueError, match="prompts with both labels"):
            label_contrast(states, missing)


def test_an_answer_contrast_changes_its_sign_with_the_answers(model: PreTrainedModel) -> None:
    prompts = some()
    one, other = (answer_contrast(model, prompts._replace(answers=each)) for each in ((7, 9), (9, 7)))
    assert torch.allclose(one, -other)
    assert one.shape == (2, 32)
    assert one.any()


def test_states_are_those_of_the_last_token(model: PreTrainedModel) -> None:
    found = model(input_ids=some().ids, output_hidden_states=True).hidden_states
    assert torch.allclose(last_states(model, some().ids)[:, 0], found[1][:, -1], atol=1e-6)
    assert last_states(model, some().ids).shape == (6, 2, 32)


def test_a_step_raises_the_log_odds_by_what_is_wanted_and_is_taken_back(model: PreTrainedModel) -> None:
    prompts, kept = some(), [each.clone() for each in model.parameters()]
    direction, before = gradient(model, prompts), log_odds(model, prompts).mean().item()
    size = step_size(model, prompts, direction, 0.1)
    with stepped(model, direction, size):
        assert log_odds(model, prompts).mean().item() - before == pytest.approx(0.1, abs=0.011)
    assert all(torch.equal(one, other) for one, other in zip(kept, model.parameters(), strict=True))
    with pytest.raises(ValueError, match="ask for less"):
        step_size(model, prompts, direction, 1000.0)


def test_gradients_of_prompts_have_the_whole_one_as_their_mean(model: PreTrainedModel) -> None:
    prompts = some()
    alone = [gradient(model, part(prompts, torch.tensor([number]))) for number in range(6)]
    for whole, *parts in zip(gradient(model, prompts), *alone, strict=True):
        assert torch.allclose(whole, torch.stack(parts).mean(0), atol=1e-5)


def test_an_added_vector_moves_the_last_token_alone(model: PreTrainedModel) -> None:
    ids, vector = some().ids, torch.arange(32.0)
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        with added(model, 1, vector):
            moved, states = model(input_ids=ids).logits, last_states(model, ids)
        assert torch.equal(model(input_ids=ids).logits, plain)
    assert torch.equal(moved[:, :-1], plain[:, :-1])
    assert not torch.allclose(moved[:, -1], plain[:, -1], atol=1e-2)
    assert torch.allclose(states[:, 1] - last_states(model, ids)[:, 1], vector.expand(6, -1), atol=1e-4)


def test_shuffled_labels_are_balanced_and_their_cosines_have_mean_zero() -> None:
    signs = balanced_signs(8)
    assert signs.shape == (200, 8)
    assert not signs.sum(1).any()
    assert signs.unique(dim=0).shape[0] > 50
    shifts, vector = torch.randn(8, 30, generator=torch.Generator().manual_seed(1)) + 2, torch.ones(30)
    cosines = torch.nn.functional.cosine_similarity(signs @ shifts, vector, dim=-1)
    assert cosines.mean().item() == pytest.approx(0, abs=0.05)
    assert torch.nn.functional.cosine_similarity(shifts.sum(0), vector, dim=0) > 0.9  # true labels keep what is common


def test_the_largest_dimensions_are_left_out() -> None:
    states = torch.ones(4, 2, 6)
    states[:, 0, [1, 3, 5]] = -9
    states[:, 1, :3] = 7
    assert without_largest(states).tolist() == [[1, 0, 1, 0, 1, 0], [0, 0, 0, 1, 1, 1]]


def test_prompts_that_do_not_fit_are_refused() -> None:
    prompts = course_prompts(tokenizer)
    assert prompts.ids.shape == (COUNT, 5)
    assert prompts.good.tolist() == [True] * len(lab.GOOD) + [False] * len(lab.BAD)
    with pytest.raises(ValueError, match="answers of one token"):
        course_prompts(lambda text: {"input_ids": list(text.encode())})


def test_rows_say_where_the_shift_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "load_model", lambda device: (tiny_model(), tokenizer))
    monkeypatch.setattr(lab, "STEERED", (0, 1))
    monkeypatch.setattr(lab, "WANTED", 0.2)
    rows = list(lab.run())
    assert json.loads(json.dumps(rows)) == rows
    cosines = [row for row in rows if "cosines" in row]
    assert len(cosines) == 2 * 2 * 2
    for row in cosines:
        assert len(row["cosines"]) == 2 * lab.HELD_OUT
        assert -1 <= row["null"][0] <= row["null"][1] <= row["null"][2] <= 1
    steered = {(row["added"], row.get("block")): row["change"] for row in rows if "added" in row}
    assert len(steered) == 1 + 2 * 4
    own, whole = (torch.tensor(steered[key]) for key in (("shift", 1), ("the step itself", None)))
    assert whole.mean().item() == pytest.approx(0.2, abs=0.021)
    assert own.mean().item() == pytest.approx(whole.mean().item(), abs=0.1)  # the last block: the norm alone is left
    (check,) = (row for row in rows if "check" in row)
    assert check["smallest"] > 0.95
