"""How is text drawn? Batched continuations, greedy or sampled."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from hyperfit_course.anatomy import CausalLM, unwrapped
from hyperfit_course.artifacts import artifact, code_digest, sha256_tensor
from hyperfit_course.distributions import entropy_bounds, match_temperature_per_position, predictive_entropy
from hyperfit_course.models import context_length, fingerprint

PROMPT_TOKENS = 32
"""Tokens of context that a continuation starts from, as in Carlsson et al. (2025)."""
NEW_TOKENS = 96
"""Tokens generated after it; the type-token ratio of Carlsson et al. (2025) is taken over the last 96."""


class _Progress(StoppingCriteria):
    """Moves a bar by one a generated token, and never stops anything."""

    def __init__(self, bar: tqdm) -> None:
        self.bar = bar

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.bar.update()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class _Forbidden(LogitsProcessor):
    """Tokens that are never written. transformers has this too, with two passes over the vocabulary a step."""

    def __init__(self, tokens: int | list[int] | None) -> None:
        self.tokens = [] if tokens is None else torch.atleast_1d(torch.tensor(tokens)).tolist()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, self.tokens] = -math.inf  # transformers hands out a copy of the logits
        return scores


class EntropyMatched(LogitsProcessor):
    """Gives every distribution the temperature at which it is as sharp as another model's in the same context.

    One T for all positions matches the mean only. This matches each position: where the other model hesitates, the
    decoded one may hesitate as much, and nowhere more. Use one instance a call of :func:`continue_prompts`.

    Args:
        reference: the other model; it reads what is being written.
    """

    def __init__(self, reference: CausalLM) -> None:
        self.reference = reference
        self.cache: Any = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        new = input_ids if self.cache is None else input_ids[:, -1:]
        output = self.reference(input_ids=new.to(self.reference.device), past_key_values=self.cache, use_cache=True)
        self.cache = output.past_key_values
        allowed = output.logits[:, -1].to(scores.device).masked_fill(scores.isneginf(), -math.inf)
        # The reference may be surer than any temperature can make these logits: then they get as sure as they can.
        low, high = entropy_bounds(scores)
        target = predictive_entropy(allowed).clamp(low + 1e-4, high - 1e-4)
        return scores / match_temperature_per_position(scores, target)[:, None]


@contextlib.contextmanager
def _plain(model: CausalLM) -> Iterator[None]:
    """Evaluation mode, and no generation defaults of the model's own.

    Instruct models carry repetition penalties and the like, and transformers fills every setting that is left open
    from them: they would change what is measured.
    """
    was_training, own = model.training, model.generation_config
    model.eval()
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
        model.train(was_training)


@torch.inference_mode()
def continue_prompts(
    model: CausalLM,
    prompts: Tensor,
    max_new_tokens: int = NEW_TOKENS,
    *,
    sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    logits_processor: LogitsProcessorList | None = None,
    progress: str | None = None,
) -> Tensor:
    """Continuations of exactly ``max_new_tokens`` tokens for a batch of prompts.

    The end-of-text token is forbidden, so that all continuations have one length and can be compared: a model that
    stops early would otherwise look less repetitive than it is.

    Args:
        model: any causal language model.
        prompts: token ids, shape (n, prompt length). All prompts have one length, so nothing is padded.
        sample: draw from the distribution; otherwise take the most probable token (greedy decoding).
        temperature, top_p: of the sampling; without ``sample`` they are not used.
        seed: of the sampling.
        logits_processor: further changes of the logits, applied at each step.
        progress: label of a progress bar; no bar without it.

    Returns:
        Token ids, shape (n, max_new_tokens), on the CPU, without the prompts.

    Raises:
        ValueError: the prompts are empty, or prompt and continuation exceed the model's context.
    """
    if prompts.ndim != 2 or prompts.numel() == 0:
        raise ValueError(f"Prompts are token ids of shape (n, length), with at least one, not {tuple(prompts.shape)}.")
    if prompts.shape[1] + max_new_tokens > context_length(model):
        raise ValueError(
            f"A prompt of {prompts.shape[1]} tokens and {max_new_tokens} new ones exceed the model's context of "
            f"{context_length(model)}: ask for fewer."
        )
    model = unwrapped(model)  # PEFT's wrapper would leave our settings behind in the model
    forbidden = _Forbidden(model.generation_config.eos_token_id if model.generation_config else None)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=sample,
        pad_token_id=0,  # never written, since all rows end together; transformers wants one
        **({"temperature": temperature, "top_p": top_p, "top_k": 0} if sample else {}),
    )
    if sample:
        torch.manual_seed(seed)
    prompts = prompts.to(model.device)
    with _plain(model), tqdm(total=max_new_tokens, desc=progress, unit="token", disable=progress is None) as bar:
        output = model.generate(  # type: ignore[operator]  # transformers types it as a tensor
            prompts,
            attention_mask=torch.ones_like(prompts),
            generation_config=config,
            logits_processor=LogitsProcessorList([forbidden, *(logits_processor or [])]),
            stopping_criteria=StoppingCriteriaList([_Progress(bar)]),
        )
    return output[:, prompts.shape[1] :].cpu()


def kept_continuations(model: CausalLM, prompts: Tensor, progress: str | None = None) -> Tensor:
    """The greedy continuations of :func:`continue_prompts`, written once and then read from the cache.

    Several chapters show the same texts of the same models. They are kept under a key of the model's weights, the
    prompts and the code.

    Args:
        model: a model that nothing but its weights decides: no adapters, no hooks of yours.
        prompts: token ids, shape (n, prompt length).
        progress: label of a progress bar; no bar without it.

    Returns:
        Token ids, shape (n, 96), on the CPU, without the prompts.

    Raises:
        ValueError: as in :func:`continue_prompts`; or the model has adapters, whose strength its weights do not show.
    """
    if isinstance(model, PeftModel):
        raise ValueError("The weights of a model with adapters do not say how strong they are: use continue_prompts.")
    key = {
        "code": code_digest(sys.modules[__name__]),
        "model": fingerprint(model),
        "prompts": sha256_tensor(prompts),
        "device": model.device.type,
    }

    def write(folder: Path) -> None:
        save_file(
            {"tokens": continue_prompts(model, prompts, progress=progress).contiguous()},
            folder / "continuations.safetensors",
        )

    return load_file(artifact("continuations", key, write) / "continuations.safetensors")["tokens"]
