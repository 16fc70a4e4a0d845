from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_model
from torch import Tensor
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedModel

from hyperfit_course import losses
from hyperfit_course.losses import has_plain_head, linear_cross_entropy, next_token_loss

N, D, VOCABULARY = 10, 6, 17


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, D, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, D, generator=generator, dtype=dtype).requires_grad_()
    return hidden, weight, torch.randint(0, VOCABULARY, (N,), generator=generator)


def gemma(initializer_range: float) -> PreTrainedModel:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        final_logit_softcapping=30.0,
        initializer_range=initializer_range,
    )
    return Gemma2ForCausalLM(config).eval()


@pytest.mark.parametrize("chunk", [1, 3, 5, 10, 256])
def test_value_and_gradients_equal_the_plain_cross_entropy(chunk: int) -> None:
    hidden, weight, targets = inputs()
    expected = F.cross_entropy(hidden @ weight.T, targets)
    expected_gradients = torch.autograd.grad(expected, (hidden, weight))
    loss = linear_cross_entropy(hidden, weight, targets, chunk)
    gradients = torch.autograd.grad(loss, (hidden, weight))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients, expected_gradients)


def test_repeated_targets_are_each_counted() -> None:
    hidden, weight, _ = inputs()
    targets = torch.full((N,), 3)
    gradient = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets, 4), weight)[0]
    expected = torch.autograd.grad(F.cross_entropy(hidden @ weight.T, targets), weight)[0]
    torch.testing.assert_close(gradient, expected)


def test_gradcheck() -> None:
    hidden, weight, targets = inputs()
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, targets, 4), (hidden, weight))


def test_gradient_scales_with_the_upstream_gradient() -> None:
    hidden, weight, targets = inputs()
    once = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets), (hidden, weight))
    scaled = torch.autograd.grad(-2.5 * linear_cross_entropy(hidden, weight, targets), (hidden, weight))
    torch.testing.assert_close(scaled, tuple(-2.5 * gradient for gradient in once))


def test_inputs_are_left_as_they_were() -> None:
    hidden, weight, targets = inputs()
    before = hidden.detach().clone(), weight.detach().clone(), targets.clone()
    linear_cross_entropy(hidden, weight, targets).backward()
    assert all(torch.equal(a, b) for a, b in zip((hidden, weight, targets), before, strict=True))


def test_large_logits_do_not_overflow() -> None:
    hidden, weight, targets = inputs(torch.float32)
    loss = linear_cross_entropy(hidden * 1e4, weight, targets)
    torch.testing.assert_close(loss, F.cross_entropy(hidden * 1e4 @ weight.T, targets))
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, (hidden, weight)))


def test_bfloat16_autocast_is_close_to_float32_and_keeps_float32_gradients() -> None:
    hidden, weight, targets = inputs(torch.float32)
    expected = linear_cross_entropy(hidden, weight, targets, 4)
    expected_gradients = torch.autograd.grad(expected, (hidden, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets, 4)
    gradients = torch.autograd.grad(loss, (hidden, weight))
    assert loss.dtype == torch.float32
    assert loss.item() != expected.item(), "autocast had no effect"
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(gradients, expected_gradients, rtol=0.05, atol=0.01)


@pytest.mark.parametrize(
    ("hidden", "weight", "targets"),
    [
        ((0, D), (VOCABULARY, D), (0,)),
        ((N, D), (VOCABULARY, D + 1), (N,)),
        ((N, D), (VOCABULARY, D), (N - 1,)),
        ((2, N, D), (VOCABULARY, D), (2, N)),
        ((N, D), (D,), (N,)),
    ],
    ids=["nothing", "width", "targets", "batch", "flat weight"],
)
def test_shapes_that_do_not_fit_are_refused(
    hidden: tuple[int, ...], weight: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"Give hidden \(n, d\) with n > 0"):
        linear_cross_entropy(torch.zeros(hidden), torch.zeros(weight), torch.zeros(targets, dtype=torch.long))


def test_llama_has_a_plain_head(model: PreTrainedModel) -> None:
    assert has_plain_head(model)


def test_head_with_a_bias_is_not_plain(model: PreTrainedModel) -> None:
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(257))
    assert not has_plain_head(model)


# A cap changes small logits by less than float32 shows; it bites only when training has made them large.
@pytest.mark.parametrize("initializer_range", [0.5, 0.02], ids=["large logits", "small logits"])
def test_capped_logits_of_gemma_2_are_not_plain(initializer_range: float) -> None:
    assert not has_plain_head(gemma(initializer_range))


@pytest.mark.parametrize("training", [True, False])
def test_has_plain_head_restores_the_mode(model: PreTrainedModel, training: bool) -> None:
    model.train(training)
    has_plain_head(model)
    assert model.training == training


def test_next_token_loss_equals_the_models_own_with_and_without_a_plain_head(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK", 7)
    texts = torch.randint(0, 256, (3, 20), generator=torch.Generator().manual_seed(0))
    expected = model(input_ids=texts, labels=texts).loss
    parameters = list(model.parameters())
    expected_gradients = torch.autograd.grad(expected, parameters)
    for plain_head in (True, False):
        loss = next_token_loss(model, texts, plain_head)
        torch.testing.assert_close(loss, expected)
        gradients = torch.autograd.grad(loss, parameters)
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-6)


def test_next_token_loss_of_gemma_2_equals_the_models_own() -> None:
    model = gemma(0.5)
    texts = torch.randint(0, 64, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(input_ids=texts, labels=texts).loss
        torch.testing.assert_close(next_token_loss(model, texts, has_plain_head(model)), expected)


def test_next_token_loss_looks_one_token_ahead() -> None:
    model, text = tiny_model(), torch.tensor([[5, 6]])
    with torch.no_grad():
        expected = -model(input_ids=text[:, :1]).logits[0, 0].log_softmax(dim=-1)[6]
        torch.testing.assert_close(next_token_loss(model, text, True), expected)
