"""What does it look like? Continuations as strips of tokens, and a slider over the temperature."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hyperfit_course.distributions import predictive_entropy, token_ranks

STYLE = """<style>
.hf-strips {display: flex; flex-wrap: wrap; gap: 1rem; margin: 0 0 1rem 0; align-items: flex-start;}
.hf-strip {flex: 1 1 18rem; min-width: 0; line-height: 1.7; overflow-wrap: anywhere;}
.hf-strip .hf-label {font-weight: 600;}
.hf-strip .hf-prompt {opacity: .75; font-style: italic;}
.hf-strip span.hf-token:nth-child(even) {background: rgba(128, 128, 128, .14);}
.hf-strip u.hf-token {background: rgba(230, 140, 0, .32); text-decoration: underline double;}
</style>"""


def repeated_positions(tokens: Sequence[int], n: int = 3) -> list[bool]:
    """For each token, whether it belongs to an n-gram that has occurred before in the sequence."""
    seen: set[tuple[int, ...]] = set()
    marks = [False] * len(tokens)
    for start in range(len(tokens) - n + 1):
        gram = tuple(tokens[start : start + n])
        if gram in seen:
            marks[start : start + n] = [True] * n
        seen.add(gram)
    return marks


class Continuations:
    """Continuations of one prompt side by side, one strip a model. Notebooks show it as HTML, terminals as text.

    A token is underlined (in text: in square brackets) when it is part of an n-gram that occurred before in the same
    continuation; colour only repeats that.

    Args:
        tokenizer: turns token ids into text.
        prompt: token ids of the prompt, shape (length,).
        continuations: a label and token ids, shape (new tokens,), for each strip.
        n: length of the n-grams.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt: Tensor, continuations: Mapping[str, Tensor], n: int = 3
    ) -> None:
        self.prompt = str(tokenizer.decode(prompt))
        self.n = n
        self.strips = {
            label: list(zip(_texts(tokenizer, ids.tolist()), repeated_positions(ids.tolist(), n), strict=True))
            for label, ids in continuations.items()
        }

    def _repr_html_(self) -> str:
        strips = "".join(
            f'<div class="hf-strip"><div class="hf-label">{escape(label)} '
            f"({_share(strip):.0%} of the tokens in repeated {self.n}-grams)</div><div>"
            + "".join(_token_html(text, marked) for text, marked in strip)
            + "</div></div>"
            for label, strip in self.strips.items()
        )
        prompt = f'<div class="hf-strip"><span class="hf-prompt">{escape(self.prompt)} &hellip;</span></div>'
        return f'{STYLE}<div class="hf-prompts">{prompt}</div><div class="hf-strips">{strips}</div>'

    def __repr__(self) -> str:
        lines = [f"{self.prompt} ..."]
        for label, strip in self.strips.items():
            text, open_ = "", False
            for piece, marked in strip:
                text += ("[" if marked and not open_ else "]" if open_ and not marked else "") + piece
                open_ = marked
            lines.append(f"{label}: {text}{']' if open_ else ''}")
        return "\n\n".join(lines)


class TemperatureExplorer:
    """A slider over the temperature of one next-token distribution, for two models side by side.

    It works in any page without a kernel: the top logits and, for each position of the slider, the logarithm of the
    sum over the whole vocabulary are in the page, so that the probabilities are exact.

    Args:
        tokenizer: turns token ids into text.
        context: token ids of the text so far, shape (length,).
        base_logits, tuned_logits: of the two models after that context, shape (vocabulary,).
        top: tokens shown for each model.

    Raises:
        ValueError: the vocabularies differ, or logits are not numbers.
    """

    temperatures = tuple(round(0.1 + 0.05 * step, 2) for step in range(39))

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context: Tensor,
        base_logits: Tensor,
        tuned_logits: Tensor,
        top: int = 8,
    ) -> None:
        self.context = str(tokenizer.decode(context))
        self.models: list[dict[str, Any]] = []
        for name, logits in {"base": base_logits, "hyperfitted": tuned_logits}.items():
            best = logits.float().topk(top)
            base_ranks = token_ranks(base_logits.expand(top, -1), best.indices)
            centred = logits.float() - best.values[0]  # small numbers: exact in the page's text
            words = _texts(tokenizer, best.indices.tolist())
            rows = zip(words, (best.values - best.values[0]).tolist(), base_ranks.tolist(), strict=True)
            self.models.append(
                {
                    "name": name,
                    "rows": [
                        {"token": word.replace("\n", "↵"), "logit": round(logit, 5), "base_rank": rank}
                        for word, logit, rank in rows
                    ],
                    "log_totals": [round((centred / t).logsumexp(-1).item(), 5) for t in self.temperatures],
                    "entropies": [round(predictive_entropy(logits, t).item(), 3) for t in self.temperatures],
                }
            )

    def _repr_html_(self) -> str:
        start = self.temperatures.index(1.0)
        data = json.dumps({"temperatures": self.temperatures, "models": self.models}).replace("<", "\\u003c")
        return Template(files("hyperfit_course").joinpath("data/explorer.html").read_text("utf-8")).substitute(
            id=f"hf-explorer-{hashlib.sha256(data.encode()).hexdigest()[:8]}",
            context=escape(self.context),
            last=len(self.temperatures) - 1,
            start=start,
            temperature="1.00",
            tables="".join(_explorer_table(model, start) for model in self.models),
            data=data,
        )

    def __repr__(self) -> str:
        start = self.temperatures.index(1.0)
        lines = [f"After: {self.context}"]
        for model in self.models:
            lines.append(f"{model['name']}, T = 1, entropy {model['entropies'][start]:.2f} nats")
            for rank, row in enumerate(model["rows"], start=1):
                p = math.exp(row["logit"] - model["log_totals"][start])
                lines.append(f"  {rank} {row['token']!r} {p:.4f} (base rank {row['base_rank']})")
        return "\n".join(lines)


def _explorer_table(model: dict[str, Any], start: int) -> str:
    rows = "".join(
        f'<tr><td>{rank}</td><td class="hf-word">{escape(row["token"])}</td><td><span>{p:.4f}</span>'
        f'<div class="hf-bar" style="width: {100 * p:.1f}%"></div></td><td>{row["base_rank"]}</td></tr>'
        for rank, row in enumerate(model["rows"], start=1)
        for p in [math.exp(row["logit"] - model["log_totals"][start])]
    )
    return (
        f'<table class="hf-side"><caption>{escape(model["name"])}, entropy '
        f'<span class="hf-entropy">{model["entropies"][start]:.2f}</span> nats</caption><thead><tr>'
        '<th scope="col">rank</th><th scope="col">token</th><th scope="col">probability</th>'
        f'<th scope="col">base rank</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _texts(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    # A character outside ASCII may be spread over several tokens; alone, each of them decodes to a replacement mark.
    return [str(tokenizer.decode([token])) for token in ids]


def _share(strip: Sequence[tuple[str, bool]]) -> float:
    return sum(marked for _, marked in strip) / len(strip) if strip else 0.0


def _token_html(text: str, marked: bool) -> str:
    tag = "u" if marked else "span"
    return f'<{tag} class="hf-token">{escape(text).replace(chr(10), "&#8629;<br>")}</{tag}>'
