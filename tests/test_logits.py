from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from hyperfit_course.logits import CHUNK, at_positions, stream_logits


class Scaled(torch.nn.Module):
    """A head that is more than a matrix, as of models that scale or cap their logits."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, hidden: Tensor) -> Tensor:
        return 3 * (hidden @ self.weight.T)


@pytest.mark.parametrize("plain", [True, False])
def test_streamed_logits_are_those_of_the_model(plain: bool) -> None:
    model, texts = tiny_model(), torch.randint(0, 256, (3, 12))
    if not plain:
        model.lm_head = Scaled(model.lm_head.weight.detach())
    with torch.no_grad():
        expected = model(input_ids=texts).logits[:, :-1].flatten(0, 1)
    parts = list(stream_logits(model, texts, chunk=5))
    assert max(len(part) for part in parts) == 5
    torch.testing.assert_close(torch.cat(parts), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("texts", [torch.zeros(0, 5), torch.zeros(2, 1), torch.zeros(5)], ids=["none", "short", "flat"])
def test_texts_without_a_next_token_are_refused(texts: Tensor) -> None:
    with pytest.raises(ValueError, match="give texts"):
        next(stream_logits(tiny_model(), texts.long()))


# A measure at every position


@pytest.fixture
def texts() -> Tensor:
    """More positions than are read at a time, and chunks that end within a text."""
    rows = torch.randint(0, 256, (5, 60), generator=torch.Generator().manual_seed(0))
    assert rows[:, 1:].numel() > 2 * CHUNK
    return rows


def whole(model: PreTrainedModel, texts: Tensor) -> Tensor:
    """The model's own logits at all positions that have a next token, shape (n, length - 1, vocabulary)."""
    with torch.no_grad():
        return model(input_ids=texts).logits[:, :-1]


def two_largest(logits: Tensor) -> Tensor:
    return logits.topk(2).values


def test_measure_of_one_model_is_that_of_its_whole_logits(texts: Tensor) -> None:
    model = tiny_model()
    values = at_positions(lambda logits: logits.logsumexp(dim=-1), model, texts=texts)
    assert values.shape == (5, 59)
    assert values.device.type == "cpu"
    torch.testing.assert_close(values, whole(model, texts).logsumexp(dim=-1), atol=1e-5, rtol=1e-4)


def test_measure_may_give_several_values_a_position(texts: Tensor) -> None:
    model = tiny_model()
    values = at_positions(two_largest, model, texts=texts)
    assert values.shape == (5, 59, 2)
    assert values.device.type == "cpu"
    torch.testing.assert_close(values, two_largest(whole(model, texts)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("measure", "shape"),
    [
        (lambda base, tuned: base.gather(-1, tuned.argmax(-1, keepdim=True))[..., 0], (5, 59)),
        (lambda base, tuned: torch.stack([base[..., 0], tuned[..., 1]], dim=-1), (5, 59, 2)),
    ],
    ids=["one value", "two values"],
)
def test_measure_of_two_models_sees_both_at_the_same_positions_and_in_their_order(
    texts: Tensor, measure: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    base, tuned = tiny_model(0), tiny_model(1)
    values = at_positions(measure, base, tuned, texts=texts)
    assert values.shape == shape
    assert values.device.type == "cpu"
    torch.testing.assert_close(values, measure(whole(base, texts), whole(tuned, texts)), atol=1e-5, rtol=1e-4)


def test_models_with_different_heads_are_read_side_by_side(texts: Tensor) -> None:
    plain, scaled = tiny_model(0), tiny_model(1)
    scaled.lm_head = Scaled(scaled.lm_head.weight.detach())
    values = at_positions(lambda ours, theirs: (ours - theirs).abs().amax(-1), plain, scaled, texts=texts)
    expected = (whole(plain, texts) - whole(scaled, texts)).abs().amax(-1)
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-4)


def test_measure_never_sees_more_positions_than_are_read_at_a_time(texts: Tensor) -> None:
    seen: list[int] = []
    at_positions(lambda logits: seen.append(len(logits)) or logits[:, 0], tiny_model(), texts=texts)
    assert sum(seen) == 5 * 59
    assert max(seen) <= CHUNK
