"""Reading MyST with its own tokenizer, and editing it in place.

markdown-it says on which lines a block stands but not where on a line an inline construct does. The parser
made here also records that, so that a text is changed exactly where MyST differs from Markdown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

from docutils.parsers.rst import Directive as DocutilsDirective
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.directives import parse_directive_text
from myst_parser.parsers.mdit import create_md_parser


class Edit(NamedTuple):
    """Replace `text[start:end]`."""

    start: int
    end: int
    replacement: str


@dataclasses.dataclass(frozen=True)
class Directive:
    """A directive; `argument` is the rest of its first line, `line` the number of its body's first line."""

    name: str
    argument: str
    options: dict[str, Any]
    body: str
    line: int

    @property
    def classes(self) -> list[str]:
        """The names in `:class:`."""
        return str(self.options.get("class", "")).split()

    @property
    def label(self) -> str | None:
        """The name other places refer to."""
        label = self.options.get("label") or self.options.get("name")
        return None if label is None else str(label)


class _AnyDirective(DocutilsDirective):
    """Tells MyST's parser to accept any options, an argument and a body."""

    option_spec: ClassVar[dict] = {"any": str}
    optional_arguments = 1
    final_argument_whitespace = True
    has_content = True


def make_parser(extensions: Iterable[str]) -> MarkdownIt:
    """MyST's parser, which also notes the place of every inline construct that may need a change."""
    parser = create_md_parser(MdParserConfig(enable_extensions=set(extensions)), RendererHTML)
    for rule in ("myst_role", "link", "image", "footnote_ref"):
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


def is_directive(token: Token) -> bool:
    """Whether a fence of backticks or colons is a directive."""
    return token.type == "colon_fence" or (token.type == "fence" and token.info.strip().startswith("{"))


def read_directive(token: Token) -> Directive:
    """The directive in a fence."""
    assert token.map is not None
    name, _, argument = token.info.strip().partition("}")
    # As MyST itself does: an empty line keeps a nested colon fence from being read as an option.
    added = "\n" if token.content.startswith(":::") else ""
    parsed = parse_directive_text(_AnyDirective, argument.strip(), added + token.content, validate_options=False)
    return Directive(
        name=name.removeprefix("{"),
        argument=" ".join(parsed.arguments),
        options=parsed.options,
        body="\n".join(parsed.body),
        line=token.map[0] + 1 + parsed.body_offset - len(added),
    )


class Lines:
    """A text whose lines and inline tokens can be located."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = text.split("\n")
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line) + 1)
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
        return Edit(self.starts[first], self.starts[last], "\n".join(line.rstrip() for line in new) + "\n")

    def bulleted(self, token: Token) -> Iterator[Edit]:
        """Make a term or a definition an item of a bullet list: Jupyter knows no definition lists."""
        assert token.map is not None
        line = self.lines[token.map[0]]
        start = self.starts[token.map[0]] + len(line) - len(line.lstrip())
        if token.type == "dd_open":
            yield Edit(start, start + 1, " ")
            return
        end = self.starts[token.map[0]] + len(line.rstrip())
        yield Edit(start, start, "- **")
        yield Edit(end, end, "**")

    def locate(self, token: Token) -> Callable[[int], int]:
        """A function from an offset in an inline token's content to an offset in the text."""
        assert token.map is not None
        pieces: list[tuple[int, int]] = []  # offset in the content, offset in the text
        offset = 0
        for number, piece in enumerate(token.content.split("\n"), token.map[0]):
            column = self.lines[number].index(piece, self._searched.get(number, 0))
            self._searched[number] = column + len(piece)
            pieces.append((offset, self.starts[number] + column))
            offset += len(piece) + 1

        def place(position: int) -> int:
            inside, outside = max(piece for piece in pieces if piece[0] <= position)
            return outside + position - inside

        return place


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """The text with all edits made."""
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end), reverse=True):
        text = text[: edit.start] + edit.replacement + text[edit.end :]
    return text
