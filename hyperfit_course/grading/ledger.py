"""Which notebooks are graded already? A table that grows row by row, so that a killed grader loses nothing."""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hyperfit_course.artifacts import atomic_path, disk_errors

END = "sha256"
"""Column of the part that the table has not: filled in the last row of a notebook, which is whole if it is there."""


class Ledger:
    """Rows of a table beside its last place, in ``NAME.part``, until the table is whole.

    The rows of one notebook are written together, before the next one is begun: a killed program loses none of them.
    Rows that an earlier run left are found again, for the same notebook and the same version of the course.

    Args:
        out: the table that it will become. What stands there is not touched.
        columns: names of its columns.
        course: a digest of the code that grades.

    Raises:
        CacheError: the part cannot be written.
    """

    def __init__(self, out: Path, columns: Sequence[str], course: str) -> None:
        self.part, self.columns, self.course = out.with_name(f"{out.name}.part"), [*columns, END], course
        self.files = (out, self.part, *_earlier(out))  #: What is not handed in, if it lies among submissions.
        self.known = self._left()  #: Rows as they stand in the part, by the digest of their notebook and its name.
        with atomic_path(self.part) as temporary:  # a notebook of which the end is missing goes
            head = dict(zip(self.columns, self.columns, strict=True))
            rows = [head, *(row for rows in self.known.values() for row in rows)]
            temporary.write_text(self._lines(rows), encoding="utf-8", newline="")

    def _left(self) -> dict[tuple[str, str], list[dict[str, str]]]:
        if not self.part.is_file():
            return {}
        with disk_errors(self.part):
            text = self.part.read_text(encoding="utf-8", errors="replace")
        found, rows = {}, []
        for row in csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")):
            if set(row) != set(self.columns) or None in row.values():
                return {}  # of another version of the course, or of another program
            rows.append(row)
            if row[END]:
                found[row[END], row["file"]] = rows
                rows = []
        return found

    def _lines(self, rows: Iterable[dict[str, Any]]) -> str:
        stream = io.StringIO(newline="")
        csv.DictWriter(stream, self.columns, lineterminator="\n").writerows(rows)
        return stream.getvalue()

    def digest(self, path: Path) -> str:
        """SHA-256 of a notebook together with the course that grades it, in hexadecimal."""
        return hashlib.sha256(self.course.encode() + path.read_bytes()).hexdigest()

    def add(self, rows: list[dict[str, Any]], digest: str) -> None:
        """Put down the rows of one file: all of them, or none if there is no room.

        Raises:
            CacheError: the disk is full or read-only.
        """
        lines = self._lines(row | {END: digest if row is rows[-1] else ""} for row in rows)
        with disk_errors(self.part), self.part.open("ab", buffering=0) as stream:
            end = stream.tell()
            try:
                if stream.write(lines.encode()) < len(lines.encode()):
                    stream.write(b"\n")  # raises the error of a full disk
            except OSError:
                stream.truncate(end)
                raise


def _earlier(out: Path) -> list[Path]:
    """Tables that were put aside for a newer one."""
    return list(out.parent.glob(f"{glob.escape(out.stem)}.old[0-9]*{glob.escape(out.suffix)}"))


def put_aside(out: Path, new: Path) -> Path | None:
    """Give the table that stands at ``out`` a name of its own, unless the new one is the same; that name, or None."""
    if not out.is_file() or out.read_bytes() == new.read_bytes():
        return None
    names = (out.with_name(f"{out.stem}.old{number}{out.suffix}") for number in itertools.count(1))
    return out.rename(next(name for name in names if not name.exists()))
