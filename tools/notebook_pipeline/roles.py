"""What each MyST role becomes in plain Markdown."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from notebook_pipeline.citations import cite

if TYPE_CHECKING:
    from notebook_pipeline.markdown import Page

Rule = Callable[["Page", str, int], str]


def split_title(content: str) -> tuple[str | None, str]:
    """`title <target>` or just `target`."""
    found = re.fullmatch(r"(.*?)\s*<([^<>]+)>", content, flags=re.DOTALL)
    return (found[1], found[2]) if found else (None, content)


def link(text: str, address: str | None) -> str:
    """A link, or only its text when the place is on this very page."""
    return f"[{text}]({address})" if address else text


def math(page: Page, content: str, line: int) -> str:
    """An inline formula."""
    return f"${content}$"


def citation(textual: bool, page: Page, content: str, line: int) -> str:
    """One or several works, in parentheses unless they are part of the sentence."""
    works = []
    for key in (key.strip() for key in content.split(",")):
        if key not in page.site.bibliography:
            raise page.error(line, f"the bibliography has no {key!r}")
        works.append(cite(page.site.bibliography[key], textual))
    return ", ".join(works) if textual else f"({'; '.join(works)})"


def reference(page: Page, content: str, line: int) -> str:
    """A section, a figure, an equation, a theorem, an exercise."""
    title, label = split_title(content)
    text, address = page.reference(label, line)
    return link(title or text, address)


def numbered_reference(page: Page, content: str, line: int) -> str:
    """A reference whose own text may hold `%s` or `{number}`."""
    title, label = split_title(content)
    text, address = page.reference(label, line)
    number = text.rpartition(" ")[2]
    return link(title.replace("%s", number).replace("{number}", number) if title else text, address)


def document(page: Page, content: str, line: int) -> str:
    """Another page."""
    title, name = split_title(content)
    path = page.resolve(f"{name.removesuffix('.md')}.md")
    if not path.is_file():
        raise page.error(line, f"there is no page {name!r}")
    return link(title or page.site.titles.get(path, name), page.address(path))


def download(page: Page, content: str, line: int) -> str:
    """A file of the repository."""
    title, name = split_title(content)
    path = page.resolve(name)
    if not path.is_file():
        raise page.error(line, f"there is no file {name!r}")
    return link(title or path.name, page.site.project.raw_url(path))


def plain(page: Page, content: str, line: int) -> str:
    """A term or an abbreviation: the words that stand in the sentence."""
    return split_title(content)[0] or content


def literal(page: Page, content: str, line: int) -> str:
    """Code."""
    return f"`{content}`"


def element(tag: str, page: Page, content: str, line: int) -> str:
    """An HTML element that Markdown has no sign for."""
    return f"<{tag}>{content}</{tag}>"


ROLES: dict[str, Rule] = {
    "math": math,
    "cite": functools.partial(citation, False),
    "cite:p": functools.partial(citation, False),
    "cite:t": functools.partial(citation, True),
    "ref": reference,
    "eq": reference,
    "prf:ref": reference,
    "numref": numbered_reference,
    "doc": document,
    "download": download,
    "term": plain,
    "abbr": plain,
    "code": literal,
    "file": literal,
    **{tag: functools.partial(element, tag) for tag in ("sub", "sup", "kbd")},
}
