"""Can the measures be trusted on this model? Each has a rival that is slower and plainer: they have to agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperfit_course.anatomy import CausalLM, blocks_of
from hyperfit_course.decoding import NEW_TOKENS, PROMPT_TOKENS, continue_prompts
from hyperfit_course.frozen import frozen_prefix
from hyperfit_course.losses import has_plain_head, next_token_loss
from hyperfit_course.models import begin_token, context_length
from hyperfit_course.stream import stream_states
from hyperfit_course.study.config import CHANGES, PART_NAMES, StudyError

CLOSE = 1e-3  #: Relative error that rounding may make in float32.
STEPS = 16  #: Tokens that are decoded for the check.


@dataclass(frozen=True)
class Check:
    """One comparison."""

    name: str
    passed: bool
    says: str  #: What was compared, or why it failed.
    stops: tuple[str, ...]  #: Parts that are not measured if it failed.


def checked(model: CausalLM, texts: Tensor) -> list[Check]:
    """All checks of a base model on a few texts, shape (n, length), n at least 2."""
    texts = texts[:2]
    everything, geometry = tuple(PART_NAMES), ("geometry", "layers", "spectrum")
    text_parts = ("writing", "sampling", "order", "bias", *CHANGES, "damage", "batch")
    wanted: list[tuple[str, Callable[[CausalLM, Tensor], float], str, tuple[str, ...]]] = [
        ("causal", _looks_ahead, "a later token changes no earlier prediction", everything),
        ("loss", _loss_error, "the loss in chunks is that of all logits", everything),
        ("states", _state_error, "the hooks read the hidden states that transformers gives", geometry),
        ("prefix", _prefix_error, "with the first blocks kept, the model puts out the same", ()),
        ("decoding", _decoding_gap, "greedy text is the first choice of the whole model at every step", text_parts),
    ]
    found = []
    for name, error_of, says, stops in wanted:
        try:
            error = error_of(model, texts)
            passed, reason = error < CLOSE, f"{says} (relative error {error:.1e})"
        except Exception as error:  # an architecture may fail here in any way: that is what is checked
            passed, reason = False, f"{says}: {type(error).__name__}, {_first_line(error)}"
        found.append(Check(name, passed, reason, () if passed else stops))
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]


def _logits(model: CausalLM, texts: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=texts.to(model.device), use_cache=False).logits.float().cpu()


def _vocabulary(model: CausalLM) -> int:
    """Tokens that the model has an embedding of."""
    return len(model.get_input_embeddings().weight)  # type: ignore[arg-type]


def _relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm().clamp(min=1e-12)).item()


def _looks_ahead(model: CausalLM, texts: Tensor) -> float:
    changed = texts.clone()
    changed[:, -1] = (texts[:, -1] + 1) % _vocabulary(model)
    return _relative(_logits(model, changed)[:, :-1], _logits(model, texts)[:, :-1])


def _loss_error(model: CausalLM, texts: Tensor) -> float:
    with torch.no_grad():
        ours = next_token_loss(model, texts.to(model.device), has_plain_head(model)).item()
    plain = F.cross_entropy(_logits(model, texts)[:, :-1].flatten(0, 1), texts[:, 1:].flatten()).item()
    return abs(ours - plain) / abs(plain)


def _state_error(model: CausalLM, texts: Tensor) -> float:
    with torch.no_grad():
        theirs = model(input_ids=texts[:1].to(model.device), output_hidden_states=True, use_cache=False).hidden_states
    (ours,) = stream_states(model, texts[:1])
    if len(theirs) != len(ours):
        raise StudyError(f"{len(ours)} layers are read, and transformers gives {len(theirs)}")
    # transformers puts the embeddings first, and the output of the norm in the place of the last block's.
    pairs = [*zip(ours[:-2], theirs[1:-1], strict=True), (ours[-1], theirs[-1])]
    return max(_relative(mine, other[0].float().cpu()) for mine, other in pairs)


def _prefix_error(model: CausalLM, texts: Tensor) -> float:
    trained = [parameter.requires_grad for parameter in model.parameters()]
    try:
        model.requires_grad_(False)
        frozen_prefix(model, texts, max(1, len(blocks_of(model)) - 1))  # it compares, and raises an error
    finally:
        for parameter, requires in zip(model.parameters(), trained, strict=True):
            parameter.requires_grad_(requires)
    return 0.0


def _decoding_gap(model: CausalLM, texts: Tensor) -> float:
    """How far below the best allowed logit the written tokens lie, as a share of the logits' spread."""
    prompts = texts[:, :PROMPT_TOKENS]
    written = continue_prompts(model, prompts.repeat(2, 1), STEPS)[: len(prompts)]
    logits = _logits(model, torch.cat([prompts, written], dim=1))[:, PROMPT_TOKENS - 1 : -1]
    end = getattr(model.generation_config, "eos_token_id", None)
    for token in [] if end is None else torch.atleast_1d(torch.tensor(end)).tolist():
        logits[..., token] = -torch.inf
    own = logits.gather(-1, written[..., None])[..., 0]
    spread = logits.masked_fill(logits.isinf(), 0).std()
    return ((logits.amax(dim=-1) - own).max() / spread).item()


def begin_rule(tokenizer: Any) -> str:
    """In a sentence, how texts of this model begin."""
    token = tokenizer.bos_token
    if begin_token(tokenizer) is not None:
        return f"Every text begins with {token}, which the tokenizer of this model puts there by itself."
    if token is None:
        return "The tokenizer has no begin-of-text token, and texts begin without one."
    return f"The tokenizer has {token} and does not put it before a text, so texts begin without it."


def check_subject(model: CausalLM, tokenizer: Any, texts: Tensor) -> None:
    """Raise a StudyError where a model and its texts do not fit a study."""
    name, config = type(model).__name__, model.config
    if getattr(config, "is_encoder_decoder", False):
        raise StudyError(
            f"{name} is the decoder of an encoder-decoder, and a causal language model is wanted: choose one, such as "
            "GPT-2 or Llama."
        )
    needed = max(texts.shape[1], PROMPT_TOKENS + NEW_TOKENS)
    if context_length(model) < needed:
        enough = context_length(model) >= PROMPT_TOKENS + NEW_TOKENS
        raise StudyError(
            f"{name} reads at most {context_length(model)} tokens, and {needed} are needed (a prompt of "
            f"{PROMPT_TOKENS} with {NEW_TOKENS} new ones, and texts of {texts.shape[1]}): choose "
            f"{'a smaller --length' if enough else 'a model that reads more'}."
        )
    vocabulary = _vocabulary(model)
    if int(texts.max()) >= vocabulary:
        raise StudyError(
            f"The tokenizer gives the id {int(texts.max())}, and {name} has {vocabulary} tokens: they do not belong "
            "together. Load both from one folder."
        )
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise StudyError(
            f"Weights of {name} are nan or inf, as in a damaged file or one of another precision: fetch it again, or "
            "choose another."
        )


def check_causal(model: CausalLM, texts: Tensor) -> None:
    """Raise a StudyError for a model whose predictions depend on later tokens, as those of BERT do.

    Args:
        texts: token ids, shape (n, length), of at least two tokens.
    """
    if _looks_ahead(model, texts) >= CLOSE:
        raise StudyError(
            f"{type(model).__name__} looks at later tokens, so it cannot write: choose a causal language model."
        )


def check_adapters(model: CausalLM) -> None:
    """Raise a StudyError where adapters would miss a part of the blocks: the experts of a mixture, in one tensor."""
    parts = [module for block in blocks_of(model) for module in block.modules()]
    experts = [part for part in parts if not isinstance(part, nn.Conv1d) and _stacked(part)]
    if experts:
        raise StudyError(
            f"{type(model).__name__} keeps its experts in one tensor ({type(experts[0]).__name__}), which gets no "
            "adapter here, and PEFT adapts the routers of all blocks or of none: train all its weights, --arms full."
        )


def _stacked(module: nn.Module) -> bool:
    return any(parameter.ndim == 3 for parameter in module.parameters(recurse=False))
