"""What each MyST directive becomes in plain Markdown."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

from notebook_pipeline.myst import Directive

if TYPE_CHECKING:
    from notebook_pipeline.markdown import Page

Rule = Callable[["Page", Directive], str]


def quote(text: str) -> str:
    """A block quotation."""
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def details(title: str, text: str) -> str:
    """A text that opens on a click."""
    summary = MarkdownIt().renderInline(title)  # inside an HTML element Markdown would stay raw
    return f"<details>\n<summary><b>{summary}</b></summary>\n\n{text}\n\n</details>"


def titled(title: str, text: str) -> str:
    """A title in bold above a text."""
    return f"**{title}**\n\n{text}".rstrip()


def boxed(directive: Directive, title: str, text: str) -> str:
    """A titled text, set off from the page; closed at first when it has the class `dropdown`."""
    if "dropdown" in directive.classes:
        return details(title, text)
    return quote(titled(title, text))


def with_first_line(page: Page, directive: Directive) -> str:
    """The body of a directive without arguments: what stands on its first line belongs to it."""
    return "\n\n".join(filter(None, [page.convert(directive.argument, directive.line), page.body(directive)]))


def admonition(title: str, page: Page, directive: Directive) -> str:
    """`note`, `tip` and the like, under a fixed title."""
    return boxed(directive, title, with_first_line(page, directive))


def titled_admonition(page: Page, directive: Directive) -> str:
    """`admonition`, under a title of its own."""
    return boxed(directive, page.convert(directive.argument, directive.line), page.body(directive))


def dropdown(page: Page, directive: Directive) -> str:
    """`dropdown` and `toggle`: closed at first."""
    return details(page.convert(directive.argument, directive.line) or "Click to show", page.body(directive))


def aside(page: Page, directive: Directive) -> str:
    """`margin` and `sidebar`: beside the text in the book, a quotation in it here."""
    title = page.convert(directive.argument, directive.line)
    return quote(titled(title, page.body(directive)) if title else page.body(directive))


def contents(page: Page, directive: Directive) -> str:
    """A layout that only holds other things: its title, if any, and its contents."""
    title = page.convert(directive.argument, directive.line) if directive.name == "tab-item" else ""
    return titled(title, page.body(directive)) if title else page.body(directive)


def card(page: Page, directive: Directive) -> str:
    """A card: its title, then its header, body and footer."""
    parts = re.split(r"^(?:\^{3,}|\+{3,})\s*$", directive.body, flags=re.MULTILINE)
    text = "\n\n".join(page.convert(part.strip("\n"), directive.line) for part in parts).strip()
    title = page.convert(directive.argument, directive.line)
    if directive.options.get("link-type") in ("doc", "ref"):
        title = page.role(directive.options["link-type"], f"{title} <{directive.options['link']}>", directive.line)
    elif "link" in directive.options:
        title = f"[{title}]({directive.options['link']})"
    return titled(title, text) if title else text


def figure(page: Page, directive: Directive) -> str:
    """`figure` and `image`: the picture, and the caption under its number."""
    if "only-dark" in directive.classes:  # its twin for light pages is shown instead
        return ""
    picture = page.image(directive.argument, str(directive.options.get("alt", "")), directive.line)
    if directive.name == "image":
        return picture
    return f"{picture}\n\n{caption(page.number('Figure', directive.label), page.body(directive))}"


def caption(number: int, text: str) -> str:
    """A figure's caption."""
    return f"**Figure {number}.** {text}".rstrip()


def table(page: Page, directive: Directive) -> str:
    """A Markdown table with a caption."""
    number = page.number("Table", directive.label)
    return f"**Table {number}.** {page.convert(directive.argument, directive.line)}\n\n{page.body(directive)}"


def list_table(page: Page, directive: Directive) -> str:
    """A table written as a list of lists: `* -` starts a row, `-` a cell."""
    rows = [re.split(r"^\s*-\s", row, flags=re.MULTILINE)[1:] for row in re.split(r"^\*", directive.body, flags=re.M)]
    lines = [" | ".join(page.convert(" ".join(cell.split()), directive.line) for cell in row) for row in rows if row]
    width = max(len(row) for row in rows)
    lines.insert(1, " | ".join(["---"] * width))
    rendered = "\n".join(f"| {line} |" for line in lines)
    title = page.convert(directive.argument, directive.line)
    return f"**Table {page.number('Table', directive.label)}.** {title}\n\n{rendered}" if title else rendered


def display_math(content: str, number: int | None) -> str:
    """A displayed formula, with its number at the right."""
    tag = "" if number is None else f"\n\\tag{{{number}}}"
    return f"$$\n{content.strip()}{tag}\n$$"


def amsmath(content: str) -> str:
    """A LaTeX environment between dollars, where only the inner forms of the aligning ones are allowed."""
    inner = {"align": "aligned", "gather": "gathered", "equation": "aligned", "multline": "aligned"}
    for outer, allowed in inner.items():
        content = re.sub(rf"\\(begin|end){{{outer}\*?}}", rf"\\\1{{{allowed}}}", content)
    return display_math(content, None)


def math(page: Page, directive: Directive) -> str:
    """A displayed formula, numbered when it has a label."""
    number = page.number("Equation", directive.label) if directive.label else None
    return display_math("\n".join(filter(None, [directive.argument, directive.body])), number)


def code_block(page: Page, directive: Directive) -> str:
    """Code that is shown and not run."""
    return f"````{directive.argument}\n{directive.body}\n````"


def statement(kind: str, page: Page, directive: Directive) -> str:
    """A theorem, a definition or another numbered statement."""
    number = page.number(kind, directive.label)
    title = page.convert(directive.argument, directive.line)
    heading = f"{kind} {number} ({title})" if title else f"{kind} {number}"
    return boxed(directive, heading, page.body(directive))


def proof(page: Page, directive: Directive) -> str:
    """A proof, closed by a box."""
    body = with_first_line(page, directive)
    if "dropdown" in directive.classes:
        return details("Proof", body)
    return quote(f"*Proof.* {body} ∎")


def exercise(page: Page, directive: Directive) -> str:
    """An exercise; as `exercise-start` only its first part, since cells follow."""
    number = page.number("Exercise", directive.label)
    title = page.convert(directive.argument, directive.line)
    heading = f"Exercise {number}: {title}" if title else f"Exercise {number}"
    if directive.name == "exercise-start":
        return titled(heading, page.body(directive))
    return boxed(directive, heading, page.body(directive))


def solution(page: Page, directive: Directive) -> str:
    """A solution, closed at first; as `solution-start` open, since no fold can hold code cells."""
    of, _ = page.reference(directive.argument, directive.line)
    if directive.name == "solution-start":
        return titled(f"Solution to {of}", page.body(directive))
    return details(f"Solution to {of}", page.body(directive))


def rubric(page: Page, directive: Directive) -> str:
    """A heading that is in no table of contents."""
    return f"**{page.convert(directive.argument, directive.line)}**"


def nothing(page: Page, directive: Directive) -> str:
    """What only a book can have: an index, a list of references, the end of a gated exercise."""
    return ""


ADMONITIONS = {
    **{name: name.capitalize() for name in ("note", "tip", "hint", "warning", "important", "attention", "caution")},
    **{name: name.capitalize() for name in ("danger", "error")},
    "seealso": "See also",
}
STATEMENTS = ["theorem", "lemma", "corollary", "proposition", "conjecture", "definition", "assumption"]
STATEMENTS += ["algorithm", "axiom", "criterion", "example", "observation", "property", "remark"]

DIRECTIVES: dict[str, Rule] = {
    **{name: functools.partial(admonition, title) for name, title in ADMONITIONS.items()},
    **{f"prf:{name}": functools.partial(statement, name.capitalize()) for name in STATEMENTS},
    "prf:proof": proof,
    "admonition": titled_admonition,
    "dropdown": dropdown,
    "toggle": dropdown,
    "margin": aside,
    "sidebar": aside,
    "epigraph": aside,
    **dict.fromkeys(["tab-set", "tab-item", "grid", "grid-item", "div"], contents),
    "card": card,
    "grid-item-card": card,
    "figure": figure,
    "image": figure,
    "table": table,
    "list-table": list_table,
    "math": math,
    "code-block": code_block,
    "code": code_block,
    "exercise": exercise,
    "exercise-start": exercise,
    "solution": solution,
    "solution-start": solution,
    "rubric": rubric,
    **dict.fromkeys(["exercise-end", "solution-end", "bibliography", "index", "contents", "tableofcontents"], nothing),
}
