"""Metrics and report of a study once more, from the texts in its folder and without a model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hyperfit_course.study.config import StudyError
from hyperfit_course.study.locks import only_study
from hyperfit_course.study.recording import Row, recorded_texts
from hyperfit_course.study.records import save_results
from hyperfit_course.study.report import write_report
from hyperfit_course.study.writing import diversity_across, recitation_row, repetition_row


def recompute(folder: Path) -> dict[str, Any]:
    """Compute what the texts alone decide, and write the report anew; the data of ``study.json``.

    Likelihoods, and all that a model says of other texts, stay as they are.

    Raises:
        StudyError: the folder holds no study, or a damaged one, or another process works on it.
    """
    if not (folder / "about.json").is_file():
        raise StudyError(f"The folder {folder} holds no study: name one that 'hyperfit study' made.")
    with only_study(folder):
        for path in sorted((folder / "rows").glob("*.json")):
            with _whole(f"{path}, or the texts of its rows,", folder):
                texts = recorded_texts(path.stem, folder / "rows")
                rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
                rows = [row | _of_texts(row, texts, folder) for row in rows]
            save_results(path, rows)
        with _whole(str(folder / "about.json"), folder):
            return write_report(folder)


@contextlib.contextmanager
def _whole(what: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(
            f"{what} is damaged ({type(error).__name__}): start the command that made the study again, with the same "
            f"options and --out {folder}, which measures again what is missing."
        ) from error


def _of_texts(row: Row, known: dict[str, list[list[int]]], folder: Path) -> Row:
    if row.get("texts") not in known:
        return {}
    texts = torch.tensor(known[row["texts"]])
    found = {**repetition_row(texts, len(texts) // row["n_prompts"]), **diversity_across(texts)}
    if "recited" in row:
        source = json.loads((folder / f"trained_on_seed{row['seed']}.json").read_text(encoding="utf-8"))
        found |= recitation_row(texts, torch.tensor(source))
    return found
