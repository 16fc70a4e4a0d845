"""Where does a number come from? Files of recorded results, each row with the machine and versions that gave it."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hyperfit_course.artifacts import atomic_path
from hyperfit_course.sources import PACKAGE


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
    # An installed package carries the results inside; in a checkout they stand beside the package.
    found = {
        path.stem: path
        for folder in (PACKAGE.parent / "results", PACKAGE / "results")
        for path in sorted(folder.glob("*.json"))
    }
    if name not in found:
        raise FileNotFoundError(
            f"There is no record {name!r}: choose one of {', '.join(found)}, or, if 'make results' makes it, run that "
            "in a checkout of the course."
        )
    return list(json.loads(found[name].read_text(encoding="utf-8"))["rows"])
