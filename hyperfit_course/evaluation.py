"""How is a model doing? Losses, sharpness and greedy continuations, as a training run notes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperfit_course.anatomy import CausalLM
from hyperfit_course.decoding import NEW_TOKENS, PROMPT_TOKENS, continue_prompts
from hyperfit_course.losses import has_plain_head, next_token_loss
from hyperfit_course.metrics import repetition_frame
from hyperfit_course.temperature import predictive_entropy


@torch.no_grad()
def evaluate(model: CausalLM, splits: Mapping[str, Tensor], n_prompts: int, batch_size: int = 4) -> dict[str, Any]:
    """Losses, sharpness and continuations of a model, as JSON values.

    Args:
        model: a causal language model.
        splits: texts to train on, for validation and for prompts, from :func:`~hyperfit_course.corpora.make_texts`.
        n_prompts: how many prompts are continued.
        batch_size: training texts at a time.

    Returns:
        ``train_loss`` and ``validation_loss`` (next-token loss in nats), ``entropy`` (of the next-token
        distributions on the validation texts, in nats), and ``continuations``: the token ids of the greedy
        continuations of the first ``n_prompts`` prompts, one list each.
    """
    plain_head = has_plain_head(model)
    train_loss = 0.0
    for batch in splits["train"].split(batch_size):
        loss = next_token_loss(model, batch.to(model.device), plain_head).item()
        train_loss += loss * len(batch) / len(splits["train"])
    read = []
    for text in splits["validation"].to(model.device):
        logits = model(input_ids=text[None], use_cache=False).logits[0, :-1].float()
        read.append((F.cross_entropy(logits, text[1:]).item(), predictive_entropy(logits).mean().item()))
    validation_loss, entropy = torch.tensor(read, dtype=torch.float64).mean(dim=0).tolist()
    return {
        "train_loss": train_loss,
        "validation_loss": validation_loss,
        "entropy": entropy,
        "continuations": continue_prompts(model, splits["prompts"][:n_prompts, :PROMPT_TOKENS], NEW_TOKENS).tolist(),
    }


def history_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The history of a run, with the repetition of the texts that its model wrote.

    A run keeps the texts and not their repetition: so a corrected metric is noticed, and trains nothing again. In the
    rows of evaluated epochs, which hold what :func:`evaluate` returns, the texts are replaced by the means of ``ttr``
    and ``bigram_repetition``.
    """
    history = []
    for row in rows:
        known = dict(row)
        if texts := known.pop("continuations", None):
            known |= repetition_frame(texts)[["ttr", "bigram_repetition"]].mean()
        history.append(known)
    return pd.DataFrame(history)
