"""How does a study run? Part by part, each written when it is finished, so that it can stop at any moment and go on."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hyperfit_course.artifacts import CacheError, atomic_path, disk_errors, sha256_tensor
from hyperfit_course.models import fingerprint
from hyperfit_course.sources import code_behind
from hyperfit_course.study.arms import base_model, held_out, tokenizer_of
from hyperfit_course.study.battery import PARTS, StudyArm, arms_of, forget, subject_of, tasks_of
from hyperfit_course.study.config import StudyConfig, StudyError
from hyperfit_course.study.meter import Meter
from hyperfit_course.study.recording import Row, Task, record
from hyperfit_course.study.report import FAILED, write_report
from hyperfit_course.study.selfchecks import begin_rule, check_subject, checked
from hyperfit_course.study.untrusted import check_source

ROWS = "rows"  #: Folder of a study with a file of rows for each finished part.
ABOUT = "about.json"  #: What the study is of, the self-checks, and the list of its parts.


def study(
    config: StudyConfig, out: str = "study", plan: bool = False, resume: bool = False, source: str | None = None
) -> int:
    """Run a study, go on with one, or only plan it: what ``hyperfit study`` does.

    Args:
        config: as it was asked for; the preset fills in the rest.
        out: the folder of the study.
        plan: say what it takes, and stop.
        resume: go on in a folder of another study; rows that fit are kept.
        source: the folder of a study whose metrics and report are computed again, without a model.

    Returns:
        0 if every part was measured, 1 if one failed.

    Raises:
        StudyError: it cannot be run as asked.
    """
    if source is not None:
        from hyperfit_course.study.again import recompute

        return _ended(recompute(Path(source)), Path(source))
    config = config.resolved()
    check_source(config.model)
    if plan:
        from hyperfit_course.study.plan import print_plan

        return print_plan(config)
    folder = Path(out).expanduser()
    about = _prepared(config, folder, resume)
    _measure(config, folder, about)
    return _ended(write_report(folder), folder)


def _ended(data: dict[str, Any], folder: Path) -> int:
    failed = [f"  {part['name']}, {part['arm']}: {part['reason']}" for part in data["parts"] if part["reason"]]
    print(f"\nThe report is {folder / 'report.html'}, the numbers are in {folder / 'study.json'}.")
    if failed:
        print("\nNot measured:", *failed, sep="\n")
    return 1 if failed else 0


# Before it runs


def _prepared(config: StudyConfig, folder: Path, resume: bool) -> dict[str, Any]:
    """What the study is of, written to its folder, after the checks of model and texts."""
    known = _known(folder, resume)
    subject = subject_of(config)
    model, texts = base_model(subject), held_out(config.corpus, subject)
    tokenizer = tokenizer_of(subject)
    check_subject(model, tokenizer, texts)
    identity = {
        "config": _as_json(config),
        "weights": fingerprint(model),
        "texts": sha256_tensor(texts),
        "code": code_behind("hyperfit_course.study.battery"),
    }
    if known and known != identity and not resume:
        raise StudyError(
            f"The folder {folder} holds another study (it differs in {_difference(known, identity)}): name another "
            "with --out, or go on in this one with --resume, which measures again what no longer fits."
        )
    print("Self-checks of the measures on this model ...", flush=True)
    checks = checked(model, texts)
    for check in checks:
        print(f"  {'agrees ' if check.passed else 'DIFFERS'} {check.name}: {check.says}", flush=True)
    about = {
        "identity": identity,
        "model": {
            "name": subject.configuration()["model"],
            "class": type(model).__name__,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "vocabulary": model.get_input_embeddings().num_embeddings,
            "tokenizer_size": len(tokenizer),
            "tied_head": model.get_output_embeddings().weight is model.get_input_embeddings().weight,
            "revision": getattr(model.config, "_commit_hash", None),
            "begin_rule": begin_rule(tokenizer),
        },
        "checks": [asdict(check) for check in checks],
        "parts": [{"file": _file(part, arm), "name": part, **_arm_names(arm)} for part, arm in tasks_of(config)],
    }
    with disk_errors(folder):
        (folder / ROWS).mkdir(parents=True, exist_ok=True)
    _write_json(folder / ABOUT, about)
    for arm in {arm.seed: arm for arm in arms_of(config)}.values():
        _write_json(folder / f"trained_on_seed{arm.seed}.json", arm.splits()["train"].tolist())
    return about


def _known(folder: Path, resume: bool) -> dict[str, Any] | None:
    """The identity of the study that a folder holds, or None."""
    if folder.exists() and not folder.is_dir():
        raise StudyError(f"{folder} is a file, and a study needs a folder: name another with --out.")
    if (folder / ABOUT).exists():
        with contextlib.suppress(ValueError, KeyError):
            return json.loads((folder / ABOUT).read_text(encoding="utf-8"))["identity"]
        return None
    if folder.exists() and any(folder.iterdir()) and not resume:
        raise StudyError(f"The folder {folder} holds other files and no study: name another with --out.")
    return None


def _difference(known: dict[str, Any], now: dict[str, Any]) -> str:
    names = {"weights": "the weights of the model", "texts": "the texts", "code": "the version of the course"}
    found = [text for name, text in names.items() if known.get(name) != now[name]]
    old = known.get("config", {})
    return ", ".join([*(name for name, value in now["config"].items() if old.get(name) != value), *found])


def _as_json(config: StudyConfig) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}


def _write_json(path: Path, value: Any) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _file(part: str, arm: StudyArm) -> str:
    return re.sub(r"\W+", "_", f"{part} {arm.label} seed {arm.seed}")


def _arm_names(arm: StudyArm) -> Row:
    return {"arm": arm.label, "seed": arm.seed}


# While it runs


def _measure(config: StudyConfig, folder: Path, about: dict[str, Any]) -> None:
    """Measure every part that is not there yet; what fails is a row with its reason."""
    tasks, stopped = tasks_of(config), _stopped(about["checks"])
    identity = about["identity"]
    for old in (folder / ROWS).glob("*.json"):  # what failed is tried again, and what is no longer wanted goes
        rows = json.loads(old.read_text(encoding="utf-8"))["rows"]
        if old.stem not in {_file(*task) for task in tasks} or any(FAILED in row for row in rows):
            old.unlink()
    seconds: dict[str, list[float]] = {}
    lost: dict[StudyArm, str] = {}
    before: StudyArm | None = None
    for number, (part, arm) in enumerate(tasks):
        if arm != before:
            forget()
        before = arm
        configuration = {"part": part, **arm.configuration(), **{k: identity[k] for k in ("weights", "texts", "code")}}
        reason = lost.get(arm) or stopped.get(part)
        left = _time_left([name for name, _ in tasks[number:]], seconds)
        print(f"[{number + 1}/{len(tasks)}] {part}, {arm.label}, seed {arm.seed}{left}", flush=True)
        measure = functools.partial(_rows, part, arm, reason, folder, lost, seconds)
        with contextlib.redirect_stdout(io.StringIO()):  # this loop has said all that its tasks say
            record(_file(part, arm), [Task(part, configuration, measure)], folder / ROWS)
        write_report(folder)
    forget()


def _stopped(checks: list[dict[str, Any]]) -> dict[str, str]:
    """Parts that a failed check stops, and why."""
    return {part: f"The self-check {c['name']!r} failed: {c['says']}." for c in checks for part in c["stops"]}


def _rows(
    part: str,
    arm: StudyArm,
    reason: str | None,
    folder: Path,
    lost: dict[StudyArm, str],
    seconds: dict[str, list[float]],
) -> Iterator[Row]:
    if reason:
        yield {**_arm_names(arm), FAILED: reason}
        return
    with Meter(base_model(arm.subject).device) as meter:
        rows, reason = _tried(part, arm, folder)
    if reason and part == "training":
        lost[arm] = f"the arm could not be trained: {reason}"
    seconds.setdefault(part, []).append(meter.seconds)
    cost = {"seconds": round(meter.seconds, 1), "peak_gigabytes": round(meter.peak / 1e9, 3)}
    for row in [{**_arm_names(arm), FAILED: reason}] if reason else rows:
        yield {"part": part, **row, "cost": cost}


def _tried(part: str, arm: StudyArm, folder: Path) -> tuple[list[Row], str | None]:
    """The rows of a part, or the reason why there are none; the disk's errors end the study."""
    try:
        return list(PARTS[part].measure(arm)), None
    except CacheError:
        raise
    except Exception as error:  # out of memory, an unsupported architecture, a value that has no logarithm ...
        with (folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%F %T')} {part}, {arm.label}, seed {arm.seed}\n{traceback.format_exc()}\n")
        line = (str(error).strip().splitlines() or [""])[0]
        tqdm.write(f"  failed: {line}", file=sys.stderr)
        kind = "" if type(error).__module__.startswith("hyperfit_course.") else f"{type(error).__name__}: "
        return [], f"{kind}{line}"


def _time_left(parts: list[str], seconds: dict[str, list[float]]) -> str:
    """A guess from the parts that were measured in this run."""
    known = {name: sum(values) / len(values) for name, values in seconds.items()}
    if not known:
        return ""
    usual = sum(known.values()) / len(known)
    return f" (about {sum(known.get(name, usual) for name in parts) / 60:.0f} minutes left)"
