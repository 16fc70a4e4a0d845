from __future__ import annotations

import math
import re

import pytest
import torch
from conftest import tiny_model
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hyperfit_course.decoding import continue_prompts
from hyperfit_course.display import Continuations, GenerationExplorer, TemperatureExplorer, repeated_positions


def marked(tokens: str, n: int = 3) -> str:
    marks = repeated_positions([ord(letter) for letter in tokens], n)
    return "".join(letter if mark else "." for letter, mark in zip(tokens, marks, strict=True))


@pytest.mark.parametrize(
    ("tokens", "n", "expected"),
    [
        ("abcdabc", 3, "....abc"),  # the first occurrence is not marked
        ("abcabd", 3, "......"),
        ("abcxabcyabc", 3, "....abc.abc"),
        ("abababa", 3, "..ababa"),  # the repeated 3-grams overlap the first ones, and each other
        ("aaaaa", 3, ".aaaa"),
        ("abab", 2, "..ab"),
        ("abca", 1, "...a"),
        ("cbaabc", 3, "......"),
        ("ab", 3, ".."),
        ("", 3, ""),
    ],
)
def test_marks_exactly_the_tokens_of_ngrams_that_occurred_before(tokens: str, n: int, expected: str) -> None:
    assert marked(tokens, n) == expected


def ids(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    return torch.tensor(tokenizer(text)["input_ids"])


def show(tokenizer: PreTrainedTokenizerBase, prompt: str, n: int = 3, **continuations: str) -> Continuations:
    strips = {label: ids(tokenizer, text) for label, text in continuations.items()}
    return Continuations(tokenizer, ids(tokenizer, prompt), strips, n)


def tokens_of(html: str) -> list[tuple[str, str]]:
    return re.findall(r'<(u|span) class="hf-token">(.*?)</\1>', html)


def test_html_underlines_the_marked_tokens_and_no_other(tokenizer: PreTrainedTokenizerBase) -> None:
    html = show(tokenizer, "Once", plain="abcdabc")._repr_html_()
    tags, texts = zip(*tokens_of(html), strict=True)
    assert texts == tuple("abcdabc")
    assert tags == ("span",) * 4 + ("u",) * 3
    assert "(43% of the tokens in repeated 3-grams)" in html


def test_html_is_escaped_everywhere(tokenizer: PreTrainedTokenizerBase) -> None:
    strips = {"<i>label</i>": ids(tokenizer, "<b>&")}
    html = Continuations(tokenizer, ids(tokenizer, "<script>"), strips)._repr_html_()
    assert [text for _, text in tokens_of(html)] == ["&lt;", "b", "&gt;", "&amp;"]
    assert "&lt;script&gt;" in html
    assert "&lt;i&gt;label&lt;/i&gt;" in html
    assert not re.search("<(b|i|script)>", html)


def test_html_shows_line_breaks(tokenizer: PreTrainedTokenizerBase) -> None:
    html = show(tokenizer, "Once", plain="a\nb")._repr_html_()
    assert [text for _, text in tokens_of(html)] == ["a", "&#8629;<br>", "b"]


def test_html_has_a_strip_a_model_in_their_order(tokenizer: PreTrainedTokenizerBase) -> None:
    html = show(tokenizer, "Once", plain="aaaa", tuned="abcd")._repr_html_()
    assert re.findall(r'hf-label">(\w+) \((\d+%)', html) == [("plain", "75%"), ("tuned", "0%")]
    assert html.count("<div") == html.count("</div>")


def test_text_puts_runs_of_marked_tokens_in_brackets(tokenizer: PreTrainedTokenizerBase) -> None:
    text = repr(show(tokenizer, "Once", plain="abcxabcyabc", tuned="abcdabcz"))
    assert text == "Once ...\n\nplain: abcx[abc]y[abc]\n\ntuned: abcd[abc]z"


def test_length_of_the_ngrams_is_the_one_asked_for(tokenizer: PreTrainedTokenizerBase) -> None:
    shown = show(tokenizer, "Once", n=2, plain="abxab")
    assert repr(shown).endswith("plain: abx[ab]")
    assert "(40% of the tokens in repeated 2-grams)" in shown._repr_html_()


@pytest.mark.parametrize("continuation", ["ab", "a"])
def test_continuation_shorter_than_an_ngram_has_no_marks(tokenizer: PreTrainedTokenizerBase, continuation: str) -> None:
    shown = show(tokenizer, "Once", plain=continuation)
    assert repr(shown) == f"Once ...\n\nplain: {continuation}"
    assert "(0% of the tokens" in shown._repr_html_()


def test_empty_continuation_is_shown_as_empty(tokenizer: PreTrainedTokenizerBase) -> None:
    shown = Continuations(tokenizer, ids(tokenizer, "Once"), {"plain": torch.tensor([], dtype=torch.long)})
    assert repr(shown) == "Once ...\n\nplain: "
    assert tokens_of(shown._repr_html_()) == []


def test_bytes_of_one_character_are_shown_token_by_token(tokenizer: PreTrainedTokenizerBase) -> None:
    html = show(tokenizer, "Once", plain="né")._repr_html_()
    assert len(tokens_of(html)) == 3  # the é is two bytes, so two tokens


# Generation explorer


@pytest.fixture
def generation(tokenizer: PreTrainedTokenizerBase) -> GenerationExplorer:
    models = {"base": tiny_model(seed=0), "hyperfitted": tiny_model(seed=1)}
    prompts = torch.randint(3, 250, (2, 6), generator=torch.Generator().manual_seed(0))
    written = {name: continue_prompts(model, prompts, 12) for name, model in models.items()}
    return GenerationExplorer(tokenizer, models, prompts, written, top=4)


def test_generation_shows_what_was_written_and_how_sure_the_model_was(
    generation: GenerationExplorer, tokenizer: PreTrainedTokenizerBase
) -> None:
    models = {"base": tiny_model(seed=0), "hyperfitted": tiny_model(seed=1)}
    prompts = torch.randint(3, 250, (2, 6), generator=torch.Generator().manual_seed(0))
    for prompt, shown in zip(prompts, generation.prompts, strict=True):
        for model, side in zip(models.values(), shown["models"], strict=True):
            text = prompt
            for step, number in enumerate(side["written"]):
                logits, of_base = (each(text[None]).logits[0, -1].detach() for each in (model, models["base"]))
                best = logits.topk(4)
                place = slice(4 * step, 4 * step + 4)
                assert [generation.tokens[n] for n in side["tokens"][place]] == [
                    tokenizer.decode([token]) for token in best.indices.tolist()
                ]
                assert side["probabilities"][place] == pytest.approx(
                    logits.softmax(-1)[best.indices].tolist(), abs=1e-4
                )
                order = of_base.argsort(descending=True).tolist()
                assert side["base_ranks"][place] == [order.index(token) + 1 for token in best.indices.tolist()]
                logits[tiny_model().generation_config.eos_token_id] = -torch.inf
                assert generation.tokens[number] == tokenizer.decode([logits.argmax().item()])
                text = torch.cat([text, logits.argmax()[None]])


def test_generation_escapes_what_the_texts_hold(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = torch.tensor(tokenizer("</script><b>")["input_ids"])
    models = {"base": tiny_model(), "hyperfitted": tiny_model()}
    shown = GenerationExplorer(tokenizer, models, ids[None], dict.fromkeys(models, ids[None]), top=2)
    page = shown._repr_mimebundle_()[0]["text/html"]
    assert "<b>" not in page
    assert page.count("</script>") == page.count("<script")


def test_generation_is_readable_as_text(generation: GenerationExplorer) -> None:
    lines = repr(generation).splitlines()
    assert len(lines) == 2 * 3
    assert lines[1].startswith("  base: ")


# Temperature explorer


@pytest.fixture
def explorer(tokenizer: PreTrainedTokenizerBase) -> TemperatureExplorer:
    base = torch.randn(257, generator=torch.Generator().manual_seed(0))
    return TemperatureExplorer(tokenizer, torch.tensor([65, 60]), base, base.flip(0), top=5)


def test_explorer_holds_exact_probabilities_for_every_temperature(explorer: TemperatureExplorer) -> None:
    base = torch.randn(257, generator=torch.Generator().manual_seed(0))
    for model, logits in zip(explorer.models, (base, base.flip(0)), strict=True):
        for step, temperature in enumerate(explorer.temperatures):
            shown = [math.exp(row["logit"] / temperature - model["log_totals"][step]) for row in model["rows"]]
            assert shown == pytest.approx((logits / temperature).softmax(-1).topk(5).values.tolist(), rel=1e-3)


def test_explorer_gives_the_base_rank_of_each_token(explorer: TemperatureExplorer) -> None:
    base = torch.randn(257, generator=torch.Generator().manual_seed(0))
    order = base.argsort(descending=True).tolist()
    tuned_top = base.flip(0).topk(5).indices.tolist()
    assert [row["base_rank"] for row in explorer.models[0]["rows"]] == [1, 2, 3, 4, 5]
    assert [row["base_rank"] for row in explorer.models[1]["rows"]] == [order.index(token) + 1 for token in tuned_top]


def test_explorer_escapes_what_the_texts_hold(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = torch.tensor(tokenizer("</script><b>")["input_ids"])
    logits = torch.zeros(257)
    logits[ids] = 5.0
    page = TemperatureExplorer(tokenizer, ids, logits, logits)._repr_html_()
    assert "<b>" not in page
    assert page.count("</script>") == page.count("<script")


def test_explorer_is_readable_as_text(explorer: TemperatureExplorer) -> None:
    lines = repr(explorer).splitlines()
    assert len(lines) == 1 + 2 * 6
    assert lines[0].startswith("After: ")
