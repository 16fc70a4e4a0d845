"""Where do the bytes of RLHF go, and what does a model learn from a reward for little repetition? One model is both
policy (adapters on) and reference (adapters off)."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from hyperfit_course.anatomy import CausalLM, blocks_of, hidden_state, unwrapped
from hyperfit_course.decoding import PROMPT_TOKENS, continue_prompts
from hyperfit_course.frozen import FrozenPrefix, frozen_depth
from hyperfit_course.late_stage import late_stage_lora
from hyperfit_course.metrics import type_token_ratio
from hyperfit_course.models import EMBEDDED, load_model
from hyperfit_course.study.arms import Arm, base_model, held_out
from hyperfit_course.study.meter import Meter
from hyperfit_course.study.recording import TEXTS, Row, Task
from hyperfit_course.study.writing import likelihood_row, recitation_row, repetition_row

RANK, BLOCKS = 12, 5  #: Of the adapters, as in chapter 06: on the last five blocks.
PENALTY = 1.2  #: Of the base model's repetitions, for one arm without training.
BEGINNING = 16  #: Tokens of a training prompt. Those of the evaluation have twice as many, as everywhere.
PROMPTS = 8  #: Of the evaluation: the first of the course's 30.
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Settings:
    """How a policy is trained."""

    beta: float = 0.0  #: Weight of the KL in the reward, in rewards a nat.
    steps: int = 12
    prompts: int = 4  #: Of each step.
    group: int = 4  #: Texts after each of them.
    new_tokens: int = 24
    temperature: float = 0.5  #: At which the policy writes: at 1 its texts hardly repeat anything.
    learning_rate: float = 3e-3


def ledger(parameters: int, adapters: int | None = None, width: int = 4, copies: int = 1) -> dict[str, int]:
    """Bytes that policy, reference and their training need, by what they are for. Activations, the cache of keys and
    values, and a reward model are not among them.

    Args:
        parameters: of the model.
        adapters: parameters of the adapters, which alone are trained then, in float32; ``None`` trains all weights,
            and needs a second model as the reference.
        width: bytes of a frozen weight: 4 in float32, 2 in bfloat16, 1 in int8.
        copies: of the frozen model beside adapters: with one, it is its own reference.

    Raises:
        ValueError: a number is not positive.
    """
    if min(parameters, width, copies) < 1 or (adapters is not None and adapters < 1):
        raise ValueError("Parameters, adapters, bytes of a weight and copies are all at least 1.")
    trained = parameters if adapters is None else adapters
    return {
        "weights": 4 * parameters if adapters is None else width * parameters + 4 * adapters,
        "reference": 4 * parameters if adapters is None else (copies - 1) * width * parameters,
        "gradients": 4 * trained,
        "Adam": 8 * trained,
    }


def _hold(copies: int) -> list[int]:
    held, models = [Meter.held()], []
    for _ in range(copies):
        models.append(load_model()[0])
        sum(float(each.detach().sum()) for each in models[-1].parameters())  # touches every page
        held.append(Meter.held())
    return held


def resident(copies: int) -> list[int]:
    """Resident memory of a new process, in bytes: without a model, and after each copy of the course's model."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_hold, copies).result()


class Rollout(NamedTuple):
    """Texts that a policy wrote, and what is needed to judge them."""

    prompts: Tensor  #: Token ids, shape (n, m): those of one prompt stand together.
    texts: Tensor  #: Token ids, shape (n, new tokens).
    trunk: FrozenPrefix  #: What the frozen blocks put out, for policy and reference, shape (n, m + new tokens - 1, d).


def write(model: PeftModel, prompts: Tensor, settings: Settings, seed: int) -> Rollout:
    """Let the policy write a group of texts after each prompt, and keep what the frozen blocks put out meanwhile.

    Args:
        model: with adapters, but none on its first block.
        prompts: token ids, shape (prompts, m).

    Raises:
        ValueError: the model has no adapters, or they change its first block.
    """
    depth = shared_depth(model)
    rows, seen = prompts.repeat_interleave(settings.group, dim=0), []
    with blocks_of(model)[depth - 1].register_forward_hook(lambda module, inputs, output: seen.append(output)):
        texts = continue_prompts(
            model, rows, settings.new_tokens, sample=True, temperature=settings.temperature, seed=seed
        )
    states = torch.cat([hidden_state(output) for output in seen], dim=1)
    texts = texts.clone()  # what inference mode made cannot be used with gradients
    return Rollout(rows, texts, FrozenPrefix(list(blocks_of(model)[:depth]), states, isinstance(seen[0], tuple)))


def shared_depth(model: CausalLM) -> int:
    """Number of leading blocks that policy and reference share.

    Raises:
        ValueError: the model has no adapters, or they change its first block.
    """
    if not isinstance(model, PeftModel):
        raise ValueError("The model has no adapters, so it cannot be its own reference: call late_stage_lora first.")
    if not (depth := frozen_depth(model)):
        raise ValueError("The adapters change the first block: put them on later ones, so that a trunk is shared.")
    return depth


def log_probabilities(model: PeftModel, rollout: Rollout, temperature: float) -> Tensor:
    """Of each token of the texts under the distribution that they are drawn from, shape (n, new tokens), in nats: at
    this temperature, and without the end of the text. Only the blocks after the trunk are computed."""
    ids = torch.cat([rollout.prompts, rollout.texts[:, :-1]], dim=1).to(model.device)
    with rollout.trunk.replayed(torch.arange(len(ids))):
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=rollout.texts.shape[1]).logits
    end = unwrapped(model).generation_config.eos_token_id
    if end is not None:
        logits = logits.index_fill(-1, torch.atleast_1d(torch.tensor(end, device=logits.device)), -torch.inf)
    chosen = rollout.texts.to(logits.device).unsqueeze(-1)
    return (logits / temperature).log_softmax(dim=-1).gather(-1, chosen).squeeze(-1)


def reference_log_probabilities(model: PeftModel, rollout: Rollout, temperature: float) -> Tensor:
    """The same under the reference: the same weights with the adapters off."""
    with torch.no_grad(), model.disable_adapter():
        return log_probabilities(model, rollout, temperature)


# Learning from rewards


def distinct_tokens(texts: Tensor) -> Tensor:
    """The reward of texts, shape (n, length): their type-token ratios, shape (n,). Few tokens may occur twice."""
    return torch.tensor([type_token_ratio(text, len(text)) for text in texts])


def leave_one_out(rewards: Tensor) -> Tensor:
    """Each reward minus the mean of the others of its group (Ahmadian et al. 2024); the same shape (prompts, group).

    Raises:
        ValueError: a group has fewer than two texts, or a reward is not finite.
    """
    if rewards.shape[-1] < 2:
        raise ValueError("The baseline of a text is the reward of the others: a group has at least two.")
    if not rewards.isfinite().all():
        raise ValueError("A reward is not a finite number: a text without tokens has none, for example.")
    others = (rewards.sum(dim=-1, keepdim=True) - rewards) / (rewards.shape[-1] - 1)
    return rewards - others


def rloo_loss(logp: Tensor, logp_ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """Loss whose gradient is the one of REINFORCE with leave-one-out baselines, and the KL in the reward.

    Args:
        logp, logp_ref: log-probabilities of the tokens, shape (prompts, group, length), in nats. No gradient flows
            through the second, nor through the KL.
        rewards: shape (prompts, group).
        beta: weight of the KL.
    """
    whole = logp.sum(dim=-1)
    penalised = rewards - beta * (whole.detach() - logp_ref.detach().sum(dim=-1))
    return -(leave_one_out(penalised) * whole).mean()


def train(
    model: PeftModel,
    prompts: Tensor,
    settings: Settings,
    seed: int,
    reward: Callable[[Tensor], Tensor] = distinct_tokens,
    progress: str | None = None,
) -> list[Row]:
    """Train a policy in place with AdamW: one update for each batch of texts, so that no text is old.

    Args:
        model: with adapters, but none on its first block.
        prompts: token ids, shape (n, m). Each step takes some, and all come up equally often.
        seed: of their order, and of the texts.
        reward: of texts, shape (n, length), shape (n,).
        progress: label of a progress bar; no bar without it.

    Returns:
        One row a step, before its update: mean ``reward``, and ``kl``, an estimate from the texts, in nats a token.

    Raises:
        ValueError: there is no step, the loss is no number any more, or as :func:`write` and :func:`leave_one_out`.
    """
    if settings.steps < 1:
        raise ValueError("Training takes at least one step.")
    model.eval()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0)
    draw, waiting, rows = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.long), []
    for step in tqdm(range(settings.steps), desc=progress, disable=progress is None):
        while len(waiting) < settings.prompts:
            waiting = torch.cat([waiting, torch.randperm(len(prompts), generator=draw)])
        index, waiting = waiting[: settings.prompts], waiting[settings.prompts :]
        rollout = write(model, prompts[index], settings, seed=1000 * seed + step)
        logp = log_probabilities(model, rollout, settings.temperature)
        logp_ref = reference_log_probabilities(model, rollout, settings.temperature)
        rewards, shape = reward(rollout.texts).to(logp), (settings.prompts, settings.group)
        loss = rloo_loss(logp.unflatten(0, shape), logp_ref.unflatten(0, shape), rewards.view(shape), settings.beta)
        if not loss.isfinite():
            raise ValueError(f"The loss is no number after {step} steps: lower the rate of {settings.learning_rate}.")
        rows.append({"reward": rewards.mean().item(), "kl": (logp.detach() - logp_ref).mean().item()})
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return rows


def policy(seed: int) -> tuple[PeftModel, Tensor]:
    """The model of the course with new adapters, and the beginnings of its training texts."""
    model = late_stage_lora(load_model()[0], BLOCKS, RANK, seed=seed)
    return model, Arm().splits()["train"][:, :BEGINNING]


def judged_texts(written: Tensor) -> Row:
    """What is measured of texts after the prompts of the evaluation, shape (prompts, length)."""
    prompts = held_out("tales")[: len(written), :PROMPT_TOKENS]
    return {
        **repetition_row(written),
        **recitation_row(written, Arm().splits()["train"]),
        **likelihood_row(torch.cat([prompts, written], dim=1), base_model()),
        TEXTS: written.tolist(),
    }


def run(settings: Settings, seed: int) -> Iterator[Row]:
    """Train a policy, and judge its greedy texts."""
    model, prompts = policy(seed)
    history = train(model, prompts, settings, seed, progress=f"beta {settings.beta}, seed {seed}")
    written = continue_prompts(model, held_out("tales")[:PROMPTS, :PROMPT_TOKENS])
    curves = {f"{name}_of_steps": [round(row[name], 5) for row in history] for name in ("reward", "kl")}
    yield {"arm": "RL", "beta": settings.beta, "seed": seed, **curves, **judged_texts(written)}


def untrained(arm: str) -> Iterator[Row]:
    """The base model with a repetition penalty, or what the authors of the texts wrote."""
    texts = held_out("tales")[:PROMPTS]
    written = texts[:, PROMPT_TOKENS:]
    if arm == "repetition penalty":
        processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(PENALTY)])
        written = continue_prompts(base_model(), texts[:, :PROMPT_TOKENS], logits_processor=processors)
    yield {"arm": arm, "seed": 0, **judged_texts(written)}


def memory() -> Iterator[Row]:
    """Resident memory of a new process with no copy of the model up to three."""
    yield {"arm": "memory", "held": resident(copies=3)}


BETAS = (0.0, 0.02)


def tasks() -> list[Task]:
    """What is recorded, the most wanted first."""
    common = {"model": EMBEDDED, "prompt_tokens": PROMPT_TOKENS, "prompts": PROMPTS}
    learned = {**common, "rank": RANK, "blocks": BLOCKS, "beginning": BEGINNING}
    first, *others = [
        Task(
            f"beta {beta}, seed {seed}",
            {**learned, "settings": asdict(Settings(beta=beta)), "seed": seed},
            partial(run, Settings(beta=beta), seed),
        )
        for beta in BETAS
        for seed in SEEDS
    ]
    return [
        first,
        Task("memory", {"model": EMBEDDED, "arm": "memory"}, memory),
        Task("reference", {**common, "arm": "reference"}, partial(untrained, "reference")),
        Task("repetition penalty", {**common, "penalty": PENALTY}, partial(untrained, "repetition penalty")),
        *others,
    ]
