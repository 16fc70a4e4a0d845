"""How does a study run? Part by part, each written when it is finished, so that it can stop at any moment and go on."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hyperfit_course.artifacts import atomic_path, disk_errors, sha256_tensor
from hyperfit_course.models import fingerprint
from hyperfit_course.optimizers import BITS_VARIABLE, moment_bits
from hyperfit_course.sources import code_behind
from hyperfit_course.study.arms import base_model, check_arms, corpus_digest, held_out, tokenizer_of
from hyperfit_course.study.battery import StudyArm, arms_of, subject_of, tasks_of
from hyperfit_course.study.config import OUT, StudyConfig, StudyError
from hyperfit_course.study.locks import STUDY_LOCK, only_study
from hyperfit_course.study.one_arm import BEGUN, ROWS, Work, file_of, measure_arm, names_of
from hyperfit_course.study.progress import Progress
from hyperfit_course.study.recording import drop_damaged
from hyperfit_course.study.report import FAILED, write_report
from hyperfit_course.study.selfchecks import begin_rule, check_subject, checked
from hyperfit_course.study.untrusted import check_source
from hyperfit_course.study.workers import Told, Workers, check_options, longest_first, on_this_machine

ABOUT = "about.json"  #: What the study is of, the self-checks, and the list of its parts.
ANOTHER = ", or name another folder with --out"  #: What else can be done than to wait for a process that works there.


def study(
    config: StudyConfig,
    out: str = OUT,
    plan: bool = False,
    resume: bool = False,
    source: str | None = None,
    jobs: int = 1,
    cluster: str | None = None,
) -> int:
    """Run a study, go on with one, or only plan it: what ``hyperfit study`` does.

    Args:
        config: as it was asked for; the preset fills in the rest.
        out: the folder of the study.
        plan: say what it takes, and stop.
        resume: go on in a folder of another study; rows that fit are kept.
        source: the folder of a study whose metrics and report are computed again, without a model.
        jobs: processes of this machine that measure arms at the same time.
        cluster: the address of a Dask scheduler whose workers measure them instead.

    Returns:
        0 if every part was measured, 1 if one failed.

    Raises:
        StudyError: it cannot be run as asked.
    """
    check_options(jobs, cluster, plan)
    if source is not None:
        if plan or resume or cluster or jobs > 1 or (config, out) != (StudyConfig(), OUT):
            raise StudyError("--from computes a study again as it was measured: leave all other options out.")
        from hyperfit_course.study.again import recompute

        return _ended(recompute(Path(source)), Path(source))
    config = config.resolved()
    check_source(config.model)
    if not tasks_of(config):
        raise StudyError(
            f"None of the arms {', '.join(config.arms or ())} has the part {', '.join(config.parts or ())}, and the "
            "base model has not: name other --parts or --arms."
        )
    if plan:
        from hyperfit_course.study.plan import print_plan

        return print_plan(config, jobs)
    folder = Path(out).expanduser()
    with contextlib.ExitStack() as stack:
        workers = on_this_machine(jobs, config)
        if cluster is not None:
            from hyperfit_course.study.cluster import cluster_workers

            workers = stack.enter_context(cluster_workers(cluster, config, folder.absolute()))
        about = _examined(config, folder, resume)
        with disk_errors(folder):
            (folder / ROWS).mkdir(parents=True, exist_ok=True)
        stack.enter_context(only_study(folder, ANOTHER))
        _begin(config, folder, about, resume)
        _measure(config, folder, about, workers)
        return _ended(write_report(folder), folder)


def _ended(data: dict[str, Any], folder: Path) -> int:
    failed = [f"  {part['name']}, {part['arm']}: {part['reason']}" for part in data["parts"] if part["reason"]]
    print(f"\nThe report is {folder / 'report.html'}, the numbers are in {folder / 'study.json'}.")
    if failed:
        print("\nNot measured:", *failed, sep="\n")
    return 1 if failed else 0


# Before it runs


def _examined(config: StudyConfig, folder: Path, resume: bool) -> dict[str, Any]:
    """What the study is of, after the checks of folder, model and texts; nothing is written."""
    _known(folder, resume)
    if (folder / STUDY_LOCK).exists():
        with only_study(folder, ANOTHER):  # or say at once that another process is at work
            pass
    subject = subject_of(config)
    model, texts = base_model(subject), held_out(config.corpus, subject)
    tokenizer = tokenizer_of(subject)
    check_subject(model, tokenizer, texts)
    check_arms(arms_of(config), model)
    identity = {
        "config": _as_json(config),
        "weights": fingerprint(model),
        "texts": sha256_tensor(texts),
        "corpus": corpus_digest(config.corpus),
        "code": code_behind("hyperfit_course.study.battery"),
        "moments": moment_bits(model.device),
    }
    _compare(identity, folder, resume)
    print("Self-checks of the measures on this model ...", flush=True)
    checks = checked(model, texts)
    for check in checks:
        print(f"  {'agrees ' if check.passed else 'DIFFERS'} {check.name}: {check.says}", flush=True)
    return {
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
        "parts": [{"file": file_of(part, arm), "name": part, **names_of(arm)} for part, arm in tasks_of(config)],
    }


def _begin(config: StudyConfig, folder: Path, about: dict[str, Any], resume: bool) -> None:
    """Write what the study is of, unless another process has begun another study in the meantime."""
    _compare(about["identity"], folder, resume)
    _write_json(folder / ABOUT, about)
    for arm in {arm.seed: arm for arm in arms_of(config)}.values():
        _write_json(folder / f"trained_on_seed{arm.seed}.json", arm.splits()["train"].tolist())


def _compare(identity: dict[str, Any], folder: Path, resume: bool) -> None:
    known = _known(folder, resume)
    if known and known != identity and not resume:
        raise StudyError(
            f"The folder {folder} holds another study (it differs in {_difference(known, identity)}): name another "
            "with --out, or go on in this one with --resume, which measures again what no longer fits."
        )


def _known(folder: Path, resume: bool) -> dict[str, Any] | None:
    """The identity of the study that a folder holds, or None."""
    if folder.exists() and not folder.is_dir():
        raise StudyError(f"{folder} is a file, and a study needs a folder: name another with --out.")
    if (folder / ABOUT).exists():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return dict(json.loads((folder / ABOUT).read_text(encoding="utf-8"))["identity"])
        return None
    # A study that was killed before it wrote what it is of leaves hidden files and no rows.
    mine = folder.exists() and [path for path in folder.iterdir() if path.name != ROWS and path.name[0] != "."]
    if mine and not resume:
        raise StudyError(f"The folder {folder} holds other files and no study: name another with --out.")
    return None


def _difference(known: dict[str, Any], now: dict[str, Any]) -> str:
    names = {
        "weights": "the weights of the model",
        "texts": "the held-out texts",
        "corpus": "the texts",
        "code": "the version of the course",
        "moments": f"the bits of the moments, which {BITS_VARIABLE} decides",
    }
    found = [text for name, text in names.items() if known.get(name) != now[name]]
    old = known.get("config", {})
    return ", ".join([*(name for name, value in now["config"].items() if old.get(name) != value), *found])


def _as_json(config: StudyConfig) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}


def _write_json(path: Path, value: Any) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


# While it runs


def _measure(config: StudyConfig, folder: Path, about: dict[str, Any], workers: Workers) -> None:
    """Measure every part that is not there yet, arm by arm."""
    drop_damaged(folder / ROWS)
    tasks = tasks_of(config)
    parts_of: dict[StudyArm, list[str]] = {}
    for part, arm in tasks:
        parts_of.setdefault(arm, []).append(part)
    wanted, others = {file_of(*task) for task in tasks}, 0
    for old in (folder / ROWS).glob("*.json"):  # what failed is tried again, and what was finished stays
        rows = json.loads(old.read_text(encoding="utf-8"))["rows"]
        if any(FAILED in row for row in rows):
            old.unlink()
        else:
            others += old.stem not in wanted
    if others:
        print(
            f"{others} finished parts in {folder / ROWS} are of arms, seeds or parts that this command does not name. "
            "They stay there. The report leaves them out until a command names them too, with --resume."
        )
    for old in (folder / ROWS).glob(f".*{BEGUN}"):
        old.unlink()
    work = Work(folder.absolute(), about["identity"], _stopped(about["checks"]))
    progress = Progress(tasks, workers.count)
    own: Progress | None = progress
    arms = list(parts_of)
    watched: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if workers.elsewhere:
        print(workers.line(), flush=True)
        own, watched = None, progress.watching(work.seconds_of)
        arms = longest_first(arms)
    with watched:
        calls = [(work, arm, parts_of[arm], own) for arm in arms]
        workers.run(measure_arm, calls, lambda: Told.of(subject_of(config), config.corpus))


def _stopped(checks: list[dict[str, Any]]) -> dict[str, str]:
    """Parts that a failed check stops, and why."""
    return {part: f"The self-check {c['name']!r} failed: {c['says']}." for c in checks for part in c["stops"]}
