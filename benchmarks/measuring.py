"""What the benchmarks share: peak memory, and the file that they write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hyperfit_course.claims import save_results

TARGET = Path(__file__).resolve().parent.parent / "results" / "benchmarks.json"


def reset_peak_memory() -> None:
    """Start to watch the peak from here on."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the highest resident set so far


def peak_memory_megabytes() -> float:
    """Peak since the reset: of the GPU's allocations, else of the process; not a number where the system is silent."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def save_benchmark(name: str, rows: Sequence[Mapping[str, Any]], target: Path = TARGET) -> None:
    """Put the rows of one benchmark into results/benchmarks.json, in place of its earlier ones."""
    known = json.loads(target.read_text(encoding="utf-8"))["rows"] if target.exists() else []
    others = [row for row in known if row["benchmark"] != name]
    save_results(target, [*others, *({"benchmark": name, **row} for row in rows)])
