"""``hyperfit export``: a trained model as a PEFT adapter, as merged safetensors, or as a GGUF file."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from hyperfit_course.artifacts import disk_errors
from hyperfit_course.commands.options import Exporting
from hyperfit_course.commands.train import new_place
from hyperfit_course.commands.trained import CARD, base_of, is_adapter, load_trained
from hyperfit_course.study.config import StudyError
from hyperfit_course.study.locks import only_writer
from hyperfit_course.study.untrusted import check_links, check_source


def export(options: Exporting) -> int:
    """Write the model in another form.

    Returns:
        0.

    Raises:
        StudyError: the form does not go with the model, or the place is taken.
    """
    if options.precision != "f32" and options.to != "gguf":
        raise StudyError("--precision goes with --to gguf only: leave it out, or add --to gguf.")
    if options.to == "gguf" and options.out.suffix != ".gguf":
        raise StudyError(f"--out {options.out} has to end in .gguf: name it {options.out.name}.gguf.")
    if options.to != "gguf" and options.out.suffix == ".gguf":
        raise StudyError(
            f"{options.out.name} would be a folder: add --to gguf for a GGUF file, or name it in another way."
        )
    write = {"peft": _copy_adapter, "safetensors": _merge, "gguf": _gguf}[options.to]
    out = new_place(options.out)
    with only_writer(out):
        write(options, new_place(out))  # another process may have written it just before
    print(f"Written: {out}")
    return 0


def merged(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The model with its adapters added to the weights."""
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


@contextlib.contextmanager
def _filled(out: Path) -> Iterator[Path]:
    """A folder to write to, which is ``out`` if the block ends well, and else is gone. One process at a time."""
    work = out.with_name(f".{out.name}.work")
    shutil.rmtree(work, ignore_errors=True)  # what a killed process has left
    try:
        with disk_errors(out):
            yield work
            work.replace(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _merge(options: Exporting, out: Path) -> None:
    model, tokenizer, _ = load_trained(options.model, options.base)
    with _filled(out) as work:
        merged(model).save_pretrained(work)
        tokenizer.save_pretrained(work)
        for name in (CARD, "README.md"):
            if (Path(options.model) / name).is_file():
                shutil.copy(Path(options.model) / name, work)


def _copy_adapter(options: Exporting, out: Path) -> None:
    name = options.model
    if not Path(name).expanduser().exists():
        raise StudyError(f"There is no folder {name}: check the path of the adapter.")
    if not is_adapter(name):
        raise StudyError(f"{name} is no adapter, so there is none to write: choose --to safetensors or gguf.")
    source = Path(name).expanduser()
    check_source(source)
    check_links(source.rglob("*"), source)  # what is copied may be published
    settings = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    with _filled(out) as work:
        shutil.copytree(source, work)
        settings["base_model_name_or_path"] = base_of(source).get("name")
        (work / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _gguf(options: Exporting, out: Path) -> None:
    from hyperfit_course.commands.gguf_file import template_for, write_gguf  # gguf is only needed here

    model, _, _ = load_trained(options.model, options.base)
    write_gguf(merged(model), template_for(options.model, options.base), out, options.precision)
    print(
        "llama.cpp rounds activations to 8 bits where weights are quantised, and texts part from those of transformers "
        "after some tokens: f32 is nearest."
        if options.precision != "f32"
        else "Try it: llama-cli -m " + str(out)
    )
