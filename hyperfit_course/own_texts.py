"""Texts of one's own: which files are read, how, and what is wrong with them?"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

SUFFIXES = (".txt", ".md", ".jsonl", ".csv")
PASSAGE = 1700  #: Characters of a passage, about 300 English words.
# Where a text may be cut, best first: after an empty line, a line, a sentence (in Chinese without white space), a word.
_BREAKS = (r"\n\n", r"\n", r"[.!?…][\"'”’»)\]]*\s|[。！？｡؟।][”’」』）]*", r"\s")


class CorpusError(ValueError):
    """A corpus cannot be read or is too small; the message says why and what to do."""


def local_texts(path: Path, least: int) -> list[str]:
    """The texts of a file or a folder; where there are fewer than ``least``, they are cut into passages.

    Raises:
        CorpusError: it is empty, or in another format.
    """
    texts = cut = _folder_texts(path) if path.is_dir() else _file_texts(path)
    for size in (PASSAGE, PASSAGE // 2):
        if len(set(cut)) < least:
            cut = [passage for text in texts for passage in passages_of(text, size)]
    return cut


def _folder_texts(folder: Path) -> list[str]:
    """Texts of the files here and in folders inside; files that cannot be read are named in a warning."""
    texts, left_out = [], []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and path.is_file() and not hidden:
            try:
                texts += _file_texts(path)
            except CorpusError as error:
                left_out.append(str(error))
    if not texts:
        problem = f"The folder {folder} holds no {', '.join(SUFFIXES)} file with text: put the texts there, one a file."
        raise CorpusError(" ".join([problem, *left_out[:1]]))
    if left_out:
        warnings.warn(f"{len(left_out)} file(s) left out of the corpus: {' '.join(left_out)}", stacklevel=4)
    return texts


def _file_texts(path: Path) -> list[str]:
    """The text of a plain file, or the column ``text`` of a table."""
    text, suffix = _read_text(path), path.suffix.lower()
    if suffix in (".json", ".tsv", ".html", ".htm", ".xml"):  # with signs that nobody wants to have learned
        raise CorpusError(f"{path} is no plain text: save its texts as .txt, or as .jsonl or .csv with a column text.")
    if suffix == ".jsonl":
        rows = [_json_row(line, n, path) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    elif suffix == ".csv":
        csv.field_size_limit(1 << 30)  # the default, 131,072 characters, is shorter than a book
        try:
            rows = list(csv.DictReader(io.StringIO(text), strict=True))
        except csv.Error as error:
            raise CorpusError(f"{path} is no CSV table ({error}): correct its quotes.") from error
    else:
        return [text]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if None in columns:  # the name of what is behind the last column
        raise CorpusError(f"{path} has rows of more cells than columns: put texts with commas into quotes.")
    texts = [row["text"] for row in rows if isinstance(row.get("text"), str) and row["text"].strip()]
    if not texts:
        found = f"has no texts in a column called text (it has: {', '.join(columns)})"
        raise CorpusError(f"{path} {found}: call that of the texts 'text', with commas between columns.")
    return texts


def _json_row(line: str, number: int, path: Path) -> dict:
    with contextlib.suppress(ValueError):
        if isinstance(row := json.loads(line), dict):
            return row
    raise CorpusError(f'{path} has no JSON object in line {number}: write each line as {{"text": "..."}}.')


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is no text in UTF-8 (byte {error.start}): save it as UTF-8 plain text.") from error
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error
    if "\0" in text:
        raise CorpusError(f"{path} is a binary file: give plain text in UTF-8.")
    if not text.strip():
        raise CorpusError(f"{path} is empty: give a file with text in it.")
    return text


def passages_of(text: str, size: int) -> list[str]:
    """Consecutive pieces of a text, joined to passages of ``size`` characters or more; the last may be shorter."""
    passages = [""]
    for piece in _pieces(re.sub(r"\n\s*\n\s*", "\n\n", text), size, (*_BREAKS, f"(?s:.{{{size}}})")):
        if len(passages[-1]) >= size:
            passages.append("")
        passages[-1] += piece
    return [passage.strip() for passage in passages if passage.strip()]


def _pieces(text: str, size: int, breaks: Sequence[str]) -> list[str]:
    """A text as it is, if it is shorter than two passages, else cut after the first kind of break, and so on."""
    if len(text) < 2 * size or not breaks:
        return [text]
    ends = [0, *(found.end() for found in re.finditer(breaks[0], text)), len(text)]
    return [piece for start, end in pairwise(ends) for piece in _pieces(text[start:end], size, breaks[1:])]
