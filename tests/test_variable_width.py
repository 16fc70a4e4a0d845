"""The lab on variable width: the authors' widths, a ledger that counts what runs, and rivals that are fair."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hyperfit_course.labs import variable_width as lab
from hyperfit_course.labs.tiny import Conv, Tiny, TinyConfig
from hyperfit_course.labs.tiny_training import Training, train_tiny
from hyperfit_course.labs.variable_width import (
    CONTEXT,
    REFERENCE,
    SEEDS,
    UNIFORM,
    Arm,
    Bytes,
    X,
    arms,
    diamond,
    first_width,
    ledger,
    run,
    shuffled,
    tasks,
    x_widths,
)

TOKENS = torch.randint(256, (2, 20), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def _small_text(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A text of a few hundred bytes in each part, so that no corpus has to be read."""
    parts = {"train": ["abcdefghij" * 40, "é" * 50], "validation": ["0123456789" * 30]}
    monkeypatch.setattr(lab, "load_corpus", lambda name: parts)
    lab.text.cache_clear()
    yield
    lab.text.cache_clear()


# Widths


def test_widths_are_those_of_the_authors() -> None:
    published = (1152, 960, 832, 704, 608, 512, 448, 352, 320, 256, 224, 192, 288, 480, 736, 1152)
    assert x_widths(16, 640, 32) == published
    assert X.widths == (136, 80, 48, 24, 56, 136)


@pytest.mark.parametrize(
    ("layers", "reference", "changes"),
    [
        (16, 640, (1.9, 0.1, -1.6, -2.3, -3.2, -10.0)),
        (24, 960, (1.2, -0.6, -2.2, -2.9, -3.7, -11.0)),
        (32, 1280, (1.9, 0.1, -1.2, -1.8, -2.6, -10.6)),
        (40, 1600, (1.5, -0.1, -1.2, -1.8, -2.5, -10.9)),
    ],
)
def test_what_the_authors_models_save_at_equal_parameters(
    layers: int, reference: int, changes: tuple[float, ...]
) -> None:
    """Found before, by other code than the library's."""
    shape = TinyConfig(100_263, 4096, reference, (reference,) * layers, 16, 4)
    uniform, x = ledger(shape), ledger(replace(shape, widths=x_widths(layers, reference, 32)))
    counted = x.parameters - x.idle - x.cut
    of_parameters = [each / uniform.parameters for each in (x.parameters, counted)]
    of_flops = [x.flops(each) / uniform.flops() for each in (0, x.idle, x.idle + x.cut)]
    found = [100 * (each - 1) for each in (*of_parameters, *of_flops, x.cache / uniform.cache)]
    assert found == pytest.approx(changes, abs=0.06)


def test_widths_fall_and_rise_by_one_factor_each() -> None:
    widths = x_widths(9, 10**7, 1, turn=6, bottleneck=0.2)
    assert widths[0] == widths[-1]
    assert min(widths) == widths[5] == pytest.approx(2_000_000, abs=1)
    factors = [after / before for before, after in pairwise(widths)]
    assert factors[:5] == pytest.approx([factors[0]] * 5, rel=1e-5)
    assert factors[5:] == pytest.approx([factors[-1]] * 3, rel=1e-5)


def test_counted_weights_are_those_of_a_uniform_model() -> None:
    for layers, turn, mlp in ((9, 6, 4.0), (6, 2, 2.0), (3, 2, 4.0)):
        widths = x_widths(layers, 10**6, 2, turn=turn, mlp=mlp)
        shape = TinyConfig(1, 1, 10**6, widths, 1, mlp)
        found, uniform = (ledger(each) for each in (shape, replace(shape, widths=(10**6,) * layers)))
        assert found.parameters - found.idle - found.cut == pytest.approx(uniform.parameters, rel=1e-5)
        assert found.parameters > 1.001 * uniform.parameters
    found, uniform = ledger(X.config), ledger(UNIFORM.config)
    assert found.parameters - found.idle - found.cut == pytest.approx(uniform.parameters, rel=3e-3)


def test_a_shape_without_a_bottleneck_is_the_uniform_one() -> None:
    assert first_width([1.0] * 5) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"turn": 1}, "1 is not between"),
        ({"turn": 6}, "6 is not between"),
        ({"layers": 2}, "of 2 blocks, and 1 is not"),
        ({"bottleneck": 1.0}, "share of it below 1, not 1.0"),
        ({"bottleneck": 0.0}, "share of it below 1"),
        ({"reference": 8, "unit": 32}, "less than half of 32 wide"),
    ],
)
def test_widths_that_cannot_be_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        x_widths(**{"layers": 6, "reference": 88, "unit": 8, **arguments})  # type: ignore[arg-type]


def test_widths_that_no_head_number_divides_are_refused() -> None:
    with pytest.raises(ValueError, match="4 heads do not divide the width"):
        Arm("unrounded", x_widths(6, REFERENCE, 1)).model(0)


# The ledger


@pytest.mark.parametrize("arm", arms(0)[:5], ids=lambda arm: arm.name)
def test_the_ledger_counts_what_runs(arm: Arm) -> None:
    tokens = torch.zeros(2, CONTEXT, dtype=torch.long)
    model, found = arm.model(0), ledger(arm.config)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # other kernels are not counted
        model(tokens)
    assert counter.get_total_flops() == tokens.numel() * found.flops()
    assert found.parameters == sum(each.numel() for each in model.parameters() if each.ndim > 1)
    keys = [block.attention.key.shape[0] for block in model.blocks]
    assert found.cache == 2 * sum(keys)


def test_a_ledger_of_what_it_does_not_count_is_refused() -> None:
    for more in ({"window": 4}, {"conv": Conv(2)}, {"prime": True}):
        with pytest.raises(ValueError, match="counts plain decoders"):
            ledger(replace(UNIFORM.config, **more))


def read_by_first(model: Tiny) -> dict[str, Tensor]:
    attention = model.blocks[0].attention
    return {name: getattr(attention, name) for name in ("query", "key", "value")}


def test_weights_that_read_zeros_are_idle_and_those_that_are_cut_are_not() -> None:
    """So the first can be skipped, and the second cannot: they reach the logits through the last norm."""
    model = X.model(0)
    Bytes().loss(model, TOKENS).backward()
    idle = [weight.grad[:, REFERENCE:] for weight in read_by_first(model).values()]  # type: ignore[index]
    assert all(not each.any() for each in idle)
    assert sum(each.numel() for each in idle) == ledger(X.config).idle
    cut = model.blocks[-1].mlp.down.grad[REFERENCE:]
    assert (cut.abs() > 0).all()
    assert cut.numel() == ledger(X.config).cut
    # What comes after attention has written to these coordinates reads no zeros.
    assert (model.blocks[0].mlp.gate.grad[:, REFERENCE:].abs() > 0).all()


def test_only_idle_weights_can_be_anything() -> None:
    model = X.model(0)
    before = model(TOKENS)
    for weight in read_by_first(model).values():
        weight.data[:, REFERENCE:] = 7
    assert torch.equal(model(TOKENS), before)
    model.blocks[-1].mlp.down.data[REFERENCE:] *= 2
    after = model(TOKENS)
    assert not torch.allclose(after, before)
    # Through the norm alone: all logits of a position are scaled by one number.
    scale = (after / before).median(-1, keepdim=True).values
    assert torch.allclose(after, scale * before, atol=1e-4)


# Arms


def test_a_uniform_schedule_is_the_plain_model() -> None:
    model = UNIFORM.model(2)
    states = model.embedding(TOKENS)
    for block in model.blocks:
        states = block(states)
    assert torch.equal(model(TOKENS), model.norm(states) @ model.head.mT)


def test_controls_have_the_widths_of_x() -> None:
    assert diamond(X.widths) == (24, 56, 136, 136, 80, 48)
    orders = [shuffled(X.widths, seed) for seed in SEEDS]
    assert len(set(orders)) == len(SEEDS)
    assert X.widths not in orders
    for order in orders:
        assert sorted(order) == sorted(X.widths)
        assert (order[0], order[-1]) == (X.widths[0], X.widths[-1])
    with pytest.raises(ValueError, match="no other order"):
        shuffled((8, 8, 8, 8), 0)


def test_controls_cost_what_they_are_to_cost() -> None:
    uniform, x, narrow_ends, mixed, cache, _ = (ledger(arm.config) for arm in arms(0))
    assert narrow_ends.parameters == mixed.parameters == x.parameters
    assert narrow_ends.cache == mixed.cache == cache.cache == x.cache
    assert (narrow_ends.idle, narrow_ends.cut) == (0, 0)
    assert cache.parameters < uniform.parameters


def test_arms_of_one_seed_share_what_they_have_in_common() -> None:
    uniform, x, *_, other = (arm.model(3).state_dict() for arm in arms(3))
    assert torch.equal(uniform["embedding.weight"], x["embedding.weight"])
    assert not torch.equal(uniform["embedding.weight"], other["embedding.weight"])
    assert uniform.keys() == other.keys()


# Text


@pytest.mark.usefixtures("_small_text")
def test_windows_are_pieces_of_the_text() -> None:
    (first,), (second,) = (next(Bytes(batch=5).batches(seed)) for seed in (0, 1))
    assert first.shape == (5, CONTEXT + 1)
    assert not torch.equal(first, second)
    whole = lab.text("train").tolist()
    assert whole[-2:] == list("é".encode()), "both corpora, in bytes"
    for row in first.tolist():
        assert any(whole[start : start + CONTEXT + 1] == row for start in range(len(whole)))
    assert torch.equal(next(Bytes(batch=5).batches(0))[0], first)


@pytest.mark.usefixtures("_small_text")
def test_held_out_loss_is_that_of_other_texts_from_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "WINDOWS", 128)
    starts: list[Tensor] = []
    windows = Bytes.windows

    def noted(self: Bytes, split: str, begins: Tensor) -> Tensor:
        assert split == "validation"
        starts.append(begins)
        return windows(self, split, begins)

    monkeypatch.setattr(Bytes, "windows", noted)
    model = UNIFORM.model(0)
    found = Bytes().measure(model)["held_out"]
    begins = starts[0]
    assert (len(begins), int(begins[0]), int(begins[-1])) == (128, 0, len(lab.text("validation")) - CONTEXT - 1)
    tokens = windows(Bytes(), "validation", begins)
    logits = model(tokens[:, :-1]).log_softmax(-1)
    by_hand = -logits.gather(-1, tokens[:, 1:, None]).mean().item()
    assert found == pytest.approx(by_hand, abs=1e-4)


# Rows


@pytest.mark.usefixtures("_small_text")
def test_a_row_says_what_was_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "STEPS", 6)
    monkeypatch.setattr(lab, "WINDOWS", 64)
    (row,) = run(X, seed=0)
    assert json.loads(json.dumps(row)) == row
    assert row["widths"] == list(X.widths)
    assert row["parameters"] == sum(each.numel() for each in X.model(0).parameters())
    trained = X.model(0)
    train_tiny(trained, Bytes(), Training(6, lab.RATE, seed=0))
    assert row["held_out"] == pytest.approx(Bytes().measure(trained)["held_out"], abs=1e-4)


def test_every_arm_is_recorded_with_five_seeds() -> None:
    labels = [task.label for task in tasks()]
    assert labels == [f"{arm.name}, seed {seed}" for seed in (0, 1, 2, 3, 4) for arm in arms(seed)]
    configurations = [task.configuration for task in tasks()]
    assert json.loads(json.dumps(configurations)) == configurations, "else it would be measured again each time"
    assert all(one != other for one, other in pairwise(configurations))
