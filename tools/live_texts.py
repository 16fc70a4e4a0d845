"""Write the texts that the live page and the front page show: twelve prompts, and two recorded texts that grow."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from hyperfit_course.corpora import load_corpus, make_texts
from hyperfit_course.decoding import PROMPT_TOKENS
from hyperfit_course.display import repeated_positions
from hyperfit_course.models import load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
STATIC = ROOT / "book" / "_static"
OFFERED = 12
GROWING = 60
"""Tokens that grow on the front page: at 80 ms each they are there before five seconds are over."""
ARMS = {"base": "Base model", "hyperfitted": "The same model, hyperfitted"}


def recorded(arm: str) -> list[int]:
    """What an arm of chapter 02 wrote after the first prompt, with seed 0."""
    lines = (ROOT / "results" / "texts" / "full_arms.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["prompts"] == "tales" and row["seed"] == 0]
    return next(row for row in rows if row["arm"] == arm and row["trained_on"] != "news")["continuations"][0]


def growing(prompt: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Both texts as HTML, each token with its number, by which the style sheet lets it appear."""
    sides = ""
    for arm, name in ARMS.items():
        tokens = recorded(arm)[:GROWING]
        words = "".join(
            f'<{tag} style="--i:{number}">{escape(str(tokenizer.decode([token]))).replace(chr(10), "↵")}</{tag}>'
            for number, (token, mark) in enumerate(zip(tokens, repeated_positions(tokens), strict=True))
            for tag in ["u" if mark else "span"]
        )
        sides += f'<div class="hf-strip"><p class="hf-label">{name}</p><p class="hf-words">{words}</p></div>\n'
    return f'<div class="hf-growing">\n<p>After <q>{escape(prompt)}</q></p>\n{sides}</div>\n'


def main() -> None:
    """Write book/_static/live/prompts.json and book/_static/growing.html."""
    tokenizer = load_tokenizer()
    prompts = make_texts(load_corpus("tales"), tokenizer)["prompts"][:, :PROMPT_TOKENS]
    texts = [str(text) for text in tokenizer.batch_decode(prompts)]
    listed = json.dumps(texts[:OFFERED], ensure_ascii=False, indent=1)
    (STATIC / "live" / "prompts.json").write_text(f"{listed}\n", encoding="utf-8")
    (STATIC / "growing.html").write_text(growing(texts[0], tokenizer), encoding="utf-8")


if __name__ == "__main__":
    main()
