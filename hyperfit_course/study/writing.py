"""What is measured of what a model writes: repetition, diversity across prompts, recitation, likelihood, as rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperfit_course.anatomy import CausalLM
from hyperfit_course.decoding import PROMPT_TOKENS
from hyperfit_course.metrics import bootstrap_interval, repetition_frame
from hyperfit_course.study.recitation import recited
from hyperfit_course.study.recording import TEXTS, Row


def repetition_row(continuations: Tensor, samples: int = 1) -> Row:
    """Type-token ratio and bigram repetition with their intervals over prompts, and one value a prompt for pairs.

    With several samples a prompt, each value is the mean of them.
    """
    frame = repetition_frame(continuations)
    of_prompt = frame.groupby(frame.index // samples).mean()
    row: Row = {"n_prompts": len(of_prompt)}
    for name in ("ttr", "bigram_repetition"):
        interval = bootstrap_interval(of_prompt[name])
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))
        row[f"{name}_of_prompts"] = of_prompt[name].round(6).tolist()
    return row


def diversity_across(continuations: Tensor) -> Row:
    """Distinct n-grams of all texts together as a share of all (distinct-n, Li et al., 2016), for n = 1, 2 and 3."""
    row = {}
    for n in (1, 2, 3):
        grams = [tuple(gram) for text in continuations for gram in text.unfold(0, n, 1).tolist()]
        row[f"distinct_{n}"] = len(set(grams)) / len(grams)
    return row


def recitation_row(continuations: Tensor, source: Tensor) -> Row:
    """How much of the texts is copied from a source: one value a prompt, and the longest run of all."""
    found = [recited(text, source) for text in continuations]
    shares = [round(each.share, 6) for each in found]
    return {
        "recited": sum(shares) / len(shares),
        "longest_recited": max(each.longest for each in found),
        "recited_of_prompts": shares,
    }


@torch.no_grad()
def likelihood_row(texts: Tensor, base: CausalLM) -> Row:
    """Mean log-probability of the continuations' tokens under a base model, in nats: one value a text.

    ``texts`` are prompts with their continuations, shape (n, length).
    """
    values = []
    for text in texts.to(base.device):
        logits = base(input_ids=text[None], use_cache=False).logits[0, PROMPT_TOKENS - 1 : -1].float()
        values.append(round(-F.cross_entropy(logits, text[PROMPT_TOKENS:]).item(), 6))
    return {"base_likelihood": sum(values) / len(values), "base_likelihood_of_prompts": values}


def text_row(continuations: Tensor, texts: Tensor, source: Tensor, base: CausalLM) -> Row:
    """All that is measured of greedy continuations, and these themselves.

    Args:
        continuations: token ids, shape (n, new tokens).
        texts: those that begin with the prompts, shape (n, length).
        source: the texts that the model was trained on.
        base: the model before any training.
    """
    prompts = texts[:, :PROMPT_TOKENS]
    return {
        **repetition_row(continuations),
        **diversity_across(continuations),
        **recitation_row(continuations, source),
        **likelihood_row(torch.cat([prompts, continuations.to(prompts)], dim=1), base),
        TEXTS: continuations.tolist(),
    }
