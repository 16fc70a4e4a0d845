"""How is text drawn? Batched continuations, greedy or sampled."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from hyperfit_course.anatomy import CausalLM, unwrapped
from hyperfit_course.artifacts import artifact, sha256_tensor
from hyperfit_course.models import context_length, model_key
from hyperfit_course.sources import code_behind

PROMPT_TOKENS = 32  #: Tokens of context that a continuation starts from, as in Carlsson et al. (2025).
NEW_TOKENS = 96  #: Tokens generated after it; the type-token ratio of Carlsson et al. (2025) is taken over the last 96.
PACKED_PROMPTS = 4  #: From this many prompts on, packed weights save time on a CPU.


class _Progress(StoppingCriteria):
    """Moves a bar by one a generated token, and never stops anything."""

    def __init__(self, bar: tqdm) -> None:
        self.bar = bar

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.bar.update()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


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


@contextlib.contextmanager
def _packed(model: CausalLM, prompts: int) -> Iterator[None]:
    """Linear layers that multiply by copies of their weights, in the order in which oneDNN reads them.

    A step of decoding is narrow products, for each of which torch packs the weights anew. Packed once, they cost less
    time (benchmarks/decode_step.py) and more memory, that of the weights. Other devices and precisions have no need.
    """
    useful = prompts >= PACKED_PROMPTS and torch.backends.mkldnn.is_available()
    # A subclass may do more than multiply, and so may a layer that was changed, by accelerate for example.
    linear = [layer for layer in model.modules() if type(layer) is nn.Linear and "forward" not in vars(layer)]
    plain = (torch.device("cpu"), torch.float32)
    layers = [layer for layer in linear if useful and (layer.weight.device, layer.weight.dtype) == plain]
    product = functools.partial(torch.ops.mkldnn._linear_pointwise, attr="none", scalars=[], algorithm="")
    try:
        for layer in layers:
            weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight, prompts)
            layer.forward = functools.partial(product, W=weight, B=layer.bias)  # type: ignore[method-assign]
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


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
    end = model.generation_config.eos_token_id if model.generation_config else None
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=sample,
        suppress_tokens=None if end is None else torch.atleast_1d(torch.tensor(end)).tolist(),
        pad_token_id=0,  # never written, since all rows end together; transformers wants one
        **({"temperature": temperature, "top_p": top_p, "top_k": 0} if sample else {}),
    )
    if sample:
        torch.manual_seed(seed)
    prompts = prompts.to(model.device)
    bar = tqdm(total=max_new_tokens, desc=progress, unit="token", disable=progress is None)
    with _plain(model), _packed(model, len(prompts)), bar:
        output = model.generate(  # type: ignore[operator]  # transformers types it as a tensor
            prompts,
            attention_mask=torch.ones_like(prompts),
            generation_config=config,
            logits_processor=logits_processor,
            stopping_criteria=StoppingCriteriaList([_Progress(bar)]),
        )
    return output[:, prompts.shape[1] :].cpu()


def kept_continuations(model: CausalLM, prompts: Tensor, progress: str | None = None) -> Tensor:
    """The greedy continuations of :func:`continue_prompts`, written once and then read from the cache.

    Several chapters show the same texts of the same models. They are kept under a key of the model, the prompts and
    the code. The model must have no hooks of yours, which the key does not see.
    """
    key = {
        "code": code_behind(__name__),
        "model": model_key(model),
        "prompts": sha256_tensor(prompts),
        "device": model.device.type,
    }

    def write(folder: Path) -> None:
        tokens = continue_prompts(model, prompts, progress=progress).contiguous()
        save_file({"tokens": tokens}, folder / "continuations.safetensors")

    return load_file(artifact("continuations", key, write) / "continuations.safetensors")["tokens"]
