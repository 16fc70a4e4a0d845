"""Citations as a reader of a notebook sees them: author, year and a link."""

from __future__ import annotations

from pathlib import Path

from pybtex.database import Entry, parse_file


def read_bibliography(paths: list[Path]) -> dict[str, Entry]:
    """All entries of the bibliography files, by key."""
    return {key: entry for path in paths for key, entry in parse_file(str(path)).entries.items()}


def citation(works: list[Entry], textual: bool) -> str:
    """`Author et al. (2025)` when that is part of the sentence, else `(Author et al., 2025)`; or several works."""
    cited = []
    for work in works:
        year = work.fields["year"]
        cited.append(link(f"{authors(work)} ({year})" if textual else f"{authors(work)}, {year}", where(work)))
    return ", ".join(cited) if textual else f"({'; '.join(cited)})"


def authors(entry: Entry) -> str:
    """`Holtzman`, `Hewitt & Liang` or `Holtzman et al.`"""
    names = [" ".join(str(part) for part in person.rich_last_names) for person in entry.persons["author"]]
    return f"{names[0]} et al." if len(names) > 2 else " & ".join(names)


def where(entry: Entry) -> str | None:
    """The address where a work can be read."""
    for field, prefix in (("url", ""), ("doi", "https://doi.org/"), ("eprint", "https://arxiv.org/abs/")):
        if field in entry.fields:
            return prefix + entry.fields[field]
    return None


def link(text: str, address: str | None) -> str:
    """A link, or only its text without an address."""
    return f"[{text}]({address})" if address else text
