"""The lab on test-time training: its gradients are right, and nothing is read before its time."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hyperfit_course.labs import test_time_training as lab
from hyperfit_course.labs.test_time_training import (
    ARMS,
    E2E,
    FURTHER,
    SEEDS,
    SHIFTED,
    Arm,
    Documents,
    floor,
    inner_step,
    measured,
    read,
    run,
    sightings,
    tasks,
)
from hyperfit_course.labs.tiny import Tiny

EVERY = [*ARMS[16], *FURTHER[16]]


@pytest.fixture
def model() -> Tiny:
    return E2E.model(16, seed=1).double()


@pytest.fixture
def tokens() -> Tensor:
    return Documents().documents(3, torch.Generator().manual_seed(2))


# Documents


def test_a_document_follows_its_own_permutation() -> None:
    tokens = Documents(batch=1).documents(400, torch.Generator().manual_seed(0))
    assert tokens.shape == (400, 129)
    shares, images = [], []
    for row in tokens:
        pairs = torch.zeros(16, 16)
        pairs.index_put_((row[:-1], row[1:]), torch.ones(128), accumulate=True)
        best = pairs.argmax(1)
        seen = pairs.sum(1) > 4  # enough to know the image
        shares.append((best[row[:-1]] == row[1:])[seen[row[:-1]]].double().mean())
        images.append(best)
    assert torch.stack(shares).mean().item() == pytest.approx(0.8 + 0.2 / 16, abs=0.02)
    assert (images[0] != images[1]).any(), "each document has a permutation of its own"


def test_the_floor_is_the_entropy_of_who_knows_the_permutation() -> None:
    probabilities = torch.tensor([0.8 + 0.2 / 16] + [0.2 / 16] * 15).double()
    assert floor(16) == pytest.approx(-(probabilities * probabilities.log()).sum().item())
    assert floor(16) == pytest.approx(0.990, abs=0.001)
    assert floor(5, keep=1.0) == pytest.approx(0)
    assert floor(5, keep=0.0) == pytest.approx(math.log(5))


def test_sightings_count_what_is_beyond_the_window() -> None:
    symbols = torch.tensor([[7, 1, 7, 2, 3, 4, 7, 7, 1, 0]])
    assert sightings(symbols, window=3).tolist() == [[0, 0, -1, 0, 0, 0, 2, -1, 1]]


# The inner loop


def coordinates(model: Tiny) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Twenty weights, three of them of the prime MLP's matrices."""
    generator = torch.Generator().manual_seed(3)
    parameters = [*model.blocks[-1].prime.weights(), *model.parameters()]  # type: ignore[union-attr, operator]
    for parameter in itertools.islice(itertools.cycle(parameters), 20):
        yield parameter, tuple(int(torch.randint(size, (), generator=generator)) for size in parameter.shape)


def gradient_errors(model: Tiny, tokens: Tensor, second_order: bool) -> list[float]:
    """Relative errors of the outer gradient against central differences."""
    model.zero_grad()
    read(model, tokens, 1.0, second_order=second_order).mean().backward()
    errors = []
    for parameter, where in coordinates(model):
        values = []
        for shift in (1e-5, -1e-5):
            parameter.data[where] += shift
            values.append(read(model, tokens, 1.0, second_order=False).mean().item())
            parameter.data[where] -= shift
        expected = (values[0] - values[1]) / 2e-5
        assert parameter.grad is not None
        errors.append(abs(parameter.grad[where].item() - expected) / max(abs(expected), 1e-6))
    return errors


def test_the_outer_gradient_goes_through_the_inner_one(model: Tiny, tokens: Tensor) -> None:
    tokens = tokens[:, :49]
    assert max(gradient_errors(model, tokens, second_order=True)) < 1e-5
    assert max(gradient_errors(model, tokens, second_order=False)) > 0.1, "first order must not pass"


def test_without_steps_it_is_the_model_itself(model: Tiny, tokens: Tensor) -> None:
    plain = functional.cross_entropy(model(tokens[:, :-1]).mT, tokens[:, 1:], reduction="none")
    for rate, chunk in ((0.0, 16), (1.0, 128), (0.0, 1)):
        assert torch.allclose(read(model, tokens, rate, chunk), plain, atol=1e-12)
    written = read(model, tokens, 1.0)
    assert torch.allclose(written[:, :16], plain[:, :16], atol=1e-12), "a loss is taken before its step"
    assert not torch.allclose(written[:, 16:], plain[:, 16:], atol=1e-3)


def test_a_token_changes_no_loss_before_it(model: Tiny, tokens: Tensor) -> None:
    other = tokens.clone()
    other[:, 40] = (other[:, 40] + 1) % 16
    before, after = (read(model, each, 1.0).detach() for each in (tokens, other))
    assert torch.equal(before[:, :39], after[:, :39])
    assert not torch.allclose(before[:, 48:], after[:, 48:])


def test_documents_do_not_learn_from_each_other(model: Tiny, tokens: Tensor) -> None:
    together = read(model, tokens, 1.0)
    for number in range(3):
        alone = read(model, tokens[number : number + 1], 1.0)
        assert torch.allclose(alone[0], together[number], atol=1e-6)


def test_a_step_is_clipped_for_each_document_alone() -> None:
    weights = (torch.zeros(2, 1, 2, requires_grad=True), torch.zeros(2, 1, 1, requires_grad=True))
    slopes = torch.tensor([[3.0, 0.0, 4.0], [0.3, 0.0, 0.4]])
    parts = torch.cat([each.flatten(1) for each in weights], 1)
    stepped = inner_step(weights, (parts * slopes).sum(1), rate=2.0, second_order=False)
    found = torch.cat([each.flatten(1) for each in stepped], 1)
    assert torch.allclose(found, -2 * torch.tensor([[0.6, 0.0, 0.8], [0.3, 0.0, 0.4]]))


def test_a_step_is_that_of_one_document_by_torch_func(model: Tiny, tokens: Tensor) -> None:
    block = model.blocks[-1]
    states = torch.randn(3, 16, 48, dtype=torch.double, generator=torch.Generator().manual_seed(4))
    weights = tuple(each.detach() for each in block.prime.weights())  # type: ignore[union-attr, operator]

    def loss(weights: tuple[Tensor, ...], states: Tensor, wanted: Tensor) -> Tensor:
        logits = model.read([block.feed(states[None], weights)])[0]  # type: ignore[operator]
        return functional.cross_entropy(logits, wanted)

    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(weights, states, tokens[:, :16])
    length = sum(each.square().sum((1, 2)) for each in gradients).sqrt()
    expected = [w - g / length.clamp(min=1)[:, None, None] for w, g in zip(weights, gradients, strict=True)]
    copies = tuple(each.expand(3, -1, -1).clone().requires_grad_() for each in weights)
    logits = model.read([block.feed(states, copies)])  # type: ignore[operator]
    losses = functional.cross_entropy(logits.mT, tokens[:, :16], reduction="none").mean(1)
    found = inner_step(copies, losses, rate=1.0, second_order=True)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(found, expected, strict=True))


def test_measuring_changes_nothing_and_is_what_training_sees(model: Tiny, tokens: Tensor) -> None:
    expected = read(model, tokens, 1.0)
    found = measured(model, tokens, 1.0)
    assert torch.allclose(found, expected, atol=1e-12)
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


# Arms


def test_arms_have_the_parameters_that_the_page_says() -> None:
    count = {arm.name: sum(each.numel() for each in arm.model(16, 0).parameters()) for arm in EVERY}
    assert {count[name] for name in count if "convolution" not in name} == {61_776}
    assert {count[name] for name in count if "convolution" in name} == {61_776 + 2 * 3 * 2 * 48}


def test_a_convolution_starts_as_a_mean_of_two_neighbours() -> None:
    model = SHIFTED.model(16, 0)
    static = model.blocks[0].attention.convs[1].static  # type: ignore[union-attr, index]
    assert torch.allclose(1 + static[0], torch.tensor(0.5), atol=0.08)
    assert torch.allclose(static[1], torch.tensor(0.5), atol=0.08)


def test_every_arm_is_recorded_with_five_seeds() -> None:
    asked = [(task.configuration["documents"]["symbols"], task.configuration["arm"]["name"]) for task in tasks()]
    once = [[(symbols, arm.name) for symbols, arms in group.items() for arm in arms] for group in (ARMS, FURTHER)]
    assert asked == once[0] * 5 + once[1] * 5
    assert {task.configuration["seed"] for task in tasks()} == {*SEEDS}


@pytest.mark.parametrize("arm", [E2E, Arm("window")], ids=lambda arm: arm.name)
def test_a_row_has_both_ways_to_read(arm: Arm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "STEPS", 3)
    (row,) = run(arm, 16, seed=0)
    assert json.loads(json.dumps(row)) == row
    assert len(row["on_by_chunk"]) == len(row["off_by_chunk"]) == 8
    assert row["on_by_chunk"][0] == pytest.approx(row["off_by_chunk"][0], abs=1e-3)
    assert row["inner_rate"] in ((1.0,) if arm is E2E else lab.INNER_RATES)


# Bad input


def test_what_cannot_be_read_is_refused(model: Tiny, tokens: Tensor) -> None:
    for chunk in (0, 48):
        with pytest.raises(ValueError, match=f"Chunks of {chunk} tokens do not divide"):
            read(model, tokens, 1.0, chunk)
    with pytest.raises(ValueError, match="A window of 16 forgets tokens before a chunk of 32 is written"):
        read(model, tokens, 1.0, chunk=32)
    with pytest.raises(ValueError, match="2 symbols at least"):
        Documents(symbols=1)
    with pytest.raises(ValueError, match="never, first order, second order"):
        replace(Documents(), writes="sometimes")
