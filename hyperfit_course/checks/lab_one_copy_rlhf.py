"""Checks of the exercises of the lab on RLHF with one copy of the model."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfit_course.checks.core import Answer, Wrong, exercise, need, small_model, spot
from hyperfit_course.late_stage import late_stage_lora


@exercise(
    points=2,
    notice="For 20.6 billion parameters in int8 it is 20.6 GB and a little more. What else has to fit into 24 GB?",
)
def bytes_needed(answer: Answer) -> None:
    """Whether a function counts the bytes of one model with adapters."""
    for parameters, adapters, width in ((5000, 70, 1), (1000, 10, 2), (134_515_008, 610_560, 4)):
        frozen, a = width * parameters, adapters
        given = f"{parameters:,} weights of {width} bytes and {a:,} numbers in adapters"
        mistakes: dict[float, str] = {
            frozen + 4 * a + 12 * parameters: "gradients and Adam are counted for all weights: the frozen ones have "
            "neither",
            2 * frozen + 16 * a: "the model is counted twice: it is its own reference",
            frozen + 12 * a: "one of the four things that each number of the adapters needs is missing: itself, its "
            "gradient, or one of the two numbers of Adam",
            frozen + 8 * a: "the adapters and one more thing are counted: gradients and Adam keep three numbers beside "
            "each",
            frozen + 4 * width * a: "only the adapters themselves are counted, or all that belongs to them has the "
            "width of the frozen weights: it is in float32",
            4 * parameters + 16 * a: "the frozen weights have 4 bytes: they have the width that is given",
        }
        found = answer.number(parameters, adapters, width)
        if found != frozen + 16 * a:
            spot(found, given, mistakes)
            need(False, f"For {given} it gives {found:,.0f} bytes, which is wrong.")


@exercise(
    points=2,
    notice="One switch makes a reference of a policy. How many bytes does a second copy of the model take?",
)
def reference_logits(answer: Answer) -> None:
    """Whether a function gives the logits of the model without its adapters, and leaves it as it was."""
    ids = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    model = late_stage_lora(small_model(2), [1], rank=2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, on = small_model(2)(input_ids=ids).logits, model(input_ids=ids).logits
    recorded = torch.is_grad_enabled()
    found = answer.changing(model, ids)
    still = torch.is_grad_enabled() == recorded
    torch.set_grad_enabled(recorded)
    need(isinstance(found, Tensor) and found.shape == wanted.shape, "Logits of shape (n, l, vocabulary) are wanted.")
    need(
        not torch.allclose(found, on, atol=1e-4),
        "These are the logits with the adapters on: taking the model out of its wrapper leaves them at work.",
    )
    need(torch.equal(found, wanted), "The logits are not those of the model without adapters, bit by bit.")
    need(not found.requires_grad, "The result has a gradient: the reference is a constant.")
    with torch.no_grad():
        try:
            again = model(input_ids=ids).logits
        except Exception:
            raise Wrong("Afterwards the model cannot be used any more.") from None
    need(not torch.equal(again, wanted), "Afterwards the adapters are off: the policy would be the reference for good.")
    need(torch.equal(again, on), "Afterwards the adapters have changed.")
    need(still, "Afterwards no gradient is recorded any more, in the whole program.")
    try:
        answer.function(model, torch.tensor([[10**6]]))  # no such token
    except Exception:  # this is wanted
        with torch.no_grad():
            need(
                torch.equal(model(input_ids=ids).logits, on),
                "After an error in the model the adapters stay off: undo it in a way that errors cannot skip.",
            )
    still = torch.is_grad_enabled() == recorded
    torch.set_grad_enabled(recorded)
    need(still, "After an error in the model no gradient is recorded any more.")


@exercise(
    points=3,
    notice="All advantages of a group have the sum 0. What does a group of texts teach whose rewards are equal?",
)
def rloo_loss(answer: Answer) -> None:
    """Whether a function gives the loss of REINFORCE with leave-one-out baselines and the KL in the reward."""
    generator = torch.Generator().manual_seed(0)

    def of(beta: float, group: int = 4, length: int = 3) -> None:
        raw, logp_ref = -torch.rand(2, group, length, generator=generator, dtype=torch.double)
        rewards = torch.rand(group, generator=generator, dtype=torch.double)
        logp = raw.clone().requires_grad_()
        found = answer.changing(logp.clone(), logp_ref.clone(), rewards.clone(), beta)
        need(isinstance(found, Tensor) and found.shape == (), "A tensor of shape () is wanted: one number.")
        need(found.requires_grad, "No gradient flows through the result: the last factor is no constant.")
        (gradient,) = torch.autograd.grad(found, logp)
        given = f"For {group} texts of {length} tokens with beta = {beta:g}"

        def loss(counted: Tensor, others: Tensor, whole: Tensor) -> float:
            return -((counted - others) * whole).mean().item()

        whole, gap = raw.sum(-1), raw.sum(-1) - logp_ref.sum(-1)
        counted = rewards - beta * gap
        mean, others = counted.mean(), (counted.sum() - counted) / (group - 1)
        right = loss(counted, others, whole)
        mistakes = {
            loss(counted, mean, whole): "the baseline holds the text's own reward: take the mean of the others",
            loss(counted, torch.zeros_like(others), whole): "there is no baseline",
            -right: "the sign is wrong: this loss makes good texts less likely",
            group * right: "the texts are summed, and their mean is wanted",
            loss(counted, others, raw.mean(-1)): "log-probabilities are averaged over the tokens, and a text has their "
            "sum",
        }
        if beta:
            other = rewards + beta * gap
            mistakes |= {
                loss(other, (other.sum() - other) / (group - 1), whole): "the KL is added to the reward, and it is a "
                "penalty",
                loss(rewards, (rewards.sum() - rewards) / (group - 1), whole): "the KL does not count",
                loss(rewards, (rewards.sum() - rewards) / (group - 1), whole) + beta * gap.mean().item(): "the KL is a "
                "term of the loss, and it belongs into the reward of each text",
            }
        if abs(found.item() - right) > 1e-9:
            close = {value: message for value, message in mistakes.items() if abs(found.item() - value) < 1e-9}
            need(not close, f"{given}: {next(iter(close.values()), '')}.")
            need(False, f"{given} it gives {found.item():.4f}, and {right:.4f} is right.")
        wanted = -(counted - others)[:, None].expand_as(raw) / group
        need(
            torch.allclose(gradient, wanted, atol=1e-9),
            f"{given} the value is right and the gradient is not: the advantages are constants, so no gradient may "
            "flow through the KL.",
        )

    of(0.0)
    of(0.3)
    of(0.1, group=2, length=5)
