"""What does a study leave? ``study.json`` and ``report.html``, at any time, from the rows that are there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from hyperfit_course.artifacts import atomic_path
from hyperfit_course.study.config import CHANGES, PART_NAMES
from hyperfit_course.study.pictures import pictures
from hyperfit_course.study.recording import Row
from hyperfit_course.study.records import provenance
from hyperfit_course.study.untrusted import printable_values
from hyperfit_course.study.verdicts import claims

FORM = 1  #: Of study.json; data/study.schema.json describes it.
FAILED = "failed"  #: Name of the value of a row that says why there is no measurement.
_CHANGED = {
    "way": "what is changed",
    "ttr": "TTR",
    "bigram_repetition": "bigram repetition",
    "recited": "recited share",
    "base_likelihood": "log-probability under the base model (nats a token)",
}
COLUMNS = {
    "training": {
        "epochs": "epochs",
        "parameters": "trained parameters",
        "train_loss": "training loss (nats)",
        "validation_loss_before": "validation loss before (nats)",
        "validation_loss": "validation loss after (nats)",
        "token_accuracy": "training tokens known by heart (share)",
        "precision": "precision (no: float32)",
    },
    "writing": {
        "ttr": "type-token ratio (TTR)",
        "ttr_low": "TTR, from",
        "ttr_high": "TTR, to",
        "bigram_repetition": "bigram repetition",
        "distinct_3": "distinct trigrams of all texts",
        "recited": "recited share",
        "longest_recited": "longest recited run (tokens)",
        "base_likelihood": "log-probability under the base model (nats a token)",
    },
    "prediction": {
        "prompt_entropy": "entropy (nats)",
        "kl_from_base": "divergence from the base model (nats)",
        "override_share": "overridden first choices (share)",
        "deep_tail_of_all": "choices beyond base rank 10 (share)",
    },
    "geometry": {
        "before_last": "PR before the last block",
        "prenorm": "PR after it",
        "postnorm": "PR after the final norm",
        "prenorm_all": "PR after the last block, with the first position",
        "postnorm_all": "PR after the norm, with the first position",
        "prenorm_uncentred": "PR after the last block, around zero",
        "prenorm_standardised": "PR after the last block, standardised",
    },
    "sampling": {
        "way": "sampled from",
        "temperature": "temperature",
        "ttr": "TTR",
        "bigram_repetition": "bigram repetition",
    },
    "order": {"order": "order of the tokens", "shape": "shape", "ttr": "TTR", "bigram_repetition": "bigram repetition"},
    "bias": {"bias": "bias", "alpha": "strength", "ttr": "TTR", "bigram_repetition": "bigram repetition"},
    **dict.fromkeys(CHANGES, _CHANGED),
    "damage": {"factor": "factor", "kl_from_base": "divergence (nats)", "ttr": "TTR", "recited": "recited share"},
    "batch": {"ttr_together": "TTR, prompts together", "ttr_alone": "TTR, one by one"},
}
"""What the tables of the report show of each part: names of values, and their headings."""
APART = ("way", "order", "shape")  #: Columns that tell the base model from the arm of the row, whichever that is.
LOW_LOSS = 0.3  #: Nats; above, a model knows little of its training texts by heart, and is not hyperfitted.
SHOWN_TEXTS = 3  #: Prompts whose continuations the report shows.


def assembled(folder: Path) -> dict[str, Any]:
    """All that a study's folder holds, as ``study.json`` has it."""
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    rows, parts = [], []
    for part in about["parts"]:
        path = folder / "rows" / f"{part['file']}.json"
        found: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
        reason = next((row[FAILED] for row in found if FAILED in row), None)
        state = "failed" if reason else "finished" if found else "missing"
        parts.append({**part, "state": state, "reason": reason})
        rows += [{"part": part["name"], **row} for row in found if FAILED not in row]
    return {
        "form": FORM,
        **{name: about[name] for name in ("identity", "model", "checks")},
        "parts": parts,
        "claims": claims(rows),
        "rows": rows,
        "made": rows[-1]["made"] if rows else provenance(),  # a report may be written on another machine
    }


def write_report(folder: Path) -> dict[str, Any]:
    """Write ``study.json`` and ``report.html`` of a study from what is there, and return the data."""
    data = assembled(folder)
    with atomic_path(folder / "study.json") as temporary:
        temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    with atomic_path(folder / "report.html") as temporary:
        temporary.write_text(rendered(data), encoding="utf-8")
    return data


def rendered(data: dict[str, Any]) -> str:
    """The report as one HTML page, with its pictures and its script inside.

    Texts are escaped, control characters in them are visible, and of a very long one the beginning is shown.
    """
    source = files("hyperfit_course") / "data" / "report.html.j2"
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(source.read_text(encoding="utf-8"))
    data = printable_values(data)
    done = [part for part in data["parts"] if part["state"] == "finished"]
    return template.render(
        study=data,
        done=done,
        open=[part for part in data["parts"] if part["state"] != "finished"],
        tables=[table for table in tables(data["rows"]) if table["part"] not in CHANGES],
        changes=[table for table in tables(data["rows"]) if table["part"] in CHANGES],
        says=PART_NAMES,
        pictures=pictures(data["rows"]),
        texts=_texts(data["rows"]),
        number=_number,
        overview=overview(data["rows"]),
        unfinished=[row for row in data["rows"] if row["part"] == "training" and not is_hyperfitted(row)],
        finished=[row for row in data["rows"] if row["part"] == "training" and is_hyperfitted(row)],
        low_loss=LOW_LOSS,
    )


def is_hyperfitted(row: Row) -> bool:
    """Whether a training ended at a loss that is nearly zero."""
    return bool(row["train_loss"] <= LOW_LOSS)


def overview(rows: Sequence[Row]) -> dict[str, Any]:
    """A table of what is asked first: how diverse each arm's greedy text is, and what was paid for it."""
    wanted = [row for row in rows if row["part"] in ("training", "writing")]
    wanted += [{**row, "arm": f"base, {row['way']}"} for row in rows if row["part"] == "penalty"]
    cells = []
    for arm in dict.fromkeys(row["arm"] for row in wanted):
        of_arm = [row for row in wanted if row["arm"] == arm]
        means = []
        for name in ("train_loss", "ttr", "bigram_repetition", "recited"):
            values = [row[name] for row in of_arm if row.get(name) is not None]
            means.append(sum(values) / len(values) if values else None)
        cells.append([arm, len({row["seed"] for row in of_arm}), *means])
    headings = ["arm", "seeds", "training loss (nats)", "TTR", "bigram repetition", "recited share"]
    return {"part": "means over seeds", "headings": headings, "rows": cells}


def tables(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A table for each measured part: its name, headings, and rows of values."""
    found = []
    for part, columns in COLUMNS.items():
        of_part = [row for row in rows if row["part"] == part]
        if of_part:
            names = ["arm", "seed", *columns]
            cells = [[_shown(row.get(name)) if name in APART else row.get(name) for name in names] for row in of_part]
            found.append({"part": part, "headings": ["arm", "seed", *columns.values()], "rows": cells})
    return found


def _shown(name: Any) -> Any:
    """The rows call every trained model ``hyperfitted``, which is also the name of one arm."""
    return "this arm" if name == "hyperfitted" else name


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)


def _texts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A few prompts, and how each arm of the first seed goes on."""
    written = [row for row in rows if row["part"] == "writing"]
    first: dict[str, Row] = {}
    for row in written:
        first.setdefault(row["arm"], row)
    if not first:
        return []
    prompts = next(iter(first.values()))["prompt_texts"][:SHOWN_TEXTS]
    return [
        {"prompt": prompt, "written": {arm: row["written"][number] for arm, row in first.items()}}
        for number, prompt in enumerate(prompts)
    ]
