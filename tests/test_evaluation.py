from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
import pytest
import torch
import torch.utils._pytree as pytree
from conftest import FAMILIES, tiny_model
from samples import random_splits, sharper
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from hyperfit_course import evaluation, losses, training
from hyperfit_course.decoding import continue_prompts
from hyperfit_course.evaluation import evaluate, history_frame
from hyperfit_course.training import HyperfitConfig, hyperfit


@pytest.fixture(autouse=True)
def short_continuations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "NEW_TOKENS", 8)


@pytest.fixture
def splits() -> dict[str, Tensor]:
    return random_splits()


@pytest.fixture
def model() -> PreTrainedModel:
    return sharper(tiny_model(), 3)


def losses_and_entropies(model: PreTrainedModel, texts: Tensor) -> Tensor:
    """The model's own next-token loss and the entropy of its distributions, text by text, shape (n, 2)."""
    rows = []
    for text in texts:
        with torch.no_grad():
            output = model(input_ids=text[None], labels=text[None])
        logarithms = output.logits[0, :-1].double().log_softmax(dim=-1)
        rows.append([output.loss.item(), -(logarithms.exp() * logarithms).sum(dim=-1).mean().item()])
    return torch.tensor(rows, dtype=torch.float64)


def test_evaluation_gives_json_values_with_the_greedy_continuations_themselves(
    model: PreTrainedModel, splits: dict[str, Tensor]
) -> None:
    splits = splits | {"prompts": torch.cat([splits["prompts"], splits["validation"]]).repeat(1, 2)}
    values = evaluate(model, splits, n_prompts=3)
    assert json.loads(json.dumps(values)) == values
    assert values.keys() == {"train_loss", "validation_loss", "entropy", "continuations"}
    expected = continue_prompts(model, splits["prompts"][:3, :32], 8)
    assert values["continuations"] == expected.tolist()
    assert expected.shape == (3, 8)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_losses_and_entropy_are_means_over_the_texts(
    model: PreTrainedModel, splits: dict[str, Tensor], batch_size: int
) -> None:
    values = evaluate(model, splits, n_prompts=1, batch_size=batch_size)
    assert values["train_loss"] == pytest.approx(
        losses_and_entropies(model, splits["train"])[:, 0].mean().item(), rel=1e-4
    )
    loss, entropy = losses_and_entropies(model, splits["validation"]).mean(dim=0).tolist()
    assert values["validation_loss"] == pytest.approx(loss, rel=1e-4)
    assert values["entropy"] == pytest.approx(entropy, rel=1e-4)


class LargestTensor(TorchDispatchMode):
    """Notes how many numbers the largest tensor holds that is made in the block."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(made):
            self.numbers = max(self.numbers, tensor.numel() if isinstance(tensor, Tensor) else 0)
        return made


def test_evaluation_never_holds_the_logits_of_all_positions(
    splits: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A vocabulary that is large beside everything else in the model.
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=5000, max_position_embeddings=512, **sizes)).eval()
    for module in (evaluation, losses):
        monkeypatch.setattr(module, "CHUNK", 16)
    monkeypatch.setattr(losses.linear_cross_entropy, "__defaults__", (16,))
    long = {"train": splits["train"].repeat(1, 8), "validation": splits["validation"].repeat(1, 8)}
    with LargestTensor() as largest:
        values = evaluate(model, splits | long, n_prompts=1)
    assert largest.numbers <= 16 * 5000, "of 255 positions"
    expected = losses_and_entropies(model, long["validation"]).mean(dim=0).tolist()
    assert [values["validation_loss"], values["entropy"]] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", ["gemma", "gpt2"])
def test_losses_of_heads_that_are_not_plain_are_means_too(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "CHUNK", 5)
    texts = torch.randint(0, 64, (3, 16), generator=torch.Generator().manual_seed(3))
    model = FAMILIES[family]()
    values = evaluate(model, {"train": texts, "validation": texts, "prompts": texts.repeat(1, 2)}, n_prompts=1)
    expected = losses_and_entropies(model, texts).mean(dim=0).tolist()
    assert [values["validation_loss"], values["entropy"]] == pytest.approx(expected, rel=1e-4)


def test_evaluation_leaves_no_gradients_and_changes_no_weight(
    model: PreTrainedModel, splits: dict[str, Tensor]
) -> None:
    before = [parameter.clone() for parameter in model.parameters()]
    evaluate(model, splits, n_prompts=1)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


# The history

ROWS = [
    {"epoch": 0, "seconds": 0.0, "train_loss": 5.0, "continuations": [[1, 2, 3, 4], [5, 5, 5, 5]]},
    {"epoch": 1, "seconds": 2.0, "running_loss": 4.0},
    {"epoch": 2, "seconds": 2.5, "running_loss": 3.0, "train_loss": 2.0, "continuations": [[1, 2, 1, 2], [7, 7, 8, 8]]},
]


def test_history_has_the_repetition_of_the_texts_of_evaluated_epochs_only() -> None:
    history = history_frame(ROWS)
    assert history["epoch"].tolist() == [0, 1, 2]
    # Types of 4 tokens: 4 and 1, then 2 and 2. Distinct bigrams of 3: 3 and 1, then 2 and 3.
    assert history["ttr"].tolist() == pytest.approx([5 / 8, math.nan, 1 / 2], nan_ok=True)
    assert history["bigram_repetition"].tolist() == pytest.approx([1 / 3, math.nan, 1 / 6], nan_ok=True)
    assert history["train_loss"].tolist() == pytest.approx([5, math.nan, 2], nan_ok=True)
    assert history["running_loss"].tolist() == pytest.approx([math.nan, 4, 3], nan_ok=True)


def test_history_has_no_texts_and_leaves_the_rows_as_they_were() -> None:
    before = json.dumps(ROWS)
    assert set(history_frame(ROWS)) == {
        "epoch",
        "seconds",
        "running_loss",
        "train_loss",
        "ttr",
        "bigram_repetition",
    }
    assert json.dumps(ROWS) == before


def test_run_without_evaluations_but_the_last_has_its_repetition_there_only(splits: dict[str, Tensor]) -> None:
    history = hyperfit(tiny_model(), splits, HyperfitConfig(epochs=2, evaluate_every=0, evaluation_prompts=2))
    assert history["ttr"].isna().tolist() == [True, True, False]
    assert history["bigram_repetition"].isna().tolist() == [True, True, False]


def test_another_metric_changes_the_history_of_a_kept_run_and_trains_nothing(
    splits: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = HyperfitConfig(epochs=3, learning_rate=5e-3, evaluate_every=2, evaluation_prompts=2)
    first, second = tiny_model(), tiny_model()
    before = hyperfit(first, splits, config)
    assert before["ttr"].isna().tolist() == [False, True, False, False]

    monkeypatch.setattr("hyperfit_course.metrics.type_token_ratio", lambda tokens: 40.0 + len(tokens))
    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("it trained again"))
    after = hyperfit(second, splits, config)
    assert after["ttr"].tolist() == pytest.approx([48, math.nan, 48, 48], nan_ok=True)
    pd.testing.assert_frame_equal(after.drop(columns="ttr"), before.drop(columns="ttr"))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
