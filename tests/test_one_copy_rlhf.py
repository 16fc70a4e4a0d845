"""The lab on RLHF in one copy: the reference is the base model bit by bit, and the gradient is that of the reward."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import tiny_model
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import RLOOConfig, RLOOTrainer

from hyperfit_course.checks.core import small_model
from hyperfit_course.labs import one_copy_rlhf as lab
from hyperfit_course.labs.one_copy_rlhf import (
    Rollout,
    Settings,
    distinct_tokens,
    leave_one_out,
    ledger,
    log_probabilities,
    reference_log_probabilities,
    rloo_loss,
    shared_depth,
    tasks,
    train,
    write,
)
from hyperfit_course.late_stage import late_stage_lora
from hyperfit_course.study.meter import Meter

real = lab.continue_prompts
IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
SHORT = Settings(steps=3, prompts=2, group=3, new_tokens=6, learning_rate=1e-2)


@pytest.fixture
def adapted() -> PeftModel:
    return late_stage_lora(tiny_model(), [1], rank=2, seed=0)


def moved(model: PeftModel) -> PeftModel:
    """A policy that is not the reference any more."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return model


# One copy


def test_with_adapters_off_the_model_is_the_base_bit_by_bit(adapted: PeftModel) -> None:
    with torch.no_grad():
        wanted = tiny_model()(input_ids=IDS).logits
    for _ in range(2):
        with torch.no_grad(), adapted.disable_adapter():
            assert torch.equal(adapted(input_ids=IDS).logits, wanted)
        train(adapted, IDS, SHORT, seed=0)
    with torch.no_grad():
        assert not torch.allclose(adapted(input_ids=IDS).logits, wanted, atol=1e-4), "the adapters are off for good"


def test_adapters_are_on_again_after_an_error(adapted: PeftModel) -> None:
    with torch.no_grad():
        on = moved(adapted)(input_ids=IDS).logits
        with pytest.raises(KeyError), adapted.disable_adapter():
            raise KeyError
        assert torch.equal(adapted(input_ids=IDS).logits, on)


def test_training_leaves_the_base_weights_alone(adapted: PeftModel) -> None:
    def frozen() -> dict[str, Tensor]:
        return {name: each.clone() for name, each in adapted.named_parameters() if "lora" not in name}

    before = frozen()
    train(adapted, IDS, SHORT, seed=0)
    assert all(torch.equal(each, before[name]) for name, each in frozen().items())
    assert any(each.any() for name, each in adapted.named_parameters() if "lora_B" in name)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_trunk_kept_from_writing_gives_the_log_probabilities_of_whole_passes(
    adapted: PeftModel, temperature: float
) -> None:
    rollout = write(moved(adapted), IDS, replace(SHORT, temperature=temperature), seed=0)
    ids = torch.cat([rollout.prompts, rollout.texts], dim=1)
    wanted = {}
    with torch.no_grad():
        for name, model in (("policy", adapted), ("reference", tiny_model())):
            logits = model(input_ids=ids).logits[:, 4:-1, :256]  # without the end of the text, which is never drawn
            logp = (logits / temperature).log_softmax(-1)
            wanted[name] = logp.gather(-1, rollout.texts[..., None])[..., 0]
    assert torch.allclose(log_probabilities(adapted, rollout, temperature), wanted["policy"], atol=1e-4)
    assert torch.allclose(reference_log_probabilities(adapted, rollout, temperature), wanted["reference"], atol=1e-4)
    assert not torch.allclose(wanted["policy"], wanted["reference"], atol=1e-2)


def test_gradients_through_the_trunk_are_those_of_a_whole_pass(adapted: PeftModel) -> None:
    rollout = write(moved(adapted), IDS, SHORT, seed=0)
    trained = [each for each in adapted.parameters() if each.requires_grad]
    short = torch.autograd.grad(log_probabilities(adapted, rollout, 1.0).sum(), trained)
    ids = torch.cat([rollout.prompts, rollout.texts], dim=1)
    logp = adapted(input_ids=ids).logits[:, 4:-1, :256].log_softmax(-1).gather(-1, rollout.texts[..., None])
    for one, other in zip(short, torch.autograd.grad(logp.sum(), trained), strict=True):
        assert torch.allclose(one, other, atol=1e-3)


def test_texts_of_a_prompt_stand_together_and_depend_on_the_seed(adapted: PeftModel) -> None:
    rollout = write(adapted, IDS, SHORT, seed=0)
    assert rollout.prompts.tolist() == [IDS[0].tolist()] * 3 + [IDS[1].tolist()] * 3
    assert rollout.texts.shape == (6, 6)
    assert torch.equal(write(adapted, IDS, SHORT, seed=0).texts, rollout.texts)
    assert not torch.equal(write(adapted, IDS, SHORT, seed=1).texts, rollout.texts)


def test_adapters_that_change_the_trunk_and_models_without_any_are_refused() -> None:
    with pytest.raises(ValueError, match="change the first block"):
        write(late_stage_lora(tiny_model(), [0, 1], rank=2), IDS, SHORT, seed=0)
    with pytest.raises(ValueError, match="has no adapters"):
        shared_depth(tiny_model())


# Learning from rewards


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6))
def test_advantages_of_a_group_have_the_sum_zero(rewards: list[float]) -> None:
    found = leave_one_out(torch.tensor([rewards], dtype=torch.double))
    assert found.sum().item() == pytest.approx(0, abs=1e-9)
    for place, value in enumerate(found[0].tolist()):
        others = rewards[:place] + rewards[place + 1 :]
        assert value == pytest.approx(rewards[place] - sum(others) / len(others), abs=1e-9)


def test_in_a_group_of_two_the_advantages_are_the_difference() -> None:
    assert leave_one_out(torch.tensor([[3.0, 1.0], [0.0, 0.5]])).tolist() == [[2, -2], [-0.5, 0.5]]


def test_a_group_of_one_and_a_reward_that_is_no_number_are_refused(adapted: PeftModel) -> None:
    with pytest.raises(ValueError, match="at least two"):
        leave_one_out(torch.tensor([[1.0]]))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not a finite number"):
            train(adapted, IDS, SHORT, seed=0, reward=lambda texts, bad=bad: torch.full((len(texts),), bad))
    with pytest.raises(ValueError, match="at least one step"):
        train(adapted, IDS, replace(SHORT, steps=0), seed=0)


def test_the_expected_gradient_is_that_of_the_expected_reward() -> None:
    """A policy of five tokens that writes two: all groups of two texts are enumerated, with the KL in the reward."""
    generator = torch.Generator().manual_seed(0)
    tables = [torch.randn(5, generator=generator), torch.randn(5, 5, generator=generator)]
    first, second = (each.double().requires_grad_() for each in tables)
    reference = [torch.randn(each.shape, generator=generator).double().log_softmax(-1) for each in tables]
    texts, beta = list(itertools.product(range(5), repeat=2)), 0.3
    rewards = torch.randn(25, generator=generator).double()

    def of_tokens(one: Tensor, two: Tensor) -> Tensor:
        """Log-probabilities of the tokens of all texts, shape (25, 2)."""
        return torch.stack([torch.stack([one[a], two[a, b]]) for a, b in texts])

    def value() -> Tensor:
        logp = of_tokens(first.log_softmax(-1), second.log_softmax(-1)).sum(-1)
        return (logp.exp() * (rewards - beta * (logp - of_tokens(*reference).sum(-1)))).sum()

    wanted = torch.autograd.grad(value(), [first, second])
    for table, gradient in zip((first, second), wanted, strict=True):
        with torch.no_grad():
            for place in itertools.product(*map(range, table.shape)):
                table[place] += 1e-5
                higher = value()
                table[place] -= 2e-5
                assert ((higher - value()) / 2e-5).item() == pytest.approx(gradient[place].item(), abs=1e-7)
                table[place] += 1e-5
    logp, logp_ref = of_tokens(first.log_softmax(-1), second.log_softmax(-1)), of_tokens(*reference)
    chance = logp.detach().sum(-1).exp()
    loss = torch.zeros((), dtype=torch.double)
    for group in itertools.product(range(25), repeat=2):
        index = list(group)
        loss = loss + chance[index].prod() * rloo_loss(
            logp[index][None], logp_ref[index][None], rewards[index][None], beta
        )
    for found, gradient in zip(torch.autograd.grad(loss, [first, second]), wanted, strict=True):
        assert torch.allclose(-found, gradient, atol=1e-9)


def share_of_even(texts: Tensor) -> Tensor:
    """A reward that differs from text to text, shape (n,)."""
    return (texts % 2 == 0).double().mean(-1)


def gradients_of(model: PeftModel) -> dict[str, Tensor]:
    """Will hold the gradients of the adapters as a backward pass leaves them, before they are clipped and used."""
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda own, name=name: found.update({name: own.grad.clone()}))
    return found


def endless_model() -> PreTrainedModel:
    """A model whose texts have no end: the lab leaves the end out of every distribution, and TRL does not."""
    model = tiny_model()
    model.generation_config.eos_token_id = None
    return model


def trainer_of_trl(
    chosen: Settings, own: PeftModel, rollout: Rollout, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> RLOOTrainer:
    """TRL's trainer with the weights of a policy, which reads texts that are written already.

    TRL makes the adapters, and so switches them off for the reference. (If a model comes with adapters, TRL keeps a
    copy of them as the reference.) By default it trains in bfloat16, with gradient checkpointing, on shuffled prompts:
    these are switched off. One update for a batch of texts makes the ratio of new and old policy 1, so that nothing
    is clipped there. What else the formula needs are TRL's defaults: advantages that are not normalised, and sums over
    the tokens of a text.
    """
    options = RLOOConfig(
        output_dir=str(folder),
        beta=chosen.beta,
        num_generations=chosen.group,
        max_completion_length=chosen.new_tokens,
        temperature=chosen.temperature,
        per_device_train_batch_size=len(rollout.texts),
        steps_per_generation=1,
        num_iterations=1,
        normalize_advantages=False,
        shuffle_dataset=False,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        max_steps=chosen.steps,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = RLOOTrainer(
        model=endless_model(),
        reward_funcs=lambda completion_ids, **rest: share_of_even(torch.tensor(completion_ids)).tolist(),
        args=options,
        train_dataset=Dataset.from_dict({"prompt": tokenizer.batch_decode(rollout.prompts[:: chosen.group])}),
        processing_class=tokenizer,
        peft_config=deepcopy(own.peft_config["default"]),
    )
    trainer.model.load_state_dict(own.state_dict())

    def written(input_ids: Tensor, **rest: object) -> Tensor:
        assert torch.equal(input_ids, rollout.prompts), "TRL reads other prompts"
        return torch.cat([input_ids, rollout.texts], dim=1)

    trainer.model.generate = written
    return trainer


@pytest.fixture
def _without_gpu() -> Iterator[None]:
    """TRL's trainer tells the whole process that there is no GPU: the next test asks anew."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("_without_gpu")
def test_one_step_is_that_of_trl(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Gradients, rewards and KL of a step, for the same texts of a policy that has left its reference."""
    chosen = replace(SHORT, beta=1.0, steps=1)
    own = moved(late_stage_lora(endless_model(), [1], rank=2, seed=0))
    before, rollouts = deepcopy(own), []
    monkeypatch.setattr(lab, "write", lambda *given, **rest: rollouts.append(write(*given, **rest)) or rollouts[-1])
    prompts = torch.tensor(tokenizer(["Once ", "There", "A fox"])["input_ids"])
    found = gradients_of(own)
    (row,) = train(own, prompts, chosen, seed=0, reward=share_of_even)
    assert not (rollouts[0].texts == tokenizer.eos_token_id).any(), "TRL would cut these texts: take another seed"
    assert rollouts[0].prompts.unique(dim=0).shape == (2, 5)

    trainer = trainer_of_trl(chosen, before, rollouts[0], tokenizer, tmp_path)
    wanted = gradients_of(trainer.model)
    trainer.train()
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert gradient.norm() > 0.01, name
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-5), name
    logged = trainer.state.log_history[0]
    assert (row["reward"], row["kl"]) == pytest.approx((logged["reward"], logged["kl"]), rel=1e-4)
    assert abs(row["kl"]) > 0.05, "the penalty has hardly a part in the gradient"


def test_the_first_step_does_not_depend_on_beta_and_the_next_do(adapted: PeftModel) -> None:
    def trained(beta: float, steps: int) -> tuple[list[float], dict[str, Tensor]]:
        model = late_stage_lora(tiny_model(), [1], rank=2, seed=0)
        history = train(model, IDS, replace(SHORT, beta=beta, steps=steps), seed=0)
        return [row["kl"] for row in history], {n: p.detach() for n, p in model.named_parameters() if "lora" in n}

    for steps, same in ((1, True), (3, False)):
        (kl, free), (_, held) = trained(0.0, steps), trained(5.0, steps)
        assert kl[0] == 0, "policy and reference differ before the first step"
        assert all(torch.equal(free[name], held[name]) for name in free) == same
    assert kl[-1] != 0


def test_a_reward_is_learned() -> None:
    """A small model learns to write the first six of its 61 tokens."""
    model = late_stage_lora(small_model(2), [1], rank=4, seed=0)
    prepared = Settings(steps=25, prompts=2, group=8, new_tokens=6, temperature=1.0, learning_rate=2e-2)
    history = train(model, IDS, prepared, seed=0, reward=lambda texts: (texts < 6).double().mean(-1))
    rewards = [row["reward"] for row in history]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1, rewards


def test_the_reward_is_the_share_of_distinct_tokens_of_the_whole_text() -> None:
    texts = torch.tensor([[1, 2, 3, 4], [1, 2, 1, 2], [7, 7, 7, 7]])
    assert distinct_tokens(texts).tolist() == [1, 0.5, 0.25]
    assert distinct_tokens(torch.arange(200)[None] % 150).tolist() == [0.75], "not of the last 96 tokens only"


# Bytes


def test_the_ledger_of_the_post_and_of_the_model_of_the_course() -> None:
    neox = 20_600_000_000
    assert sum(ledger(neox).values()) == 20 * neox == 412 * 10**9
    for width, gigabytes in ((4, 82.4), (2, 41.2), (1, 20.6)):
        one = ledger(neox, adapters=10**6, width=width)
        assert sum(one.values()) == gigabytes * 1e9 + 16 * 10**6
        assert one["reference"] == 0
        assert sum(ledger(neox, 10**6, width, copies=2).values()) - sum(one.values()) == width * neox


def test_the_ledger_counts_what_a_model_really_holds(adapted: PeftModel) -> None:
    trained = [each for each in adapted.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    adapted(input_ids=IDS).logits.sum().backward()
    optimizer.step()
    own = ledger(tiny_model().num_parameters(), sum(each.numel() for each in trained))
    of = {
        "weights": adapted.parameters(),
        "gradients": (each.grad for each in adapted.parameters() if each.grad is not None),
        "Adam": (state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")),
    }
    for name, tensors in of.items():
        assert own[name] == sum(each.numel() * each.element_size() for each in tensors), name


@pytest.mark.parametrize("numbers", [(0, None, 4, 1), (10, 0, 4, 1), (10, 2, 0, 1), (10, 2, 4, 0)])
def test_a_ledger_without_numbers_is_refused(numbers: tuple[int, int | None, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ledger(*numbers)


def test_what_the_process_holds_is_its_resident_memory() -> None:
    assert Meter.held() == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)


# What is recorded


def test_a_run_gives_a_row_with_its_curves_and_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = torch.randint(256, (4, 40), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(lab, "policy", lambda seed: (late_stage_lora(tiny_model(), [1], rank=2), IDS))
    monkeypatch.setattr(lab, "base_model", tiny_model)
    monkeypatch.setattr(lab, "held_out", lambda corpus: texts)
    monkeypatch.setattr(lab, "continue_prompts", lambda model, rows, new=8, **rest: real(model, rows, new, **rest))
    monkeypatch.setattr(lab.Arm, "splits", lambda self: {"train": texts})
    (row,) = lab.run(SHORT, seed=1)
    assert json.loads(json.dumps(row)) == row
    assert len(row["reward_of_steps"]) == len(row["kl_of_steps"]) == 3
    assert len(row["continuations"]) == len(row["base_likelihood_of_prompts"]) == 4
    (human,) = lab.untrained("reference")
    assert human["continuations"] == texts[:, 32:].tolist()
    monkeypatch.setattr(lab, "PENALTY", 100.0)
    (penalised,) = lab.untrained("repetition penalty")
    assert penalised["ttr"] > row["ttr"]


def test_every_arm_is_recorded_once_and_betas_are_pairs() -> None:
    found = [task.configuration for task in tasks()]
    assert len({json.dumps(each, sort_keys=True) for each in found}) == len(found)
    pairs = {(each["settings"]["beta"], each["seed"]) for each in found if "settings" in each}
    assert pairs == {(beta, seed) for beta in lab.BETAS for seed in lab.SEEDS}
    assert {"memory", "reference", "repetition penalty"} <= {task.label for task in tasks()}
