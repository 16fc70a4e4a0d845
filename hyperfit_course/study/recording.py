"""How do rows get into a file? Task by task: what is recorded already is not measured again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperfit_course.artifacts import atomic_path
from hyperfit_course.study.records import save_results

Row = dict[str, Any]  #: A row of measurements: JSON values by name.
TEXTS = "continuations"
"""Name of the value of a row that is kept apart: what a model wrote, as lists of token ids."""


@dataclass(frozen=True)
class Task:
    """A measurement that gives rows."""

    label: str  #: What its progress line says.
    configuration: Row  #: All that decides its numbers; a row whose configuration is another one is measured again.
    measure: Callable[[], Iterable[Row]]


def record(name: str, wanted: list[Task], folder: Path) -> None:
    """Measure the tasks that are not recorded yet, and save after each of them.

    The rows go to ``NAME.json``, and the texts of the rows that have some to ``texts/NAME.jsonl``, a line a row, in the
    same order: so a new measure of texts needs no model.

    Args:
        name: of the file, without ``.json``.
        wanted: all rows that the file shall hold, in this order; others are dropped.
        folder: where it is.

    Raises:
        CacheError: a file cannot be written; what stood in it is still there.
    """
    recorded = _load(name, folder)
    rows_of = [[row for row in recorded if row["configuration"] == task.configuration] for task in wanted]
    if sum(map(len, rows_of)) < len(recorded):
        _save(name, folder, rows_of)  # without the rows that are no longer wanted
    seconds: list[float] = []
    for number, task in enumerate(wanted):
        title = f"{name} [{number + 1}/{len(wanted)}] {task.label}"
        if rows_of[number]:
            print(f"{title}: recorded", flush=True)
            continue
        left = sum(not rows for rows in rows_of)
        rest = f", about {left * sum(seconds) / len(seconds) / 60:.0f} minutes left" if seconds else ""
        print(f"{title}: measuring, {left} to go{rest}", flush=True)
        start = time.monotonic()
        rows_of[number] = [row | {"configuration": task.configuration} for row in task.measure()]
        seconds.append(time.monotonic() - start)
        _save(name, folder, rows_of)


def recorded_texts(name: str, folder: Path) -> dict[str, list[list[int]]]:
    """The token ids of the texts that stand beside the rows of a file, by the value ``texts`` of their row."""
    path = folder / "texts" / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {line["texts"]: line[TEXTS] for line in map(json.loads, lines)}


def drop_damaged(folder: Path) -> None:
    """Remove files of rows that cannot be read, or whose texts cannot, and say so: they count as not recorded."""
    for path in sorted(folder.glob("*.json")):
        try:
            _load(path.stem, folder)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"  ({path}, or the texts of its rows, is damaged, and is made again: {error})", flush=True)
            path.unlink()
            (folder / "texts" / f"{path.stem}.jsonl").unlink(missing_ok=True)


def _load(name: str, folder: Path) -> list[Row]:
    """The rows of a file with their texts. Rows whose texts are lost count as not recorded."""
    target, texts = folder / f"{name}.json", recorded_texts(name, folder)
    rows = json.loads(target.read_text(encoding="utf-8"))["rows"] if target.exists() else []
    lost = [row["configuration"] for row in rows if "texts" in row and row["texts"] not in texts]
    known = [row for row in rows if row["configuration"] not in lost]
    return [row | {TEXTS: texts[row.pop("texts")]} if "texts" in row else row for row in known]


def _save(name: str, folder: Path, rows_of: list[list[Row]]) -> None:
    """Write both files. The texts come first: rows never stand there without theirs."""
    rows, lines = [], []
    for row in (dict(row) for rows in rows_of for row in rows):
        if TEXTS in row:
            texts = row.pop(TEXTS)
            row = {"texts": hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]} | row
            names = {key: value for key, value in row.items() if isinstance(value, str) or key == "seed"}
            lines.append(json.dumps({**names, TEXTS: texts}, separators=(",", ":")))
        rows.append(row)
    path = folder / "texts" / f"{name}.jsonl"
    if lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    save_results(folder / f"{name}.json", rows)
    if not lines:
        path.unlink(missing_ok=True)
