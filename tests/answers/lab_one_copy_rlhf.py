"""Answers to the exercises of the lab on RLHF with one copy of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor


def on(model: PeftModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model.get_base_model()(input_ids=ids).logits


def with_gradient(model: PeftModel, ids: Tensor) -> Tensor:
    with model.disable_adapter():
        logits: Tensor = model(input_ids=ids).logits
    return logits.clone().requires_grad_()


def left_off(model: PeftModel, ids: Tensor) -> Tensor:
    model.base_model.disable_adapter_layers()
    with torch.no_grad():
        return model(input_ids=ids).logits


def off_after_error(model: PeftModel, ids: Tensor) -> Tensor:
    model.base_model.disable_adapter_layers()
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids).logits
    model.base_model.enable_adapter_layers()
    return logits


def without_gradients_for_good(model: PeftModel, ids: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    try:
        with model.disable_adapter():
            return model(input_ids=ids).logits
    finally:
        pass


def set_to_zero(model: PeftModel, ids: Tensor) -> Tensor:
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(0.5)
    with torch.no_grad(), model.disable_adapter():
        return model(input_ids=ids).logits


def by_hand(model: PeftModel, ids: Tensor) -> Tensor:
    model.base_model.disable_adapter_layers()
    try:
        with torch.no_grad():
            return model(input_ids=ids).logits
    finally:
        model.base_model.enable_adapter_layers()


def loss_of(advantages: Tensor, logp: Tensor) -> Tensor:
    return -(advantages * logp.sum(-1)).mean()


def penalised(logp: Tensor, logp_ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    return rewards - beta * (logp.detach().sum(-1) - logp_ref.sum(-1))


def others_of(values: Tensor) -> Tensor:
    return (values.sum() - values) / (len(values) - 1)


def with_own(logp: Tensor, logp_ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    counted = penalised(logp, logp_ref, rewards, beta)
    return loss_of(counted - counted.mean(), logp)


def without_baseline(logp: Tensor, logp_ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    return loss_of(penalised(logp, logp_ref, rewards, beta), logp)


def through_the_penalty(logp: Tensor, logp_ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    counted = rewards - beta * (logp.sum(-1) - logp_ref.sum(-1))
    return loss_of(counted - others_of(counted), logp)


def averaged(logp: Tensor, logp_ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    counted = penalised(logp, logp_ref, rewards, beta)
    return -((counted - others_of(counted)) * logp.mean(-1)).mean()


def upside_down(logp: Tensor, logp_ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    counted = penalised(logp, logp_ref, rewards, beta)
    return -loss_of(counted - others_of(counted), logp)


def summed(logp: Tensor, logp_ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    counted = penalised(logp, logp_ref, rewards, beta)
    return -((counted - others_of(counted)) * logp.sum(-1)).sum()


def kl_added(logp: Tensor, logp_ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    counted = penalised(logp, logp_ref, rewards, -beta)
    return loss_of(counted - others_of(counted), logp)


def without_kl(logp: Tensor, logp_ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    return loss_of(rewards - others_of(rewards), logp)


def kl_in_the_loss(logp: Tensor, logp_ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    return without_kl(logp, logp_ref, rewards, beta) + beta * (logp - logp_ref).sum(-1).mean()


def constant(logp: Tensor, logp_ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    return with_own(logp, logp_ref, rewards, beta).detach()


def text_by_text(logp: Tensor, logp_ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    whole, group = logp.sum(1), len(rewards)
    counted = [rewards[i] - beta * (whole[i].detach() - logp_ref[i].sum()) for i in range(group)]
    loss = torch.zeros((), dtype=logp.dtype)
    for i in range(group):
        baseline = sum(counted[j] for j in range(group) if j != i) / (group - 1)
        loss = loss - (counted[i] - baseline) * whole[i] / group
    return loss


WRONG: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "bytes_needed": [
        (lambda p, a, w: w * p + 4 * a + 12 * p, "counted for all weights"),
        (lambda p, a, w: 2 * w * p + 16 * a, "counted twice"),
        (lambda p, a, w: w * p + 12 * a, "one of the four"),
        (lambda p, a, w: w * p + 8 * a, "one more thing"),
        (lambda p, a, w: w * p + 4 * w * a, "width of the frozen weights: it"),
        (lambda p, a, w: 4 * p + 16 * a, "the width that is given"),
    ],
    "reference_logits": [
        (on, "with the adapters on"),
        (with_gradient, "has a gradient"),
        (left_off, "off: the policy"),
        (off_after_error, "stay off"),
        (without_gradients_for_good, "in the whole program"),
        (set_to_zero, "have changed"),
    ],
    "rloo_loss": [
        (with_own, "own reward"),
        (through_the_penalty, "through the KL"),
        (averaged, "averaged over the tokens"),
        (without_baseline, "there is no baseline"),
        (upside_down, "the sign is wrong"),
        (summed, "their mean is wanted"),
        (kl_added, "it is a penalty"),
        (without_kl, "does not count"),
        (kl_in_the_loss, "a term of the loss"),
        (constant, "No gradient flows"),
    ],
}

RIGHT: dict[str, Callable[..., Any]] = {
    "bytes_needed": lambda p, a, w: sum((w * p, 4 * a, 4 * a, 8 * a)),
    "reference_logits": by_hand,
    "rloo_loss": text_by_text,
}
