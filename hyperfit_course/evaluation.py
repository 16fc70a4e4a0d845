"""How is a model doing? Losses, sharpness and greedy continuations, as a training run notes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperfit_course.anatomy import CausalLM, body_of, unwrapped
from hyperfit_course.decoding import NEW_TOKENS, PROMPT_TOKENS, continue_prompts
from hyperfit_course.losses import CHUNK, has_plain_head, next_token_loss
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
    read = [_loss_and_entropy(model, text, plain_head) for text in splits["validation"].to(model.device)]
    validation_loss, entropy = torch.tensor(read, dtype=torch.float64).mean(dim=0).tolist()
    return {
        "train_loss": train_loss,
        "validation_loss": validation_loss,
        "entropy": entropy,
        "continuations": continue_prompts(model, splits["prompts"][:n_prompts, :PROMPT_TOKENS], NEW_TOKENS).tolist(),
    }


def _loss_and_entropy(model: CausalLM, text: Tensor, plain_head: bool) -> tuple[float, float]:
    """Means over the positions of a text, shape (length,). The logits of a plain head are made chunk by chunk."""
    if plain_head:
        states = body_of(model)(input_ids=text[None], use_cache=False)[0][0, :-1]
        chunks = map(unwrapped(model).get_output_embeddings(), states.split(CHUNK))
    else:
        chunks = iter(model(input_ids=text[None], use_cache=False).logits[0, :-1].split(CHUNK))
    loss = entropy = 0.0
    for logits, targets in zip(chunks, text[1:].split(CHUNK), strict=True):
        loss += F.cross_entropy(logits.float(), targets, reduction="sum").item()
        entropy += predictive_entropy(logits.float()).sum().item()
    return loss / (len(text) - 1), entropy / (len(text) - 1)


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
