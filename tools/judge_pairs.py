"""Write the texts that the page "Judge for yourself" shows: recorded ones, and what the authors wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyperfit_course.corpora import load_corpus, make_texts
from hyperfit_course.decoding import PROMPT_TOKENS
from hyperfit_course.models import load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "book" / "_static" / "judge" / "pairs.html"
CORPORA = ("tales", "news")
SHOWN = 15
"""Prompts of each corpus."""
COMPARISONS = (
    ("Both greedy: hyperfitted or base", "hyperfitted", "base"),
    ("Both sampled, equally sharp: hyperfitted or base", "hyperfitted sampled", "base at T*"),
    ("Greedy hyperfitted or plainly sampled base", "hyperfitted", "base sampled"),
    ("Greedy hyperfitted or the author", "hyperfitted", "author"),
)
"""Names, and which two texts are compared: the hyperfitted model's first."""

Row = dict[str, Any]
WAYS: dict[str, tuple[str, Callable[[Row], bool]]] = {
    "base": ("full_arms", lambda row: row["arm"] == "base"),
    "hyperfitted": ("full_arms", lambda row: row["arm"] == "hyperfitted" and row["trained_on"] == "tales"),
    "base at T*": ("sampled", lambda row: row["way"] == "base at T*"),
    "hyperfitted sampled": ("sampled", lambda row: row["way"] == "hyperfitted"),
    "base sampled": ("order_and_shape", lambda row: row["order"] == row["shape"] == "base"),
}
"""Where a way to write is recorded, and which rows there are its own; the first of them with seed 0 is shown."""


def recorded(way: str, corpus: str) -> list[list[int]] | None:
    """One text a prompt, written after the prompts from a corpus; nothing if none was recorded."""
    file, is_wanted = WAYS[way]
    lines = (ROOT / "results" / "texts" / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["prompts"] == corpus and row["seed"] == 0 and is_wanted(row)]
    if not rows:
        return None
    texts: list[list[int]] = rows[0]["continuations"]
    prompts = len(make_texts(load_corpus(corpus), load_tokenizer())["prompts"])
    return texts[:: len(texts) // prompts][:SHOWN]


def pairs() -> Row:
    """Prompts, texts by their kind (``None`` where there is none), and the comparisons."""
    tokenizer = load_tokenizer()
    prompts: list[str] = []
    texts: dict[str, list[str | None]] = {kind: [] for kind in [*WAYS, "author"]}
    for corpus in CORPORA:
        rows = make_texts(load_corpus(corpus), tokenizer)["prompts"][:SHOWN]
        prompts += tokenizer.batch_decode(rows[:, :PROMPT_TOKENS])
        texts["author"] += tokenizer.batch_decode(rows[:, PROMPT_TOKENS:])
        for way in WAYS:
            found = recorded(way, corpus)
            texts[way] += tokenizer.batch_decode(found) if found else [None] * SHOWN
    comparisons = [{"name": name, "of": of, "over": over} for name, of, over in COMPARISONS]
    return {"prompts": prompts, "texts": texts, "comparisons": comparisons}


def page_part() -> str:
    """The pairs as a part of the page, which a browser reads without a request. No text can end the element early."""
    content = json.dumps(pairs(), ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="judge-pairs">\n{content}\n</script>\n'


def main() -> None:
    """Write book/_static/judge/pairs.html."""
    TARGET.write_text(page_part(), encoding="utf-8")


if __name__ == "__main__":
    main()
