"""What do studies of many models say together? The files of ``results/models``: the ``study.json`` of each model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from hyperfit_course.sources import PACKAGE
from hyperfit_course.study.verdicts import claims

Study = dict[str, Any]  #: What ``study.json`` holds.
COMPARED = {
    "hyperfit-ttr": "more diverse when hyperfitted (TTR)",
    "temperature-sampled-ttr": "more diverse at equal sharpness (TTR, sampled)",
    "hyperfit-recites-little": "recites less than a tenth (share to spare)",
    "terminal-expansion-prenorm": "expansion after the last block (log of the ratio)",
    "late-stage-ttr": "more diverse with the last five blocks (TTR)",
}
"""Statements by which models are compared, and how a plot calls their effects."""


def collected(folder: Path | None = None) -> dict[str, Study]:
    """The studies of a folder by the names of their files without ``.json``, in the order of the names.

    Args:
        folder: ``results/models`` by default. It may be empty, or not there.
    """
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(_folder(folder).glob("*.json"))}


def _folder(given: Path | None) -> Path:
    # An installed package carries the results inside; in a checkout they stand beside the package.
    folders = [given] if given else [PACKAGE / "results" / "models", PACKAGE.parent / "results" / "models"]
    return next((folder for folder in folders if folder.is_dir()), folders[-1])


def file_stem(data: Study) -> str:
    """The name, without ``.json``, under which a study is collected: that of its model.

    A second study of a model has another word behind it: ``NAME.news``, say.
    """
    return re.sub(r"[^\w.-]+", "--", data["model"]["name"])


def problems(name: str, data: Study) -> list[str]:
    """Why a study that fits the schema cannot be collected yet, in sentences; nothing if it can.

    Args:
        name: of its file, without ``.json``.
        data: the study.
    """
    config = data["identity"]["config"]
    found = [
        f"The {what} is named by a path of one machine ({given}): name it by its hub id, or from its own folder."
        for what, given in (("model", data["model"]["name"]), ("corpus", str(config["corpus"])))
        if re.match(r"[/~\\]|\w:|\.\.", given)
    ]
    if (stem := file_stem(data)) != name and not name.startswith(f"{stem}."):
        found.append(f"The file is named {name}.json: call it {stem}.json, or {stem}.WORD.json for a second study.")
    if missing := [f"{part['name']} of {part['arm']}" for part in data["parts"] if part["state"] == "missing"]:
        found.append(f"Parts are missing ({', '.join(missing)}): start the study again, it goes on.")
    if not {"date", "machine", "python", "torch", "transformers"} <= data["made"].keys():
        found.append("It does not say when, where and with which versions it was made.")
    now = {claim["id"]: claim["values"] for claim in claims(data["rows"])}
    if changed := [c["id"] for c in data["claims"] if c["values"] and not _alike(c["values"], now.get(c["id"], {}))]:
        found.append(f"Effects do not follow from its rows ({', '.join(changed)}): run 'hyperfit study --from FOLDER'.")
    return found


def _alike(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return one.keys() == other.keys() and all(abs(one[seed] - other[seed]) < 1e-6 for seed in one)


def overview(studies: Mapping[str, Study]) -> pd.DataFrame:
    """A row a study: what was studied, how well it was learned, and how diverse the text became."""
    rows = {name: _of_study(data) for name, data in studies.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def _of_study(data: Study) -> dict[str, Any]:
    config, model = data["identity"]["config"], data["model"]
    ttr = {arm: _mean(data, "writing", arm, "ttr") for arm in ("base", "hyperfitted")}
    return {
        "model": model["name"],
        "parameters (millions)": f"{model['parameters'] / 1e6:,.0f}",
        "texts": f"{config['train_texts']} of {config['corpus']}",
        "seeds": len(config["seeds"]),
        "training loss (nats)": _mean(data, "training", "hyperfitted", "train_loss"),
        "TTR, base": ttr["base"],
        "TTR, hyperfitted": ttr["hyperfitted"],
        "recited share": _mean(data, "writing", "hyperfitted", "recited"),
        "not measured": sum(part["state"] != "finished" for part in data["parts"]),
        "made": f"{data['made']['date']}, {data['made'].get('gpu') or data['made']['machine']}",
    }


def _mean(data: Study, part: str, arm: str, column: str) -> str:
    """The mean over the seeds of an arm, as a table shows it."""
    found = [row[column] for row in data["rows"] if row["part"] == part and row["arm"] == arm]
    return f"{sum(found) / len(found):.3f}" if found else ""


def effects(studies: Mapping[str, Study]) -> pd.DataFrame:
    """The effects of the statements in :data:`COMPARED`: a row for each study that has measured one.

    Columns are ``id``, ``study``, ``mean``, ``low``, ``high`` (the 95 % interval over seeds; nan with one seed),
    ``threshold`` and ``verdict``.
    """
    rows = []
    for name, data in studies.items():
        for claim in claims(data["rows"]):
            if claim["id"] in COMPARED and claim["values"]:
                mean = sum(claim["values"].values()) / len(claim["values"])
                interval = {each: (claim["estimate"] or {}).get(each) for each in ("low", "high")}
                known = {each: claim[each] for each in ("id", "threshold", "verdict")}
                rows.append({**known, "study": name, "mean": mean, **interval})
    return pd.DataFrame(rows, columns=["id", "study", "mean", "low", "high", "threshold", "verdict"]).astype(
        {"mean": float, "low": float, "high": float, "threshold": float}
    )
