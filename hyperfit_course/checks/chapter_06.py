"""Checks of the exercises on chapter 06: is training the end enough?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyperfit_course.checks.core import Answer, exercise, need, small_model


@exercise(
    points=1,
    notice="Call it with the hyperfitted model of chapter 02. Which blocks does full fine-tuning train?",
)
def trained_blocks(answer: Answer) -> None:
    """Whether a function lists the blocks of a model in which anything is trained."""
    from hyperfit_course.late_stage import late_stage_lora  # PEFT is slow to import

    for chosen, rank in (([4, 5], 2), ([0, 3], 1), ([1], 3)):
        model = late_stage_lora(small_model(), chosen, rank)
        given = f"For a model with adapters on the blocks {chosen}"
        found = answer.whole_numbers(model, given=given)
        need(
            found != list(range(6)), f"{given} it gives all blocks: ask each parameter whether it requires a gradient."
        )
        need(len(set(found)) == len(found), f"{given} it gives {found}: each block once.")
        need(
            found != [number + 1 for number in chosen],
            f"{given} it gives {found}: blocks are counted from 0, as in their names.",
        )
        need(found == chosen, f"{given} it gives {found}.")
    # Frozen adapters are there, and train nothing.
    model = late_stage_lora(small_model(12), [2, 10], 2)
    found = answer(model)
    need(
        found == [2, 10],
        f"For adapters on the blocks 2 and 10 it gives {found}: how do numbers of two digits come out?",
    )
    found = answer(late_stage_lora(small_model(12), [1, 8], 2))
    need(found == [1, 8], f"For adapters on the blocks 1 and 8 it gives {found}: the smallest number first.")
    for name, parameter in model.named_parameters():
        if ".2." in name:
            parameter.requires_grad = False
    found = answer(model)
    need(
        2 not in found,
        f"For a model whose adapters on block 2 are frozen it gives {found}: that there is an adapter is not enough.",
    )
    need(
        found == [10],
        f"For a model that trains block 10 only it gives {found}: does a number of two digits come out right?",
    )
    full = small_model(3).requires_grad_(True)
    need(
        answer(full) == [0, 1, 2],
        "For a model without adapters, all weights of which are trained, every block is wanted.",
    )


@exercise(
    points=2,
    notice="With B = 0 the result is that of the frozen map. Why does training begin there, and why is A not zero as "
    "well?",
)
def lora_forward(answer: Answer) -> None:
    """Whether a function computes what a linear map with a LoRA adapter puts out."""
    generator = torch.Generator().manual_seed(7)
    x, weight = torch.randn(5, 6, generator=generator), torch.randn(4, 6, generator=generator)
    a, b = torch.randn(3, 6, generator=generator), torch.randn(4, 3, generator=generator)
    base, change = x @ weight.T, x @ a.T @ b.T

    def out(alpha: float, down: Tensor = a, up: Tensor = b, inputs: Tensor = x) -> Tensor:
        shape = (*inputs.shape[:-1], 4)
        return answer.tensor(inputs, weight, down, up, alpha, shape=shape)

    plain = out(12.0, up=torch.zeros(4, 3))
    need(
        torch.allclose(plain, base, atol=1e-4),
        "With B = 0 the adapter adds nothing, and the result should be that of the frozen map: is W x in the sum?",
    )
    found = out(12.0)
    need(
        not torch.allclose(found, base + 12 * change, atol=1e-3),
        "The adapter's part is three times too large for rank 3: it is scaled by alpha / r, not by alpha.",
    )
    need(
        not torch.allclose(found, base + change, atol=1e-3),
        "The adapter's part does not depend on alpha: it is scaled by alpha / r.",
    )
    need(
        not torch.allclose(found, 4 * (base + change), atol=1e-3),
        "The frozen map's part is scaled too: alpha / r belongs to the adapter only.",
    )
    need(
        torch.allclose(found, base + 4 * change, atol=1e-3),
        "For rank 3 and alpha 12 the result is not W x + (12 / 3) B A x.",
    )
    smaller = out(12.0, down=a[:2], up=b[:, :2])
    need(
        torch.allclose(smaller, base + 6 * (x @ a[:2].T @ b[:, :2].T), atol=1e-3),
        "For rank 2 it is wrong, though it is right for rank 3: where does your r come from?",
    )
    batch = torch.randn(2, 5, 6, generator=generator)
    need(
        torch.allclose(out(3.0, inputs=batch), batch @ weight.T + batch @ a.T @ b.T, atol=1e-3),
        "For inputs of shape (2, 5, 6), as in a transformer, the numbers are wrong.",
    )
    from hyperfit_course.late_stage import late_stage_lora  # PEFT is slow to import

    model: Any = late_stage_lora(small_model(1), 1, rank=3, alpha=5)
    adapted = model.base_model.model.model.layers[0].self_attn.q_proj
    torch.nn.init.normal_(adapted.lora_B["default"].weight, generator=generator)
    inputs = torch.randn(2, 16, generator=generator)
    parts = (adapted.base_layer.weight, adapted.lora_A["default"].weight, adapted.lora_B["default"].weight)
    found = answer.tensor(inputs, *(part.detach() for part in parts), 5, shape=(2, 16))
    need(
        torch.allclose(found, adapted(inputs).detach(), atol=1e-3),
        "For a layer of PEFT with rank 3 and alpha 5 the result is not PEFT's: is alpha / r computed as a float?",
    )


@exercise(
    points=3,
    notice="How many megabytes do the states of all 32 training texts take? And what has to be kept for the first "
    "block?",
)
def states_before(answer: Answer) -> None:
    """Whether a function gives the residual stream that enters a block."""
    model = small_model()
    texts = torch.randint(0, 61, (2, 9), generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        stream = list(model(input_ids=texts, output_hidden_states=True).hidden_states)
        after_last: list[Any] = []
        handle = model.model.layers[-1].register_forward_hook(lambda *given: after_last.append(given[-1]))
        model(input_ids=texts)
        handle.remove()
    for block in (3, 0, 5):
        found = answer.tensor(model, texts, block, shape=(2, 9, 16))
        need(
            not found.requires_grad,
            "The states still carry the graph of the frozen blocks: compute them under torch.no_grad().",
        )
        need(
            not (block < 5 and torch.allclose(found, stream[block + 1], atol=1e-4)),
            f"For block {block} it gives the stream *after* that block: what enters it is wanted.",
        )
        need(
            not (block and torch.allclose(found, stream[block - 1], atol=1e-4)),
            f"For block {block} it gives the stream one block too early: the first entry is the embedding.",
        )
        need(
            torch.allclose(found, stream[block], atol=1e-4),
            f"For block {block} the states are not those that enter it. Are all blocks before it run, and no norm "
            "after them?",
        )
    end = answer.tensor(model, texts, 6, shape=(2, 9, 16))
    raw = after_last[0][0] if isinstance(after_last[0], tuple) else after_last[0]
    need(
        not torch.allclose(end, stream[6], atol=1e-4) or torch.allclose(stream[6], raw, atol=1e-4),
        "For block 6 of a model with six blocks the stream before the final norm is wanted, and it gives the one "
        "after it: the first trap of chapter 05.",
    )
    before, flags = _hooks(model), _flags(model)
    answer.changing(model, texts, 2)
    need(
        _flags(model) == flags,
        "It leaves the model in another mode, or with other weights to be trained (requires_grad) than before.",
    )
    need(_hooks(model) == before, "It leaves a hook on the model: remove it by its handle, or it is called for ever.")
    need(
        torch.allclose(end, raw, atol=1e-4),
        "For block 6 of a model with six blocks, the output of the last block is wanted.",
    )


def _flags(model: torch.nn.Module) -> list[bool]:
    """What is in training mode, and which weights are trained."""
    return [module.training for module in model.modules()] + [weight.requires_grad for weight in model.parameters()]


def _hooks(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@exercise(
    points=1,
    notice="Try both numbers of the paper. Does a count fit, and is it that model's number of blocks? What else could "
    "have been counted?",
)
def layers_that_explain(answer: Answer) -> None:
    """Whether a function lists the numbers of layers for which a reported saving of parameters is true."""
    for saved, count in ((0.167, 5), (0.75, 5), (0.5, 1), (0.99, 1), (0.0, 5), (0.975, 5), (0.85, 5)):
        wanted = [n for n in range(count, 201) if round(1 - count / n, 3) == saved]
        given = f"For a saving of {saved:.1%} with {count} trained"
        found = answer.whole_numbers(saved, count, given=given)
        need(
            not found or found == wanted or found != [n for n in range(count, 201) if round(count / n, 3) == saved],
            f"{given} it gives {found}: that is the share that is trained, and not the share that is saved.",
        )
        need(
            bool(found) or wanted != [count],
            f"{given} it gives nothing, and {count} layers fit: with all of them trained, nothing is saved. Where does "
            "your range begin?",
        )
        need(
            bool(found) or not wanted,
            f"{given} it gives nothing: the reported number is rounded, so compare numbers that are rounded to 0.1 %.",
        )
        need(
            set(found) >= set(wanted),
            f"{given} it gives {found}, and {wanted} fit: all of them are wanted, up to 200 layers.",
        )
        need(
            set(found) <= set(wanted),
            f"{given} it gives {found}, and only {wanted} fit when the saving is rounded to 0.1 %.",
        )
        need(found == wanted, f"{given} it gives {found}: the smallest first, each once.")


@exercise(
    points=2,
    notice="The paper writes p = .02 for 57.3 % of 200. Which of your two numbers is that, and how many wins were it?",
)
def binomial_p(answer: Answer) -> None:
    """Whether a function gives the one- and two-sided p-values of a number of wins against a fair coin."""

    def p_values(wins: int, trials: int) -> tuple[float, float]:
        return answer.pair(wins, trials, wanted="(one-sided, two-sided)", given=f"For {wins} of {trials}")

    one, two = p_values(9, 10)
    need(
        abs(one - 10 / 1024) > 1e-9,
        "For 9 of 10 wins it gives the probability of exactly 9: a p-value counts the more extreme results, too.",
    )
    need(
        abs(one - 1 / 1024) > 1e-9,
        "For 9 of 10 wins it gives the probability of *more* than 9: 9 itself belongs to it.",
    )
    need(
        abs(one - 1013 / 1024) > 1e-9 and abs(one - 1023 / 1024) > 1e-9,
        "For 9 of 10 wins it gives the probability of fewer wins: the other end is wanted.",
    )
    need(
        abs(one - 11 / 1024) < 1e-9,
        f"For 9 of 10 wins, 11 of the 1024 sequences of coins have at least 9 heads, and it gives {one:.5f} for one "
        "side. Is it the exact sum?",
    )
    need(
        abs(two - 11 / 1024) > 1e-9,
        "For 9 of 10 wins both numbers are the same: the two-sided one counts 1 or fewer wins as well.",
    )
    need(abs(two - 22 / 1024) < 1e-9, f"For 9 of 10 wins the two-sided value is 22 / 1024, and it gives {two:.5f}.")
    one, two = p_values(3, 10)
    need(
        abs(two - 2 * one) > 1e-9 and two <= 1,
        f"For 3 of 10 wins it gives {one:.3f} and {two:.3f}: a p-value is never above 1. The two-sided value doubles "
        "the *smaller* end.",
    )
    need(
        abs(one - 968 / 1024) < 1e-9 and abs(two - 352 / 1024) < 1e-9,
        f"For 3 of 10 wins it gives {one:.4f} and {two:.4f}: 968 / 1024 and 352 / 1024 are wanted.",
    )
    need(p_values(5, 10)[1] == 1, "For 5 of 10 wins nothing is less extreme: the two-sided value is 1.")
    one, two = p_values(115, 200)
    need(
        abs(one - 0.0200186) < 1e-5 and abs(two - 0.0400372) < 1e-5,
        f"For 115 of 200 wins it gives {one:.5f} and {two:.5f}, though small numbers come out right.",
    )
