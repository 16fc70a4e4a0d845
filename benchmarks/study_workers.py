"""How much sooner is a study done by two workers of a Dask cluster than by one, if one of the two is killed half-way?

    .venv/bin/python benchmarks/study_workers.py

Eight arms of the course's model, trained for a moment, on local clusters of one worker and of two, with one thread
each. When half of the parts are there, one of the two workers is killed, and Dask starts another. Prints the ratio of
the wall times (at most .6 is wanted), how many finished parts were measured again (0), and whether both studies left
the same JSON, times aside. Takes two free cores and two times 2 GB of memory. A small run, as a trial:
`--model FOLDER --seeds 1`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster

from hyperfit_course.artifacts import CACHE_VARIABLE, cache_dir
from hyperfit_course.models import load_model
from hyperfit_course.study.config import Names, Numbers, StudyConfig
from hyperfit_course.study.run import study

ARMS = Names(["last2", "middle2"])
PARTS = Names(["training", "writing", "prediction", "geometry"])


def main() -> int:
    """Run both studies; returns 0 if they are the same and nothing was measured twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="another model than that of the course")
    parser.add_argument("--seeds", type=int, default=4, help="two arms each")
    options = parser.parse_args()
    os.environ |= {"LOKY_MAX_CPU_COUNT": "1", "ACCELERATE_MIXED_PRECISION": "no"}  # one thread, the same numbers
    sizes: dict[str, Any] = {"train_texts": 8, "validation_texts": 4, "prompts": 4, "lora_epochs": 12}
    seeds = Numbers(range(options.seeds))
    config = StudyConfig(options.model, arms=ARMS, seeds=seeds, parts=PARTS, **sizes)
    load_model(options.model)  # converted once, for both
    with tempfile.TemporaryDirectory() as name:
        return compare(config, Path(name))


def compare(config: StudyConfig, folder: Path) -> int:
    """Both studies, each in a cache of its own, so that each trains all of its arms."""
    fetched, seconds, kept = cache_dir(), {}, {}
    for workers in (1, 2):
        cache = folder / f"cache{workers}"
        cache.mkdir()
        for kind in ("assets", "models"):  # what was fetched and converted need not be so again
            if (fetched / kind).is_dir():
                (cache / kind).symlink_to(fetched / kind)
        os.environ[CACHE_VARIABLE] = str(cache)
        out = folder / f"study{workers}"
        with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster:
            if workers == 2:
                parts = len(json.loads((folder / "study1" / "study.json").read_text(encoding="utf-8"))["parts"])
                killer = threading.Thread(target=kill_one, args=(cluster.scheduler_address, out, parts // 2, kept))
                killer.start()
            began = time.perf_counter()
            study(config, str(out), cluster=cluster.scheduler_address)
            seconds[workers] = time.perf_counter() - began
    killer.join()
    again = sum((out / "rows" / name).read_bytes() != content for name, content in kept.items())
    same = without_times(folder / "study1") == without_times(folder / "study2")
    print(f"\none worker {seconds[1]:.0f} s, two workers {seconds[2]:.0f} s, ratio {seconds[2] / seconds[1]:.2f}")
    print(f"one of two killed after {len(kept)} of {parts} parts; {again} finished parts measured again")
    print("the same JSON" if same else "ANOTHER JSON")
    return 0 if same and not again else 1


def kill_one(address: str, out: Path, half: int, kept: dict[str, bytes]) -> None:
    """Kill a worker that measures as soon as so many parts are there, and keep what they hold."""
    while len(done := list(out.glob("rows/*.json"))) < half:
        time.sleep(0.05)
    with Client(address, set_as_default=False) as client:
        busy = next(name for name, tasks in client.processing().items() if tasks)
        pid = client.run(os.getpid, workers=[busy])[busy]
    kept |= {path.name: path.read_bytes() for path in done}
    os.kill(pid, signal.SIGKILL)


def without_times(folder: Path) -> dict[str, Any]:
    """What two runs of one study share."""
    data: dict[str, Any] = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    for row in data["rows"]:
        del row["cost"], row["made"]
    return {**data, "made": None}


if __name__ == "__main__":
    raise SystemExit(main())
