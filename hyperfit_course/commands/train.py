"""``hyperfit train``: one model, or adapters on it, saved with a card."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from hyperfit_course.artifacts import disk_errors
from hyperfit_course.commands.options import Training
from hyperfit_course.commands.trained import base_name, save_trained
from hyperfit_course.models import best_device, fingerprint
from hyperfit_course.processes import check_processes, is_main
from hyperfit_course.study.arms import base_model, tokenizer_of
from hyperfit_course.study.battery import arms_of, subject_of
from hyperfit_course.study.config import Names, Numbers, StudyConfig, StudyError
from hyperfit_course.study.locks import only_writer
from hyperfit_course.study.report import LOW_LOSS
from hyperfit_course.study.selfchecks import check_causal, check_subject
from hyperfit_course.study.untrusted import check_source
from hyperfit_course.training import arithmetic


def new_place(path: Path) -> Path:
    """A path to write to that is not there yet.

    Raises:
        StudyError: it is there, or there is no folder to put it into.
    """
    path = path.expanduser()
    if path.exists():
        raise StudyError(f"{path} is there already: name another with --out, or remove it first.")
    if not path.absolute().parent.is_dir():
        raise StudyError(f"There is no folder {path.parent} to put {path.name} into: make it first.")
    return path


def train(options: Training) -> int:
    """Train as asked, and save the model.

    Returns:
        0.

    Raises:
        StudyError: it cannot be trained or saved as asked.
    """
    out = new_place(options.out)
    try:
        config = _as_study(options).resolved()
    except StudyError as error:  # which names the options of a study
        raise StudyError(str(error).replace("--lora_", "--")) from error
    check_source(options.model)
    check_processes(best_device())  # of several, one writes
    with only_writer(out) if is_main() else contextlib.nullcontext():
        return _trained(options, config, new_place(out))  # another process may have written it just before


def _trained(options: Training, config: StudyConfig, out: Path) -> int:
    arm = arms_of(config)[1]
    subject = subject_of(config)
    base, tokenizer = base_model(subject), tokenizer_of(subject)
    texts = arm.splits()["train"]
    check_subject(base, tokenizer, texts)
    check_causal(base, texts[:1])
    model, history = arm.trained()
    if not is_main():
        return 0
    last = history.iloc[-1]
    results: dict[str, Any] = {name: round(float(last[name]), 4) for name in ("train_loss", "validation_loss")}
    card = {
        "base": {"name": base_name(options.model), "sha256": fingerprint(base)},
        "settings": {
            "corpus": _corpus_name(options.corpus),
            **arm_settings(options, config),
            "precision": arithmetic(best_device()),
        },
        "results": results | {"epochs": int(last["epoch"])},
    }
    with disk_errors(out):
        save_trained(model, tokenizer, out, card)
    print(
        f"\nTraining loss {results['train_loss']:.3f}, validation loss {results['validation_loss']:.3f} (nats a token)."
    )
    if results["train_loss"] > LOW_LOSS:
        print(
            f"This is not hyperfitted: the training loss has to be nearly zero (below {LOW_LOSS} nats). Train for more "
            "--epochs, or with another --learning_rate."
        )
    print(f"The {'model' if arm.rank is None else 'adapter'} is in {out}. Let it write: hyperfit generate {out}")
    return 0


def _corpus_name(corpus: str) -> str:
    """Without the folders of this machine."""
    return Path(corpus).name if Path(corpus).expanduser().exists() else corpus


def _as_study(options: Training) -> StudyConfig:
    full = options.arm == "full"
    return StudyConfig(
        model=options.model,
        corpus=options.corpus,
        arms=Names([options.arm]),
        seeds=Numbers([options.seed]),
        train_texts=options.train_texts,
        length=options.length,
        batch_size=options.batch_size,
        rank=options.rank,
        target_loss=options.target_loss,
        validation_texts=2,
        prompts=2,
        **{"epochs" if full else "lora_epochs": options.epochs},  # type: ignore[arg-type]
        **{"learning_rate" if full else "lora_learning_rate": options.learning_rate},  # type: ignore[arg-type]
    )


def arm_settings(options: Training, config: StudyConfig) -> dict[str, Any]:
    """What decided the training, for the card."""
    full = options.arm == "full"
    return {
        "arm": options.arm,
        "epochs at most": config.epochs if full else config.lora_epochs,
        "learning rate": config.learning_rate if full else config.lora_learning_rate,
        **({} if full else {"rank": config.rank}),
        **{name: getattr(config, name) for name in ("target_loss", "train_texts", "length", "batch_size")},
        "seed": options.seed,
    }
