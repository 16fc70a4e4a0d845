"""What the benchmarks share: a process for each measurement, peak memory, and the file that they write."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hyperfit_course.study.records import save_results

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


def time_in_turn(description: str, ways: Mapping[str, Callable[[], float]]) -> dict[str, dict[str, Any]]:
    """The command line of a benchmark: time each way in a process of its own, all ways in turn, several times.

    A process of its own, since memory that one way leaves behind, or settings that it makes, would help another.

    Args:
        description: what ``--help`` prints.
        ways: functions that give the seconds of one epoch.

    Returns:
        For each way ``seconds`` (of every run), ``median_seconds`` and ``peak_memory_megabytes``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="how often each way is timed (default: 5)")
    parser.add_argument("--only", choices=ways, help="time this way, once, and print what came out as JSON")
    arguments = parser.parse_args()
    if arguments.only:
        seconds = ways[arguments.only]()
        print(json.dumps({"seconds": seconds, "megabytes": peak_memory_megabytes()}))
        sys.exit()
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for run in range(1, arguments.runs + 1):
        for name in ways:
            command = [sys.executable, sys.argv[0], "--only", name]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            measured[name].append(json.loads(output.splitlines()[-1]))
            print(f"run {run}/{arguments.runs} {name}: {measured[name][-1]['seconds']:.2f} s", flush=True)
    return {
        name: {
            "seconds": [round(run["seconds"], 2) for run in runs],
            "median_seconds": round(statistics.median(run["seconds"] for run in runs), 2),
            "peak_memory_megabytes": round(max(run["megabytes"] for run in runs), -1),
        }
        for name, runs in measured.items()
    }


def save_benchmark(name: str, rows: Sequence[Mapping[str, Any]], target: Path = TARGET) -> None:
    """Put the rows of one benchmark into results/benchmarks.json, in place of its earlier ones."""
    known = json.loads(target.read_text(encoding="utf-8"))["rows"] if target.exists() else []
    others = [row for row in known if row["benchmark"] != name]
    save_results(target, [*others, *({"benchmark": name, **row} for row in rows)])
