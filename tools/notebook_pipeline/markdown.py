"""MyST to the Markdown that Colab, GitHub and Jupyter all show.

A page is converted twice: first to learn what its labels name, then to write. A name without a rule, and what a
notebook cannot show, is an error, so nothing reaches a reader raw.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

from docutils.nodes import fully_normalize_name as normalize_label
from jupytext.myst import myst_to_notebook
from markdown_it.token import Token
from nbformat import NotebookNode
from sphinx.util.nodes import split_explicit_title

from notebook_pipeline.citations import citation, link, read_bibliography
from notebook_pipeline.directives import DIRECTIVES, display_math
from notebook_pipeline.myst import Directive, Edit, Lines, apply_edits, make_parser, read_directive
from notebook_pipeline.project import PipelineError, Project, has_kernel

NOT_SHOWN = {
    "amsmath": "write the formula between $$: a notebook shows no LaTeX environment outside",
    "dl_open": "write a list: a notebook shows no definition list",
    "footnote_reference_open": "write it into the text: a notebook shows no footnote",
}


class Site:
    """What pages need to know of one another: labels (of which page, and called what), titles, the bibliography."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.parser = make_parser(project.config["parse"]["myst_enable_extensions"])
        self.bibliography = read_bibliography([project.root / name for name in project.config["bibtex_bibfiles"]])
        self.labels: dict[str, tuple[Path, str]] = {}
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

    def cells(self) -> list[NotebookNode]:
        """The page as jupytext reads it, with its Markdown converted (empty cells left out)."""
        lines = self.path.read_text("utf8").split("\n")
        notebook = myst_to_notebook("\n".join(lines), add_source_map=True)
        for cell, line in zip(notebook.cells, notebook.metadata["source_map"], strict=True):
            if cell.cell_type == "raw":
                raise self.error(line, "raw cells are not supported")
            if cell.cell_type == "code" and not cell.source.strip():
                raise self.error(line, "this code cell is empty")
            if cell.cell_type == "code" and "figure" in cell.metadata.get("mystnb", {}):
                raise self.error(line, "a notebook shows no caption of a cell's figure: write it into the text")
            if cell.cell_type == "markdown":
                while not lines[line].strip():
                    line += 1  # jupytext's map counts the blank lines that it then strips
                cell.source = self.convert(cell.source, line)
        return [cell for cell in notebook.cells if cell.source]

    def error(self, line: int, message: str) -> PipelineError:
        """An error at a line of the page (counted from 0 here, from 1 in the message)."""
        return PipelineError(f"{self.site.project.name(self.path)}:{line + 1}: {message}")

    def missing(self, line: int, message: str) -> None:
        """Something that a page names is not there: an error, once all pages are known."""
        if not self.learning:
            raise self.error(line, message)

    def convert(self, text: str, line: int) -> str:
        """Plain Markdown for MyST `text` whose first line is line `line` of the page."""
        located = Lines(text)
        definitions: dict[str, dict] = {}
        tokens = self.site.parser.parse(text, definitions)
        if definitions.get("references"):
            self.missing(line, "write the address into the link: a notebook cannot look it up in another cell")
        edits = [edit for n, token in enumerate(tokens) for edit in self._edits(located, tokens, n, token, line)]
        return apply_edits(text, edits).strip("\n")

    def _edits(self, located: Lines, tokens: list[Token], n: int, token: Token, line: int) -> Iterator[Edit]:
        """What has to change in one block."""
        here = line + (token.map[0] if token.map else 0)
        if token.type in NOT_SHOWN:
            self.missing(here, NOT_SHOWN[token.type])
        match token.type:
            case "fence" | "colon_fence" if token.type == "colon_fence" or token.info.strip().startswith("{"):
                yield located.replace_block(token, self._directive(read_directive(token, here), here), token.markup)
            case "myst_line_comment":
                yield located.replace_block(token, "", "%")
            case "myst_target":
                self._waiting.append(token.content)
                yield located.replace_block(token, "", "(")
            case "math_block_label":
                number = self.number("Equation", token.info)
                yield located.replace_block(token, display_math(token.content, number), "$$")
            case "heading_open":
                title = self.convert(tokens[n + 1].content, here)
                if token.tag == "h1":
                    self.site.titles.setdefault(self.path, title)
                self._define("", title)
            case "html_block" if re.search(r"<img\b", token.content):
                raise self.error(here, "write an image as a figure or as ![text](path), not as <img>")
            case "inline":
                yield from self._inline(located, token, here)

    def _directive(self, directive: Directive, line: int) -> str:
        """Plain Markdown for a directive that starts on line `line`."""
        rule = DIRECTIVES.get(directive.name)
        if rule is None:
            self.missing(line, f"no rule turns the directive {{{directive.name}}} into plain Markdown")
            return ""
        title, body, number = directive.title, directive.body, None
        if rule.counted and (directive.label or rule.counted != "Equation"):
            number = self.number(rule.counted, directive.label)
        if rule.holds == "picture":
            title = self.image(title, str(directive.options.get("alt", "")), line)
        elif rule.holds == "text":
            title = self.convert(title, line)
        if rule.holds != "code":
            body = self.convert(body, directive.line)
        return rule.write(dataclasses.replace(directive, title=title, body=body, number=number)).strip("\n")

    def number(self, kind: str, label: str) -> int:
        """Count one more `kind` (Figure, Theorem, ...) and let `label` name it."""
        self.counts[kind] += 1
        self._define(label, f"({self.counts[kind]})" if kind == "Equation" else f"{kind} {self.counts[kind]}")
        return self.counts[kind]

    def _define(self, label: str, title: str) -> None:
        """Let a label, and those that stood before the block, name a place on this page."""
        for name in [*self._waiting, *filter(None, [label])]:
            self.site.labels[normalize_label(name)] = (self.path, title)
        self._waiting.clear()

    def _inline(self, located: Lines, token: Token, line: int) -> Iterator[Edit]:
        """What has to change within one paragraph, heading or cell of a table."""
        places = located.locate(token)
        for child in (each for each in token.children or [] if "start" in each.meta):
            if not places:
                raise self.error(line, "a cell with an escaped | may not hold links, images or roles")
            start, end = places[child.meta["start"]], places[child.meta["end"]]
            here = line + token.content[: child.meta["start"]].count("\n")
            match child.type:
                case "myst_role":
                    yield start, end, self.role(child.meta["name"], child.content, here)
                case "image":
                    yield start, end, self.image(str(child.attrs["src"]), child.content, here)
                case "link_open":
                    label_end = places[child.meta["label_end"]]
                    text, address = self._link(unquote(str(child.attrs["href"])), here)
                    if start + 1 == label_end:
                        yield start, end, link(text, address)
                    else:
                        yield start, start + 1, "[" if address else ""
                        yield label_end, end, f"]({address})" if address else ""

    def role(self, name: str, content: str, line: int) -> str:
        """Plain Markdown for a role."""
        titled, title, target = split_explicit_title(content)
        match name:
            case "math":
                return f"${content}$"
            case "cite" | "cite:p" | "cite:t":
                keys = [key.strip() for key in content.split(",")]
                for key in keys:
                    if key not in self.site.bibliography:
                        raise self.error(line, f"the bibliography has no {key!r}")
                return citation([self.site.bibliography[key] for key in keys], textual=name == "cite:t")
            case "doc":
                text, address = self._link(f"{target.removesuffix('.md')}.md", line)
                return link(title if titled else text, address)
            case "live":  # the page needs the book: its settings stand in the address
                return link(title if titled else "Write with it", f"{self.site.project.site}book/live.html#{target}")
            case "ref" | "eq" | "prf:ref" | "numref":
                text, address = self.reference(target, line)
                return link(title.replace("%s", text.rpartition(" ")[2]) if titled else text, address)
        self.missing(line, f"no rule turns the role {{{name}}} into plain Markdown")
        return ""

    def image(self, path: str, alt: str, line: int) -> str:
        """An image of the repository, by an address that works where only the notebook is opened."""
        file = self.resolve(path)
        if not file.is_file():
            self.missing(line, f"there is no image {path!r} in the repository")
        return f"![{' '.join(alt.split())}]({self.site.project.raw_url(file)})"

    def resolve(self, path: str) -> Path:
        """A path as MyST means it: from the page's folder, or from the root when it starts with a slash."""
        base = self.site.project.root if path.startswith("/") else self.path.parent
        return Path(os.path.normpath(base / path.lstrip("/")))

    def address(self, page: Path) -> str:
        """How this page's notebook links to another page."""
        target = page.with_suffix(".ipynb") if has_kernel(page) else page
        return Path(os.path.relpath(target, self.path.parent)).as_posix()

    def _link(self, href: str, line: int) -> tuple[str, str | None]:
        """The title of what a link points to and its address, None for a place on this very page."""
        if urlparse(href).scheme in ("http", "https", "mailto"):
            return href, href
        path, _, fragment = href.partition("#")
        if not path or (path == href and normalize_label(path) in self.site.labels):
            return self.reference(fragment or path, line)
        file = self.resolve(path)
        page = file.with_suffix(".md") if file.suffix in (".md", ".ipynb", "") else file
        if page in self.site.titles:
            return self.site.titles[page], self.address(page)
        if not file.exists():
            self.missing(line, f"a link points to {href!r}, which is neither a file nor a label")
        return path, self.site.project.blob_url(file)

    def reference(self, label: str, line: int) -> tuple[str, str | None]:
        """The title of what a label names and its address, None on this very page."""
        if normalize_label(label) not in self.site.labels:
            self.missing(line, f"no label is called {label!r}")
        page, title = self.site.labels.get(normalize_label(label), (self.path, label))
        return title, None if page == self.path else self.address(page)
