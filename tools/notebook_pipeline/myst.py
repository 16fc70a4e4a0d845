"""Reading MyST with its own tokenizer, and editing it in place.

markdown-it says on which lines a block stands but not where on a line an inline construct does. The parser
made here also records that, so that a text is changed exactly where MyST differs from Markdown.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any

from docutils.parsers.rst.directives.tables import RSTTable
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.directives import parse_directive_text
from myst_parser.parsers.mdit import create_md_parser

Edit = tuple[int, int, str]  # replaces the text from one offset to another


@dataclasses.dataclass(frozen=True)
class Directive:
    """A directive: its title is the rest of its first line, and its body starts on line `line` of the page."""

    name: str
    title: str
    options: dict[str, Any]
    body: str
    line: int
    number: int | None = None

    @property
    def classes(self) -> list[str]:
        """The names in `:class:`."""
        return str(self.options.get("class", "")).split()

    @property
    def label(self) -> str:
        """The name other places refer to, if it has one."""
        return str(self.options.get("label") or self.options.get("name") or "")


def make_parser(extensions: Iterable[str]) -> MarkdownIt:
    """MyST's parser, which also notes the place of every inline construct that may need a change."""
    parser = create_md_parser(MdParserConfig(enable_extensions=set(extensions)), RendererHTML)
    for rule in ("myst_role", "link", "image"):
        _record_place(parser, rule)
    return parser


def _record_place(parser: MarkdownIt, name: str) -> None:
    """Wrap an inline rule: its first token's `meta` gets `start`, `end` and, for a link, `label_end`."""
    ruler = parser.inline.ruler
    original: Callable[[StateInline, bool], bool] = next(rule.fn for rule in ruler.__rules__ if rule.name == name)

    def with_place(state: StateInline, silent: bool) -> bool:
        start = state.pos
        first = len(state.tokens) + bool(state.pending)  # pending text becomes a token of its own first
        label_end = parser.helpers.parseLinkLabel(state, start, True) if name == "link" else None
        found = original(state, silent)
        if found and not silent:
            state.tokens[first].meta |= {"start": start, "end": state.pos, "label_end": label_end}
        return found

    ruler.at(name, with_place)


def read_directive(token: Token, line: int) -> Directive:
    """The directive in a fence that starts on line `line` of its page."""
    name, _, argument = token.info.strip().partition("}")
    # As MyST itself does: an empty line keeps a nested colon fence from being read as an option.
    added = "\n" if token.content.startswith(":::") else ""
    # A table takes what all directives here may have: a title of several words, options and a body.
    parsed = parse_directive_text(RSTTable, argument.strip(), added + token.content, validate_options=False)
    return Directive(
        name=name.removeprefix("{"),
        title=" ".join(parsed.arguments),
        options=parsed.options,
        body="\n".join(parsed.body),
        line=line + 1 + parsed.body_offset - len(added),
    )


class Lines:
    """A text whose lines and inline tokens can be located."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        self.starts = [0, *itertools.accumulate(len(line) + 1 for line in self.lines)]
        self._searched: dict[int, int] = {}  # line -> column up to which it has been matched (cells of a table)

    def replace_block(self, token: Token, replacement: str, markup: str) -> Edit:
        """Replace the lines of a block; what stands before its `markup` (a list's indent, say) is kept.

        Empty lines set the replacement off from neighbours that touch the block: Markdown needs them.
        """
        assert token.map is not None
        first, last = token.map
        prefix = self.lines[first][: self.lines[first].index(markup)]
        indent = "".join(character if character in ">\t" else " " for character in prefix)
        new = [(prefix if n == 0 else indent) + line for n, line in enumerate(replacement.split("\n"))]
        if replacement and first > 0 and not prefix.strip(" >") and self.lines[first - 1].strip(" >"):
            new.insert(0, indent)
        if replacement and last < len(self.lines) and self.lines[last].strip(" >"):
            new.append(indent)
        return self.starts[first], self.starts[last], "\n".join(line.rstrip() for line in new) + "\n"

    def locate(self, token: Token) -> list[int]:
        """Where in the text each character of an inline token stands; nothing where it is escaped there."""
        assert token.map is not None
        places: list[int] = []
        for number, piece in enumerate(token.content.split("\n"), token.map[0]):
            column = self.lines[number].find(piece, self._searched.get(number, 0))
            if column < 0:
                return []
            self._searched[number] = column + len(piece)
            start = self.starts[number] + column
            places += range(start, start + len(piece) + 1)
        return places


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """The text with all edits made."""
    for start, end, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    return text
