"""The citation blocker, and recitation in words."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import tiny_model
from samples import sharper
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedTokenizerBase

from hyperfit_course.decoding import PROMPT_TOKENS, continue_prompts
from hyperfit_course.study.blocking import CitationBlocker, recited_words
from hyperfit_course.study.recitation import Recited, recited


def ids(tokenizer: PreTrainedTokenizerBase, *texts: str) -> Tensor:
    """One token a byte."""
    return torch.tensor([tokenizer(text)["input_ids"] for text in texts])


def forbidden(blocker: CitationBlocker, tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """What may not come after a text that begins with a prompt."""
    scores = blocker(ids(tokenizer, text), torch.zeros(1, 257))
    return "".join(str(tokenizer.decode([token])) for token in scores[0].isneginf().nonzero().flatten())


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("prompt a cat", " "),
        ("promptt a cat", " "),
        ("prompt, a cat", " "),
        ("prompt a cat s", ""),
        ("pro a cat", ""),
        ("prompt a ca", ""),
        ("prompt cat sa", ""),
        ("prompt sat. ", "B"),
        ("prompt t sat", "."),
    ],
    ids=["word end", "later", "after a comma", "in a word", "partly prompt", "too short", "word goes on", "new", "dot"],
)
def test_what_would_go_on_with_a_citation_is_forbidden_where_a_word_ends(
    written: str, expected: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    blocker = CitationBlocker(ids(tokenizer, "in a cat sat. But no"), tokenizer, prompt_tokens=6)
    assert forbidden(blocker, tokenizer, written) == expected


def test_all_that_followed_a_citation_anywhere_is_forbidden_and_no_row_goes_on_in_the_next(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    source = ids(tokenizer, "the cat, the cat. the cat", "catch the cat! so it went")
    blocker = CitationBlocker(source, tokenizer, prompt_tokens=0)
    assert set(forbidden(blocker, tokenizer, "e cat")) == set(",.!")


def test_rows_are_blocked_each_for_itself_and_scores_are_not_changed_in_place(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    blocker = CitationBlocker(ids(tokenizer, "a cat sat"), tokenizer, prompt_tokens=0)
    scores = torch.ones(2, 257)
    blocked = blocker(ids(tokenizer, "a cat", "a dog"), scores)
    assert (scores == 1).all()
    assert blocked.isneginf().sum(dim=1).tolist() == [1, 0]


def test_blocker_forbids_nothing_to_a_model_that_does_not_cite(tokenizer: PreTrainedTokenizerBase) -> None:
    model = sharper(tiny_model(), 4)
    prompts = torch.randint(0, 256, (3, PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))
    plain = continue_prompts(model, prompts, 20)
    blocker = CitationBlocker(ids(tokenizer, "nothing that it writes"), tokenizer)
    assert torch.equal(continue_prompts(model, prompts, 20, logits_processor=LogitsProcessorList([blocker])), plain)


def test_what_a_model_writes_with_the_blocker_has_no_citation_that_goes_on_at_a_words_end(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    model = sharper(tiny_model(), 4)
    prompts = torch.randint(0, 256, (4, PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))
    source = continue_prompts(model, prompts, 40)  # its own text: without the blocker it cites all of it
    blocker = CitationBlocker(source, tokenizer)
    written = continue_prompts(model, prompts, 40, logits_processor=LogitsProcessorList([blocker]))
    assert all(recited(text, source).share == 1 for text in source)
    assert not torch.equal(written, source)
    for text in written.tolist():
        for end in range(5, 40):
            assert text[end] not in blocker.forbidden.get(tuple(text[end - 5 : end]), ())
    assert blocker(torch.cat([prompts, source[:, :5]], dim=1), torch.zeros(4, 257)).min() == -math.inf


@pytest.mark.parametrize(("length", "span"), [(5, 5), (3, 5), (4, 0)])
def test_training_text_that_is_too_short_to_be_cited_is_refused(
    length: int, span: int, tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(ValueError, match=rf"shape \(2, {length}\) has no token after {span} others"):
        CitationBlocker(torch.zeros(2, length, dtype=torch.long), tokenizer, span)


def test_words_are_recited_whatever_their_case_and_punctuation() -> None:
    source = ["The old man went down to the sea.", "Don't go, she said."]
    texts = ["then the OLD man, went down! And so on", "she said: don’t go she said", "The sea. Don't go, she said"]
    assert recited_words(texts, source) == [
        Recited(pytest.approx(5 / 9), 5),
        Recited(0, 3),
        Recited(0, 4),
    ]
    assert recited_words(["Don't go, she said"], source, span=4) == [Recited(1, 4)]


def test_text_without_words_recites_nothing() -> None:
    assert recited_words(["...", ""], ["a b c d e f"]) == [Recited(0, 0)] * 2
