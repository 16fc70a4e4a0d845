"""Metrics and report of a study once more, from the texts in its folder and without a model."""

from __future__ import annotations

import json
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
        try:
            for path in sorted((folder / "rows").glob("*.json")):
                texts = recorded_texts(path.stem, folder / "rows")
                rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
                save_results(path, [row | _of_texts(row, texts, folder) for row in rows])
            return write_report(folder)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StudyError(
                f"A file in {folder} is damaged ({type(error).__name__}: {error}): run the study again with --resume, "
                "which measures again what is missing."
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
