"""``hyperfit export``: a trained model as a PEFT adapter, as merged safetensors, or as a GGUF file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from hyperfit_course.artifacts import disk_errors
from hyperfit_course.commands.options import Exporting
from hyperfit_course.commands.train import new_place
from hyperfit_course.commands.trained import CARD, base_of, is_adapter, load_trained
from hyperfit_course.study.config import StudyError
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
    out = new_place(options.out)
    if options.to == "peft":
        _copy_adapter(options.model, out)
    elif options.to == "safetensors":
        model, tokenizer, _ = load_trained(options.model, options.base)
        work = out.with_name(f".{out.name}.work")
        with disk_errors(out):
            merged(model).save_pretrained(work)
            tokenizer.save_pretrained(work)
            for name in (CARD, "README.md"):
                if (Path(options.model) / name).is_file():
                    shutil.copy(Path(options.model) / name, work)
            work.replace(out)
    else:
        _gguf(options, out)
    print(f"Written: {out}")
    return 0


def merged(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The model with its adapters added to the weights."""
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


def _copy_adapter(name: str, out: Path) -> None:
    if not Path(name).expanduser().exists():
        raise StudyError(f"There is no folder {name}: check the path of the adapter.")
    if not is_adapter(name):
        raise StudyError(f"{name} is no adapter, so there is none to write: choose --to safetensors or gguf.")
    source = Path(name).expanduser()
    check_source(source)
    check_links(source.rglob("*"), source)  # what is copied may be published
    settings = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    with disk_errors(out):
        work = out.with_name(f".{out.name}.work")
        shutil.copytree(source, work, dirs_exist_ok=True)
        settings["base_model_name_or_path"] = base_of(source).get("name")
        (work / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        work.replace(out)


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
