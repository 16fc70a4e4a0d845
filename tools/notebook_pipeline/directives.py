"""What each MyST directive becomes in plain Markdown.

A rule takes a directive whose title and body are plain Markdown already. It knows of no page.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

from markdown_it import MarkdownIt

from notebook_pipeline.myst import Directive


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a directive becomes Markdown, and what the page does with its title and its body before."""

    write: Callable[[Directive], str]
    holds: str = "text"  # which is converted; `code` is left as it is; of a `picture`, the title is the path
    counted: str = ""  # the kind of which the directive is one more: Figure, Equation, Theorem


def quote(text: str) -> str:
    """A block quotation."""
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def details(title: str, text: str) -> str:
    """A text that opens on a click."""
    summary = MarkdownIt().renderInline(title)  # inside an HTML element Markdown would stay raw
    return f"<details>\n<summary><b>{summary}</b></summary>\n\n{text}\n\n</details>"


def boxed(directive: Directive, title: str, text: str) -> str:
    """A titled text, set off from the page; closed at first when it has the class `dropdown`."""
    return details(title, text) if "dropdown" in directive.classes else quote(f"**{title}**\n\n{text}".rstrip())


def whole_text(directive: Directive) -> str:
    """The text of a directive without a title: what stands on its first line belongs to it."""
    return "\n\n".join(filter(None, [directive.title, directive.body]))


def admonition(title: str, directive: Directive) -> str:
    """`note`, `tip` and the like, under a fixed title."""
    return boxed(directive, title, whole_text(directive))


def figure(directive: Directive) -> str:
    """A picture, and the caption under its number."""
    return f"{directive.title}\n\n**Figure {directive.number}.** {directive.body}".rstrip()


def display_math(content: str, number: int | None) -> str:
    """A displayed formula, with its number at the right."""
    tag = "" if number is None else f"\n\\tag{{{number}}}"
    return f"$$\n{content.strip()}{tag}\n$$"


def statement(kind: str, directive: Directive) -> str:
    """A theorem, a definition or another numbered statement."""
    heading = f"{kind} {directive.number}"
    return boxed(directive, f"{heading} ({directive.title})" if directive.title else heading, directive.body)


def proof(directive: Directive) -> str:
    """A proof, closed by a box."""
    text = whole_text(directive)
    return details("Proof", text) if "dropdown" in directive.classes else quote(f"*Proof.* {text} ∎")


NOTES = {name: name.capitalize() for name in ("note", "tip", "hint", "important", "warning")} | {"seealso": "See also"}
STATEMENTS = ("theorem", "lemma", "corollary", "proposition", "definition", "assumption", "example", "remark")

DIRECTIVES: dict[str, Rule] = {
    **{name: Rule(functools.partial(admonition, title)) for name, title in NOTES.items()},
    **{f"prf:{n}": Rule(functools.partial(statement, n.capitalize()), counted=n.capitalize()) for n in STATEMENTS},
    "prf:proof": Rule(proof),
    "admonition": Rule(lambda each: boxed(each, each.title, each.body)),
    "dropdown": Rule(lambda each: details(each.title or "Click to show", each.body)),
    "figure": Rule(figure, "picture", "Figure"),
    "image": Rule(lambda each: each.title, "picture"),
    "math": Rule(lambda each: display_math(f"{each.title}\n{each.body}", each.number), "code", "Equation"),
    "code-block": Rule(lambda each: f"````{each.title}\n{each.body}\n````", "code"),
}
