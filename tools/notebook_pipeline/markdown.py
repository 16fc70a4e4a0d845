"""MyST to the Markdown that Colab, GitHub and Jupyter all show.

A page is converted twice: first to learn what its labels name, then to write. Directives are in `directives.py`
and roles in `roles.py`; a name that is in neither table is an error, so nothing reaches a reader raw.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from jupytext.myst import myst_to_notebook
from markdown_it.token import Token
from nbformat import NotebookNode

from notebook_pipeline.citations import read_bibliography
from notebook_pipeline.directives import DIRECTIVES, amsmath, caption, display_math
from notebook_pipeline.myst import (
    Directive,
    Edit,
    Lines,
    apply_edits,
    is_directive,
    make_parser,
    read_directive,
)
from notebook_pipeline.project import PipelineError, Project, has_kernel
from notebook_pipeline.roles import ROLES


@dataclasses.dataclass(frozen=True)
class Target:
    """What a label names: a section, or the n-th of a kind on its page."""

    page: Path
    title: str
    number: int | None = None


class Site:
    """What pages need to know of one another: labels, titles, the bibliography."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.parser = make_parser(project.config["parse"]["myst_enable_extensions"])
        self.bibliography = read_bibliography([project.root / name for name in project.config["bibtex_bibfiles"]])
        self.labels: dict[str, Target] = {}
        self.titles: dict[Path, str] = {}
        for path in dict.fromkeys([*project.toc, *project.text_notebooks]):
            Page(self, path, learning=True).cells()


class Page:
    """The conversion of one page."""

    def __init__(self, site: Site, path: Path, learning: bool = False) -> None:
        self.site = site
        self.path = path
        self.learning = learning
        self.counts: collections.Counter[str] = collections.Counter()
        self._waiting: list[str] = []  # labels written before the block they name
        self._environment: dict[str, Any] = {}  # link and footnote definitions, shared by the page's cells

    def cells(self) -> list[NotebookNode]:
        """The page as jupytext reads it, with its Markdown converted (empty cells left out)."""
        text = self.path.read_text("utf8")
        notebook = myst_to_notebook(text, add_source_map=True)
        source_lines = text.split("\n")
        placed = []
        for cell, line in zip(notebook.cells, notebook.metadata["source_map"], strict=True):
            while cell.cell_type == "markdown" and not source_lines[line].strip():
                line += 1  # jupytext's map counts the blank lines that it then strips
            placed.append((cell, line))
        for cell, _ in placed:
            if cell.cell_type == "markdown":
                self.site.parser.parse(cell.source, self._environment)
        return [cell for cell, line in placed if self._converted(cell, line)]

    def _converted(self, cell: NotebookNode, line: int) -> bool:
        """Convert a cell in place; whether anything is left of it."""
        if cell.cell_type == "markdown":
            cell.source = self.convert(cell.source, line)
            return bool(cell.source)
        if cell.cell_type == "code":
            self._code_figure(cell, line)
            if not cell.source.strip():
                raise self.error(line, "this code cell is empty")
            return True
        raise self.error(line, "raw cells are not supported")

    def _code_figure(self, cell: NotebookNode, line: int) -> None:
        """Number a figure that a code cell draws, and its caption."""
        figure = cell.metadata.get("mystnb", {}).get("figure")
        if figure:
            number = self.number("Figure", figure.get("name"))
            figure["caption"] = caption(number, self.convert(str(figure.get("caption", "")).strip(), line))

    def error(self, line: int, message: str) -> PipelineError:
        """An error at a line of the page (counted from 0 here, from 1 in the message)."""
        return PipelineError(f"{self.site.project.name(self.path)}:{line + 1}: {message}")

    def convert(self, text: str, line: int) -> str:
        """Plain Markdown for MyST `text` whose first line is line `line` of the page."""
        located = Lines(text)
        tokens = self.site.parser.parse(text, copy.deepcopy(self._environment))
        edits = [edit for n, token in enumerate(tokens) for edit in self._edits(located, tokens, n, token, line)]
        return apply_edits(text, edits).strip("\n")

    def _edits(self, located: Lines, tokens: list[Token], n: int, token: Token, line: int) -> Iterator[Edit]:
        """What has to change in one block."""
        here = line + (token.map[0] if token.map else 0)
        match token.type:
            case "fence" | "colon_fence" if is_directive(token):
                yield located.replace_block(token, self._directive(token, line), token.markup)
            case "myst_line_comment":
                yield located.replace_block(token, "", "%")
            case "myst_target":
                self._waiting.append(token.content)
                yield located.replace_block(token, "", "(")
            case "math_block_label":
                number = self.number("Equation", token.info)
                yield located.replace_block(token, display_math(token.content, number), "$$")
            case "amsmath" if token.map:
                token.map[1] = token.map[0] + 1 + token.content.count("\n")  # the plugin is one line short
                yield located.replace_block(token, amsmath(token.content), "\\begin")
            case "heading_open":
                self._heading(token, tokens[n + 1].content)
            case "footnote_reference_open":
                yield self._footnote(located, token)
            case "dt_open" | "dd_open":
                yield from located.bulleted(token)
            case "html_block" if re.search(r"<img\b", token.content):
                raise self.error(here, "write an image as a figure or as ![text](path), not as <img>")
            case "inline":
                yield from self._inline(located, token, here)

    def _directive(self, token: Token, line: int) -> str:
        directive = read_directive(token)
        assert token.map is not None
        here = line + token.map[0]
        if directive.name not in DIRECTIVES:
            if self.learning:
                return ""
            raise self.error(here, f"no rule turns the directive {{{directive.name}}} into plain Markdown")
        directive = dataclasses.replace(directive, line=line + directive.line)
        return DIRECTIVES[directive.name](self, directive).strip("\n")

    def body(self, directive: Directive) -> str:
        """A directive's body in plain Markdown."""
        return self.convert(directive.body, directive.line)

    def number(self, kind: str, label: str | None) -> int:
        """Count one more `kind` (Figure, Theorem, ...) and let `label` name it."""
        self.counts[kind] += 1
        number = self.counts[kind]
        title = f"({number})" if kind == "Equation" else f"{kind} {number}"
        self._define(label, Target(self.path, title, number))
        return number

    def _heading(self, token: Token, content: str) -> None:
        title = self.convert(content, 0)
        if token.tag == "h1":
            self.site.titles.setdefault(self.path, title)
        self._define(None, Target(self.path, title))

    def _define(self, label: str | None, target: Target) -> None:
        """Let a label, and those that stood before the block, name a target."""
        for name in [*self._waiting, *([label] if label else [])]:
            self.site.labels[normalized(name)] = target
        self._waiting.clear()

    def _footnote(self, located: Lines, token: Token) -> Edit:
        """Jupyter does not know footnotes: they become paragraphs that start with a raised mark."""
        assert token.map is not None
        mark = f"[^{token.meta['label']}]:"
        start = located.starts[token.map[0]] + located.lines[token.map[0]].index(mark)
        return Edit(start, start + len(mark), f"<sup>{token.meta['label']}</sup>")

    def _inline(self, located: Lines, token: Token, line: int) -> Iterator[Edit]:
        changes = [change for child in token.children or [] for change in self._inline_edits(child, token, line)]
        try:
            place = located.locate(token)
        except ValueError:
            if changes:
                raise self.error(line, "a cell with an escaped | may not hold links, images or roles") from None
            return
        for change in changes:
            yield Edit(place(change.start), place(change.end - 1) + 1, change.replacement)

    def _inline_edits(self, child: Token, token: Token, line: int) -> Iterator[Edit]:
        """What one inline construct changes in its paragraph; offsets are those of the paragraph."""
        if "start" not in child.meta:
            return
        start, end = child.meta["start"], child.meta["end"]
        line += token.content[:start].count("\n")
        match child.type:
            case "myst_role":
                yield Edit(start, end, self.role(child.meta["name"], child.content, line))
            case "footnote_ref":
                yield Edit(start, end, f"<sup>{child.meta['label']}</sup>")
            case "image":
                yield Edit(start, end, self.image(str(child.attrs["src"]), child.content, line))
            case "link_open":
                label_end = child.meta["label_end"]
                text, address = self._link(unquote(str(child.attrs["href"])), line)
                if start + 1 == label_end:
                    yield Edit(start, end, f"[{text}]({address})" if address else text)
                elif address:
                    yield Edit(label_end, end, f"]({address})")
                else:
                    yield Edit(start, start + 1, "")
                    yield Edit(label_end, end, "")

    def role(self, name: str, content: str, line: int) -> str:
        """Plain Markdown for a role."""
        if name in ROLES:
            return ROLES[name](self, content, line)
        if self.learning:
            return ""
        raise self.error(line, f"no rule turns the role {{{name}}} into plain Markdown")

    def image(self, path: str, alt: str, line: int) -> str:
        """An image of the repository, by an address that works where only the notebook is opened."""
        file = self.resolve(path)
        if not file.is_file() and not self.learning:
            raise self.error(line, f"there is no image {path!r} in the repository")
        return f"![{' '.join(alt.split())}]({self.site.project.raw_url(file)})"

    def resolve(self, path: str) -> Path:
        """A path as MyST means it: from the page's folder, or from the root when it starts with a slash."""
        base = self.site.project.root if path.startswith("/") else self.path.parent
        return Path(base, path.lstrip("/")).resolve()

    def address(self, page: Path) -> str:
        """How this page's notebook links to another page."""
        target = page.with_suffix(".ipynb") if has_kernel(page) else page
        return Path(os.path.relpath(target, self.path.parent)).as_posix()

    def _link(self, href: str, line: int) -> tuple[str, str | None]:
        """The title of what a link points to and its address, None for a place on this very page."""
        if urlparse(href).scheme in ("http", "https", "mailto"):
            return href, href
        path, _, fragment = href.partition("#")
        if not path or (path == href and normalized(path) in self.site.labels):
            return self.reference(fragment or path, line)
        file = self.resolve(path)
        page = file.with_suffix(".md") if file.suffix in (".md", ".ipynb", "") else file
        if page in self.site.titles:
            return self.site.titles[page], self.address(page)
        if not file.exists() and not self.learning:
            raise self.error(line, f"a link points to {href!r}, which is neither a file nor a label")
        return path, self.site.project.blob_url(file)

    def reference(self, label: str, line: int) -> tuple[str, str | None]:
        """The title of what a label names and its address, None on this very page."""
        target = self.site.labels.get(normalized(label))
        if target is None and not self.learning:
            raise self.error(line, f"no label is called {label!r}")
        if target is None or target.page == self.path:
            return target.title if target else label, None
        return target.title, self.address(target.page)


def normalized(label: str) -> str:
    """Labels are compared without case."""
    return " ".join(label.lower().split())
