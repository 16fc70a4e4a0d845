"""The labs' small decoder computes what its configuration says, and is trained in pairs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hyperfit_course.labs.tiny import Conv, ShortConv, Tiny, TinyConfig, dynamic_conv, low_rank_filters, resize
from hyperfit_course.labs.tiny_training import Training, train_tiny

PLAIN = TinyConfig(vocabulary=11, context=12, embedding=16, widths=(16, 16), heads=2, mlp=2)
TOKENS = torch.randint(11, (3, 12), generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Count:
    """Each token is the one before it plus 1."""

    noise: float = 0.0

    def batches(self, seed: int) -> Iterator[tuple[Tensor, ...]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield ((torch.randint(11, (4, 1), generator=generator) + torch.arange(12)) % 11,)

    def loss(self, model: Tiny, *batch: Tensor) -> Tensor:
        return functional.cross_entropy(model(batch[0])[:, :-1].flatten(0, 1), batch[0][:, 1:].flatten())

    def measure(self, model: Tiny) -> dict[str, float]:
        return {"held_out": self.loss(model, *next(self.batches(99))).item()}


def changed_at(position: int) -> Tensor:
    tokens = TOKENS.clone()
    tokens[:, position] = (tokens[:, position] + 1) % 11
    return tokens


def test_plain_logits_are_those_of_a_plain_model_however_it_is_configured() -> None:
    """So labs compare their arms with one and the same model."""
    plain = Tiny(PLAIN, seed=3)(TOKENS)
    assert torch.equal(Tiny(TinyConfig(11, 12, 16, (16,) * 2, 2, 2.0, None, None, False), seed=3)(TOKENS), plain)
    for same in (replace(PLAIN, window=12), replace(PLAIN, context=40)):
        assert torch.allclose(Tiny(same, seed=3)(TOKENS), plain, atol=1e-5)
    assert not torch.allclose(Tiny(PLAIN, seed=4)(TOKENS), plain)


def test_models_of_one_seed_share_what_they_have_in_common() -> None:
    plain = Tiny(PLAIN, seed=3).state_dict()
    other = Tiny(replace(PLAIN, conv=Conv(4, 2), prime=True, window=4), seed=3).state_dict()
    assert plain.keys() < other.keys()
    assert all(torch.equal(plain[name], other[name]) for name in plain)


OPTIONS = [
    PLAIN,
    replace(PLAIN, window=3),
    replace(PLAIN, conv=Conv(3)),
    replace(PLAIN, conv=Conv(3, rank=2)),
    replace(PLAIN, prime=True),
    replace(PLAIN, widths=(24, 8, 16)),
]


@pytest.mark.parametrize("config", OPTIONS, ids=repr)
def test_a_token_changes_nothing_before_it(config: TinyConfig) -> None:
    model = Tiny(config)
    for parameter in model.parameters():  # filters that are zero at the start too
        parameter.data += 0.1
    before, after = model(TOKENS), model(changed_at(7))
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7], after[:, 7])


def test_a_window_ends_where_it_says() -> None:
    one = replace(PLAIN, widths=(16,), window=3)
    before, after = Tiny(one)(TOKENS), Tiny(one)(changed_at(4))
    moved = (before - after).abs().amax((0, 2)) > 1e-6
    assert moved.tolist() == [4 <= position < 7 for position in range(12)]
    mask = Tiny(replace(one, context=4)).blocks[0].attention.band
    assert mask.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1]]


def test_a_prime_mlp_takes_other_weights() -> None:
    block = Tiny(replace(PLAIN, prime=True)).blocks[-1]
    assert Tiny(replace(PLAIN, prime=True)).blocks[0].prime is None
    x, weights = torch.randn(3, 5, 16), block.prime.weights()
    each = tuple(weight.expand(3, -1, -1) for weight in weights)
    assert torch.allclose(block.feed(x), block.feed(x, each), atol=1e-5)
    other = block.feed(x, tuple(2 * weight for weight in weights))
    assert not torch.allclose(block.feed(x), other)


# Widths


def test_a_state_is_cut_and_grown_from_the_newest_that_has_the_coordinate() -> None:
    old, new, now = (torch.arange(1.0, width + 1) * scale for width, scale in ((6, 100), (4, 10), (2, 1)))
    assert resize([now, new, old], 8).tolist() == [1, 2, 30, 40, 500, 600, 0, 0]
    assert resize([now, old, new], 4).tolist() == [1, 2, 300, 400]
    assert resize([old], 3).tolist() == [100, 200, 300]
    cut = resize([old], 2)
    assert torch.equal(resize([cut, old], 6), old)


def test_widths_need_no_parameters_for_their_changes() -> None:
    names = Tiny(replace(PLAIN, widths=(24, 8))).state_dict().keys()
    assert names == Tiny(PLAIN).state_dict().keys()
    assert Tiny(replace(PLAIN, widths=(24, 8)))(TOKENS).shape == (3, 12, 11)


# Convolutions

X = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(2))
Z = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(3))


def filled(conv: Conv) -> ShortConv:
    made = ShortConv(6, conv)
    for number, parameter in enumerate(made.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return made


def by_loop(x: Tensor, filters: Tensor) -> Tensor:
    y = x.clone()
    for t, j in itertools.product(range(x.shape[1]), range(filters.shape[2])):
        if t >= j:
            y[:, t] += filters[:, t, j] * x[:, t - j]
    return y


def test_a_convolution_is_causal_and_local() -> None:
    conv, other = filled(Conv(3, rank=2)), X.clone()
    other[:, 4] += 1
    moved = (conv(X, Z) != conv(other, Z)).any(2).any(0)
    assert moved.tolist() == [4 <= position < 7 for position in range(9)]


def test_a_dynamic_convolution_equals_a_loop() -> None:
    conv = filled(Conv(3, rank=2))
    filters = low_rank_filters(Z, conv.down, conv.up_zero, conv.static)
    assert torch.allclose(conv(X, Z), by_loop(X, filters), atol=1e-5)
    one = conv.up_zero.view(3, 6, 2)[2, 5] @ (conv.down @ Z[1, 7]) + conv.static[2, 5]
    assert torch.allclose(filters[1, 7, 2, 5], one, atol=1e-5)


def test_without_the_dynamic_part_it_is_static_and_without_both_nothing() -> None:
    conv, static = filled(Conv(4, rank=2)), filled(Conv(4))
    conv.up_zero.data.zero_()
    conv.static.data = static.static.data
    assert torch.equal(conv(X, Z), static(X, Z))
    grouped = functional.conv1d(functional.pad(X.mT, (3, 0)), static.static.flip(0).T[:, None], groups=6)
    assert torch.allclose(static(X, Z), X + grouped.mT, atol=1e-5)
    conv.static.data.zero_()
    assert torch.equal(conv(X, Z), X)


def test_one_filter_a_head_equals_a_filter_a_channel_where_heads_have_one_channel() -> None:
    conv = filled(Conv(3, rank=2))
    filters = low_rank_filters(Z, conv.down, conv.up_zero, conv.static)
    assert torch.equal(dynamic_conv(X, filters.repeat_interleave(1, -1)), conv(X, Z))
    heads = filters[..., :2]
    by_head = dynamic_conv(X.unflatten(-1, (2, 3)).transpose(-1, -2).flatten(-2), heads.repeat(1, 1, 1, 3))
    wide = dynamic_conv(X, heads.repeat_interleave(3, -1))
    assert torch.allclose(by_head.unflatten(-1, (3, 2)).transpose(-1, -2).flatten(-2), wide, atol=1e-6)


def test_gradients_of_a_convolution() -> None:
    conv = filled(Conv(3, rank=2)).double()
    inputs = [part[:1, :4].double().requires_grad_() for part in (X, Z)]
    weights = [part.detach().requires_grad_() for part in (conv.down, conv.up_zero, conv.static)]
    assert torch.autograd.gradcheck(
        lambda x, z, *parts: dynamic_conv(x, low_rank_filters(z, *parts)), (*inputs, *weights)
    )


def test_a_convolution_starts_with_no_dynamic_part() -> None:
    model = Tiny(replace(PLAIN, conv=Conv(4, rank=2)))
    static = Tiny(replace(PLAIN, conv=Conv(4)))
    assert torch.equal(model(TOKENS), static(TOKENS))
    assert not torch.allclose(model(TOKENS), Tiny(PLAIN)(TOKENS)), "the published start is not the identity"
    drawn = model.blocks[0].attention.convs[0].static
    assert drawn.abs().max() <= 0.5 < 2 * drawn.abs().max()


def test_products_are_those_that_one_counts() -> None:
    config = replace(PLAIN, widths=(16,), conv=Conv(4, rank=3))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # other kernels are not counted
        Tiny(config)(TOKENS)
    tokens = TOKENS.numel()
    weights = 4 * 16 * 16 + 3 * 32 * 16 + 11 * 16 + 3 * (3 * 16 + 3 * 4 * 16)
    attention = 2 * 3 * 12 * 12 * 16  # all pairs of positions, keys and values
    assert counter.get_total_flops() == 2 * (tokens * weights + attention)


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": ()}, "at least one block"),
        ({"widths": (16, 18)}, "do not divide the width 18"),
        ({"heads": 16}, "parts of even width"),
        ({"window": 0}, "at least the present position"),
        ({"conv": Conv(0)}, "at least one tap"),
        ({"conv": Conv(2, rank=-1)}, "rank"),
        ({"vocabulary": 0}, "at least 1"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **changes)  # type: ignore[arg-type]


def test_a_sequence_beyond_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="13 tokens exceeds the context of 12"):
        Tiny(PLAIN)(torch.zeros(1, 13, dtype=torch.long))


# Training


def trained(steps: int = 30, seed: int = 0, problem: Count | None = None) -> tuple[Tiny, pd.DataFrame]:
    model = Tiny(PLAIN, seed)
    return model, train_tiny(model, problem or Count(), Training(steps, 1e-2, measure_every=10, seed=seed))


def test_training_learns_measures_and_keeps_what_it_has_done(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, history = trained()
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] / 3
    assert history.dropna()["step"].tolist() == [10, 20, 30]
    assert history["seconds"].is_monotonic_increasing
    assert history["held_out"].iloc[-1] == pytest.approx(Count().measure(model)["held_out"], abs=1e-5)
    monkeypatch.setattr(Count, "batches", None)  # it is loaded, so nothing is asked for
    again, loaded = trained()
    assert loaded["loss"].tolist() == history["loss"].tolist()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_other_runs_are_not_taken_from_the_cache(cache: Path) -> None:
    for run in ({}, {"seed": 1}, {"steps": 20}, {"problem": Count(noise=0.1)}):
        trained(**run)  # type: ignore[arg-type]
    assert len([path for path in (cache / "tiny").iterdir() if path.is_dir()]) == 4


def test_arms_of_one_seed_see_the_same_batches() -> None:
    first, second = (next(Count().batches(seed=5))[0] for _ in range(2))
    assert torch.equal(first, second)


def test_learning_rate_rises_and_falls() -> None:
    training = Training(steps=100, learning_rate=1.0)
    rates = [training.rate(step) for step in range(1, 101)]
    assert rates[0] == pytest.approx(1 / 8)
    assert rates[7] == max(rates) == 1
    assert rates[-1] == pytest.approx(0.05)
    assert sorted(rates[7:], reverse=True) == rates[7:]


def test_settings_without_a_step_are_refused() -> None:
    for steps, rate in ((0, 1e-2), (3, 0.0)):
        with pytest.raises(ValueError, match="at least one step"):
            Training(steps, rate)


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    model = Tiny(PLAIN)
    model.head.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="after 0 steps"):
        train_tiny(model, Count(), Training(3, 1e-2))
