"""Citations as a reader of a notebook sees them: author, year and a link."""

from __future__ import annotations

from pathlib import Path

from pybtex.database import BibliographyData, Entry, parse_file


def read_bibliography(paths: list[Path]) -> dict[str, Entry]:
    """All entries of the bibliography files, by key."""
    entries: dict[str, Entry] = {}
    for path in paths:
        data: BibliographyData = parse_file(str(path))
        entries.update(data.entries)
    return entries


def authors(entry: Entry) -> str:
    """`Holtzman`, `Hewitt & Liang` or `Holtzman et al.`"""
    names = [" ".join(str(part) for part in person.rich_last_names) for person in entry.persons["author"]]
    return f"{names[0]} et al." if len(names) > 2 else " & ".join(names)


def address(entry: Entry) -> str | None:
    """Where the work can be read."""
    fields = entry.fields
    if "url" in fields:
        return fields["url"]
    if "doi" in fields:
        return f"https://doi.org/{fields['doi']}"
    if "eprint" in fields:
        return f"https://arxiv.org/abs/{fields['eprint']}"
    return None


def cite(entry: Entry, textual: bool) -> str:
    """One work, as `Author et al. (2025)` when it is part of the sentence, else `Author et al., 2025`."""
    year = entry.fields["year"]
    text = f"{authors(entry)} ({year})" if textual else f"{authors(entry)}, {year}"
    link = address(entry)
    return f"[{text}]({link})" if link else text
