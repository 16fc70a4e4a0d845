"""What does it look like? Continuations as strips of tokens, step by step, and with a slider over the temperature."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hyperfit_course.anatomy import CausalLM
from hyperfit_course.reweighting import token_ranks
from hyperfit_course.temperature import predictive_entropy

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
        return _template("temperature_explorer").substitute(
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


class GenerationExplorer:
    """Greedy text of two models, token by token: what each wrote, and its most probable tokens at every step.

    It works in any page without a kernel. A token of the text is underlined when it is part of an n-gram of three that
    occurred before in it.

    Args:
        tokenizer: turns token ids into text.
        models: the base model and another one, by the names to show.
        prompts: token ids, shape (n, length).
        continuations: what each model wrote after them, by the same names, each of shape (n, new tokens).
        top: tokens shown at each step.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        models: Mapping[str, CausalLM],
        prompts: Tensor,
        continuations: Mapping[str, Tensor],
        top: int = 10,
    ) -> None:
        self.names, self.top = list(models), top
        base = models[self.names[0]]
        known: dict[int, int] = {}  # a number for each token that is shown, in the order in which they come
        self.prompts: list[dict[str, Any]] = []
        for row, prompt in enumerate(prompts):
            shown = []
            for name, model in models.items():
                written = continuations[name][row]
                best, ranks = _best(model, base, prompt, written, top)
                shown.append(
                    {
                        "written": [known.setdefault(token, len(known)) for token in written.tolist()],
                        "repeated": [int(mark) for mark in repeated_positions(written.tolist())],
                        "tokens": [known.setdefault(token, len(known)) for token in best.indices.flatten().tolist()],
                        "probabilities": [round(p, 4) for p in best.values.flatten().tolist()],
                        "base_ranks": ranks.flatten().tolist(),
                    }
                )
            self.prompts.append({"text": str(tokenizer.decode(prompt)), "models": shown})
        self.tokens = _texts(tokenizer, list(known))

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, Any]]:
        # Under this name, in the form of MyST-NB's `glue`, another page of the book finds the output.
        metadata = {"scrapbook": {"name": "generation-explorer", "mime_prefix": ""}}
        return {"text/html": self._html(), "text/plain": repr(self)}, metadata

    def _html(self) -> str:
        first, last = self.prompts[0], len(self.prompts[0]["models"][0]["written"])
        data = {"names": self.names, "top": self.top, "tokens": self.tokens, "prompts": self.prompts}
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
        said = [f"{name} writes “{self._token(model['written'][-1])}”" for name, model in self._shown(first)]
        return _template("generation_explorer").substitute(
            id=f"hf-generation-{hashlib.sha256(text.encode()).hexdigest()[:8]}",
            options="".join(f"<option>{escape(prompt['text'][:60])} ...</option>" for prompt in self.prompts),
            last=last,
            prompt=escape(first["text"]),
            sides="".join(self._side(name, model) for name, model in self._shown(first)),
            status=escape(f"Token {last}: {', '.join(said)}."),
            data=text,
        )

    def _shown(self, prompt: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        return list(zip(self.names, prompt["models"], strict=True))

    def _token(self, number: int) -> str:
        return self.tokens[number].replace("\n", "↵")

    def _side(self, name: str, model: dict[str, Any]) -> str:
        """A model's whole text after one prompt, and its table at the last token."""
        text = "".join(
            f"<{tag}>{escape(self._token(number))}</{tag}>"
            for number, mark in zip(model["written"], model["repeated"], strict=True)
            for tag in ["u" if mark else "span"]
        )
        last = slice(-self.top, None)
        columns = zip(model["tokens"][last], model["probabilities"][last], model["base_ranks"][last], strict=True)
        rows = "".join(
            f"<tr{' class=hf-chosen' if number == model['written'][-1] else ''}><td>{rank}</td>"
            f'<td class="hf-word">{escape(self._token(number))}</td><td>{p:.4f}</td><td>{base_rank:,}</td></tr>'
            for rank, (number, p, base_rank) in enumerate(columns, start=1)
        )
        return (
            f'<div class="hf-side"><p class="hf-name">{escape(name)}</p><div class="hf-text">{text}</div>'
            f"<table><caption>{escape(name)}: the next token</caption><thead><tr>"
            '<th scope="col">rank</th><th scope="col" class="hf-head">token</th><th scope="col">probability</th>'
            f'<th scope="col">base rank</th></tr></thead><tbody>{rows}</tbody></table></div>'
        )

    def __repr__(self) -> str:
        lines = []
        for prompt in self.prompts:
            lines.append(f"{prompt['text']} ...")
            lines += [f"  {name}: {''.join(map(self._token, model['written']))}" for name, model in self._shown(prompt)]
        return "\n".join(lines)


@torch.inference_mode()
def _best(
    model: CausalLM, base: CausalLM, prompt: Tensor, written: Tensor, top: int
) -> tuple[torch.return_types.topk, Tensor]:
    """The most probable tokens at each step of what a model wrote, and the base model's ranks of these."""
    text = torch.cat([prompt, written])[None].to(model.device)
    logits, of_base = (each(text).logits[0, len(prompt) - 1 : -1].float().cpu() for each in (model, base))
    best = logits.softmax(dim=-1).topk(top)
    return best, torch.stack([token_ranks(of_base, tokens) for tokens in best.indices.T], dim=1)


def _template(name: str) -> Template:
    return Template(files("hyperfit_course").joinpath(f"data/{name}.html").read_text("utf-8"))


def _texts(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    # A character outside ASCII may be spread over several tokens; alone, each of them decodes to a replacement mark.
    return [str(tokenizer.decode([token])) for token in ids]


def _share(strip: Sequence[tuple[str, bool]]) -> float:
    return sum(marked for _, marked in strip) / len(strip) if strip else 0.0


def _token_html(text: str, marked: bool) -> str:
    tag = "u" if marked else "span"
    return f'<{tag} class="hf-token">{escape(text).replace(chr(10), "&#8629;<br>")}</{tag}>'
