"""Does it replicate? The papers' statements beside what was measured here.

A chapter ends with its claims. While the book is being built, they are also written to the file that the environment
variable ``HYPERFIT_CLAIMS`` names; running a notebook otherwise writes nothing.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from hyperfit_course.artifacts import atomic_path

pd.set_option("display.max_colwidth", None)  # a claim is a sentence, and pandas would cut it at 50 characters


@dataclass(frozen=True)
class Claim:
    """One statement and how it fared.

    ``paper`` and ``measured`` are short texts for a table, numbers with their units; ``interval`` is the 95 %
    interval of the measured number, where there is one. ``holds`` says whether the statement in ``claim`` is true here.
    """

    id: str
    chapter: str
    claim: str
    paper: str
    measured: str
    interval: tuple[float, float] | None
    n_prompts: int | None
    seed: int
    holds: bool


def claim_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """The claims of a chapter for its readers, one row each."""
    return pd.DataFrame(
        {
            "claim": claim.claim,
            "paper": claim.paper,
            "here": claim.measured,
            "95 % interval": "{:.3f} to {:.3f}".format(*claim.interval) if claim.interval else "",
            "verdict": verdict(claim),
        }
        for claim in claims
    ).set_index("claim")


def verdict(claim: Claim) -> str:
    """Whether a claim holds, in words."""
    return "holds" if claim.holds else "does not hold"


def record_claims(claims: Sequence[Claim]) -> str:
    """Write claims to the file that ``HYPERFIT_CLAIMS`` names, if it is set, in place of older ones with their ids.

    Returns:
        One line a claim, its id and whether it holds. It is the same on every machine, unlike the measured numbers,
        so it is what the tests of the notebooks compare.
    """
    target = os.environ.get("HYPERFIT_CLAIMS")
    if target:
        path = Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        merged = {row["id"]: row for row in known} | {claim.id: asdict(claim) for claim in claims}
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps([merged[key] for key in sorted(merged)], indent=1) + "\n", encoding="utf-8")
    return "\n".join(f"{claim.id}: {verdict(claim)}" for claim in claims)


def save_results(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of measurements, each with the machine, the versions and the date that gave it (``made``).

    A row that has been recorded before brings its own ``made`` and keeps it.
    """
    made = provenance()
    marked = [{**row, "made": row.get("made", made)} for row in rows]
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"rows": marked}, indent=1) + "\n", encoding="utf-8")


def provenance() -> dict[str, str | None]:
    """What numbers depend on beside the code: the date, this machine and the versions of its libraries."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{package: version(package) for package in ("hyperfit-course", "torch", "transformers", "accelerate")},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()} ({torch.backends.cpu.get_cpu_capability()})"
    return platform.processor() or platform.machine()


def recorded(name: str) -> list[dict[str, Any]]:
    """The rows of ``results/<name>.json``: what ``make results`` measured, since it takes too long for a notebook.

    Raises:
        FileNotFoundError: nothing has been recorded under that name.
    """
    package = Path(__file__).parent
    # An installed package carries the results inside; in a checkout they stand beside the package.
    for folder in (package / "results", package.parent / "results"):
        path = folder / f"{name}.json"
        if path.is_file():
            return list(json.loads(path.read_text(encoding="utf-8"))["rows"])
    raise FileNotFoundError(f"There is no results/{name}.json: run 'make results' in a checkout of the course.")
