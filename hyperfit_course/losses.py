"""Why is this fast? The loss of a language model without its table of logits.

With 49,152 tokens in the vocabulary, the logits of 1,000 positions are 200 MB, and a plain cross-entropy makes several
copies of that. Here the positions are taken in chunks. Of each the logits, the loss *and* its gradient are computed,
and the logits forgotten. Only the gradients with respect to the hidden states and to the head's weight are kept.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperfit_course.anatomy import CausalLM, body_of, unwrapped

CHUNK = 256  #: Positions a chunk: 256 x 49,152 float32 logits are 50 MB, small to hold and enough for a fast product.


class _LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of ``hidden @ weight.T``, with the gradients that are wanted computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, of_hidden: bool, of_weight: bool
    ) -> Tensor:
        device = hidden.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else hidden.dtype
        h, w = hidden.to(dtype), weight.to(dtype)
        total = hidden.new_zeros((), dtype=torch.promote_types(torch.float32, hidden.dtype))
        # Within a chunk the gradients stay unscaled: every entry of softmax - one-hot lies in [-1, 1]. They are
        # divided by the number of positions after the sums, since in float16 they would underflow.
        grad_hidden = torch.empty_like(hidden) if of_hidden else None
        grad_weight = torch.zeros_like(weight) if of_weight else None
        with torch.autocast(device, enabled=False):
            for start in range(0, len(h), chunk):
                part, goal = h[start : start + chunk], targets[start : start + chunk, None]
                log_p = (part @ w.T).to(total.dtype).log_softmax(dim=-1)
                total -= log_p.gather(-1, goal).sum()
                if not (of_hidden or of_weight):
                    continue
                error = log_p.exp_().scatter_add_(-1, goal, -log_p.new_ones(goal.shape)).to(dtype)
                if grad_hidden is not None:
                    grad_hidden[start : start + chunk] = error @ w
                if grad_weight is not None and dtype == weight.dtype:
                    grad_weight.addmm_(error.T, part)  # in place: no second table of the head's size
                elif grad_weight is not None:
                    grad_weight += error.T @ part
        for grad in (grad_hidden, grad_weight):
            if grad is not None:
                grad /= len(h)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total / len(h)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if grad_output == 1:  # the usual case needs no second table of the head's size
            return *ctx.saved_tensors, None, None, None, None
        scaled = (None if grad is None else (grad * grad_output).to(grad.dtype) for grad in ctx.saved_tensors)
        return *scaled, None, None, None, None


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """Mean cross-entropy of a linear head, in nats, without ever holding all logits.

    Equal to ``F.cross_entropy(hidden @ weight.T, targets)`` up to rounding, in value and in gradients. Under
    autocast the matrix products run in the lower precision; sums are kept in float32. What is frozen gets no
    gradient, and the product that would give it is left out: of three for a chunk, a frozen head saves one.

    Args:
        hidden: final hidden states, shape (n, d).
        weight: of the language-model head, shape (vocabulary, d).
        targets: token ids, shape (n,); ``chunk`` of them are taken at a time.

    Raises:
        ValueError: there is no position, or the shapes do not fit.
    """
    fits = weight.shape[1:] == hidden.shape[1:] and targets.shape == hidden.shape[:1]
    if hidden.ndim != 2 or len(hidden) == 0 or not fits:
        raise ValueError(
            f"Give hidden (n, d) with n > 0, weight (vocabulary, d) and targets (n,), not {tuple(hidden.shape)}, "
            f"{tuple(weight.shape)} and {tuple(targets.shape)}."
        )
    of_hidden, of_weight = (torch.is_grad_enabled() and tensor.requires_grad for tensor in (hidden, weight))
    return _LinearCrossEntropy.apply(hidden, weight, targets, chunk, of_hidden, of_weight)


def has_plain_head(model: CausalLM) -> bool:
    """Whether the logits are nothing but ``hidden @ weight.T``, tried on a few tokens.

    False for models that add a bias, scale the logits or cap them softly (Gemma 2): these need the plain loss.
    """
    head, body = unwrapped(model).get_output_embeddings(), body_of(model)
    softcapped = getattr(model.config, "final_logit_softcapping", None)  # small logits would hide it from the trial
    if head is None or body is unwrapped(model) or getattr(head, "bias", None) is not None or softcapped:
        return False
    ids = torch.arange(8, device=model.device)[None]
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
        plain = F.linear(body(input_ids=ids, use_cache=False)[0], head.weight)  # rounded as the head does it
    model.train(was_training)
    return logits.shape == plain.shape and torch.allclose(logits, plain, rtol=1e-3, atol=1e-3)


def next_token_loss(model: CausalLM, texts: Tensor, plain_head: bool) -> Tensor:
    """Mean loss of predicting each token of the texts (ids, shape (n, length)) from those before it, in nats.

    Where the model has a plain head (what :func:`has_plain_head` says of it), the chunked loss is used.
    """
    targets = texts[:, 1:].reshape(-1)
    if plain_head:
        hidden = body_of(model)(input_ids=texts, use_cache=False)[0][:, :-1]
        return linear_cross_entropy(hidden.flatten(0, 1), unwrapped(model).get_output_embeddings().weight, targets)
    logits = model(input_ids=texts, use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1).float(), targets)
