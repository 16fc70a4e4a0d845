"""What does it look like? Continuations as strips of tokens, with what repeats marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from torch import Tensor
from transformers import PreTrainedTokenizerBase

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


def _texts(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    # A character outside ASCII may be spread over several tokens; alone, each of them decodes to a replacement mark.
    return [str(tokenizer.decode([token])) for token in ids]


def _share(strip: Sequence[tuple[str, bool]]) -> float:
    return sum(marked for _, marked in strip) / len(strip) if strip else 0.0


def _token_html(text: str, marked: bool) -> str:
    tag = "u" if marked else "span"
    return f'<{tag} class="hf-token">{escape(text).replace(chr(10), "&#8629;<br>")}</{tag}>'
