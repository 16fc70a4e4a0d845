"""What the second model reads: whose texts, which of their tokens, and that the rows are of the recorded texts."""

from __future__ import annotations

from collections import Counter

import pytest
import second_reader
import torch
from conftest import tiny_model
from transformers import PreTrainedTokenizerBase

from hyperfit_course.study.records import recorded

ROWS = recorded("second_reader")


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference comes from a corpus and a tokenizer, which would be loaded for it."""
    monkeypatch.setattr(second_reader, "held_out", lambda corpus: torch.zeros(30, 128, dtype=torch.long))


def test_likelihood_is_that_of_the_written_tokens_after_the_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    model, prompts, written = tiny_model(), ["once", "a fox"], [" upon", " ran"]
    found = second_reader.likelihood_of_texts(prompts, written, model, tokenizer)
    for prompt, text, value in zip(prompts, written, found, strict=True):
        ids = tokenizer(prompt + text, return_tensors="pt")["input_ids"]  # a token a byte
        with torch.no_grad():
            log_p = model(input_ids=ids).logits[0].log_softmax(-1)
        expected = sum(log_p[place - 1, ids[0, place]].item() for place in range(len(prompt), len(prompt + text)))
        assert value == pytest.approx(expected, rel=1e-5)


def test_a_token_over_the_end_of_the_prompt_counts_for_what_is_written() -> None:
    read = {"input_ids": torch.tensor([[1, 2, 3]]), "offset_mapping": torch.tensor([[[0, 2], [2, 5], [5, 6]]])}
    in_three_tokens = lambda text, **options: read  # noqa: E731
    model = tiny_model()
    alone = second_reader.likelihood_of_texts(["abcde"], ["f"], model, in_three_tokens)
    both = second_reader.likelihood_of_texts(["abc"], ["def"], model, in_three_tokens)
    log_p = model(input_ids=read["input_ids"]).logits[0].log_softmax(-1)
    assert alone == pytest.approx([log_p[1, 3].item()], rel=1e-5)
    assert both == pytest.approx([(log_p[0, 2] + log_p[1, 3]).item()], rel=1e-5)


def test_every_writer_is_read_with_all_of_its_seeds() -> None:
    found = Counter(task.configuration["writer"] for task in second_reader.tasks())
    assert found == {"reference": 1} | dict.fromkeys(second_reader.WRITERS, 1) | {"hyperfitted": 5}


def test_committed_rows_are_those_of_the_tasks_and_of_the_recorded_texts() -> None:
    assert ROWS[0]["writer"] == "reference"
    assert [row["configuration"] for row in ROWS[1:]] == [task.configuration for task in second_reader.tasks()[1:]]
    rows_of = {(row["writer"], row["seed"]): row for row in ROWS}
    for writer, (name, wanted) in second_reader.WRITERS.items():
        for row in recorded(name):
            if {key: row[key] for key in wanted} == wanted and row["prompts"] == "tales":
                mine = rows_of[writer, row.get("seed", 0)]["base_likelihood_of_prompts"]
                assert mine == pytest.approx(row["base_likelihood_of_prompts"], abs=1e-3)
