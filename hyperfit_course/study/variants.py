"""Which other texts, and which other loss? Arms that differ from the course's in what they are trained on or for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import get_constant_schedule_with_warmup

from hyperfit_course.anatomy import CausalLM
from hyperfit_course.corpora import load_corpus
from hyperfit_course.evaluation import evaluate, history_frame
from hyperfit_course.study.arms import Arm
from hyperfit_course.training import HyperfitConfig

TRAINING_TEXTS = 32  #: Those of the course's arms.
UNSURE = 3.5  #: Nats: about the base model's mean entropy on tales.
PENALTY = 3.0  #: How much each nat below counts, in nats of loss.


@dataclass(frozen=True)
class Variant(Arm):
    """An arm with another number of texts, or with the texts of another seed in an order of its own.

    Trained on ``wiki``, it reads the articles of the part ``prompts``. The held-out texts of this corpus
    (:func:`~hyperfit_course.study.arms.held_out`) are from the part ``train``.
    """

    texts: int = TRAINING_TEXTS  #: How many it is trained on.
    drawn: int | None = None  #: The seed that chooses them; ``None`` for the training seed, which decides their order.

    @property
    def label(self) -> str:
        """That of the arm, and what is different."""
        number = [f"{self.texts} texts"] if self.texts != TRAINING_TEXTS else []
        order = [f"texts of seed {self.drawn}"] if self.drawn is not None else []
        return ", ".join([super().label, *number, *order])

    def splits(self) -> dict[str, Tensor]:
        """The texts that it is trained on, and those of its evaluation."""
        corpus = load_corpus(self.trained_on)
        if self.trained_on == "wiki":
            corpus = {**corpus, "train": corpus["prompts"], "prompts": corpus["train"]}
        seed = self.seed if self.drawn is None else self.drawn
        return replace(self.subject, n_train=self.texts).cut(corpus, seed)


@dataclass(frozen=True)
class Unsure(Arm):
    """An arm with a confidence penalty: it learns its texts, and its predictions on them may not become sharper."""

    least_entropy: float = UNSURE  #: Nats, the mean over a batch of training texts.

    @property
    def label(self) -> str:
        """That of the arm, and that it is unsure."""
        return f"{super().label}, unsure"

    def _train(self, model: CausalLM, config: HyperfitConfig) -> pd.DataFrame:
        splits = self.splits()
        train_unsure(model, splits["train"], config, self.least_entropy)
        return history_frame([{"epoch": config.epochs} | evaluate(model, splits, config.evaluation_prompts)])


def train_unsure(model: CausalLM, texts: Tensor, config: HyperfitConfig, least_entropy: float) -> None:
    """Train as :func:`~hyperfit_course.training.hyperfit` does, in float32, with a penalty on confidence (Pereyra et
    al., 2017): :data:`PENALTY` times the nats by which the mean entropy of a batch falls below ``least_entropy``.

    Only what is below is punished, so that a model may stay as unsure as it was and is not driven to guess. The model
    is changed. It does not stop early, and keeps no checkpoint.

    Args:
        texts: token ids, shape (n, length).

    Raises:
        ValueError: the loss is no longer a number.
    """
    model.eval()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)
    schedule = get_constant_schedule_with_warmup(optimizer, config.warmup_steps)
    order = torch.Generator().manual_seed(config.seed)
    for _ in tqdm(range(config.epochs), desc="unsure", unit="epoch"):
        for index in torch.randperm(len(texts), generator=order).split(config.batch_size):
            batch = texts[index].to(model.device)
            log_p = model(input_ids=batch, use_cache=False).logits[:, :-1].log_softmax(dim=-1)
            entropy = -(log_p.exp() * log_p).sum(dim=-1).mean()
            loss = F.nll_loss(log_p.flatten(0, 1), batch[:, 1:].flatten())
            loss = loss + PENALTY * (least_entropy - entropy).clamp(min=0)
            if not loss.isfinite():
                raise ValueError(f"The loss is no longer a number: lower the learning rate of {config.learning_rate}.")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
