"""Write the adapters that the page "Write with it" downloads: one float16 file an arm of chapter 06, from seed 0.

The files are small enough to be committed, so building the book trains nothing. They are safetensors with the names
that PEFT gives, and their metadata say how they were made. Training an arm takes about five minutes on two cores, or
none if it is in the cache.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from course_results import EQUAL_STEPS, RANK, five
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor

from hyperfit_course.artifacts import atomic_path
from hyperfit_course.assets import ASSETS
from hyperfit_course.models import EMBEDDED
from hyperfit_course.study.arms import Arm

FOLDER = Path(__file__).resolve().parent.parent / "book" / "_static" / "live" / "adapters"
LIMIT = 2_000_000
"""Bytes of one file, at most."""
ARMS = {
    "all": Arm(EQUAL_STEPS, rank=RANK // 6),
    "last": five(EQUAL_STEPS, "last"),
    "middle": five(EQUAL_STEPS, "middle"),
}


def adapter_tensors(model: PeftModel) -> dict[str, Tensor]:
    """A and B of every adapter in float16, of shapes (rank, inputs) and (outputs, rank), by ``layers.0.self_attn...``.

    The strength of the adapters, ``alpha / rank``, is in B already: what is added to a weight is ``B @ A``.
    """
    layers = [each for each in model.modules() if isinstance(each, LoraLayer)]
    (strength,) = {each.scaling["default"] for each in layers}
    tensors = {}
    for name, tensor in get_peft_model_state_dict(model).items():
        short = name[name.index("layers.") :].removesuffix(".weight")
        tensors[short] = (tensor * strength if short.endswith("lora_B") else tensor).half().contiguous()
    return tensors


def read_adapters(model: PeftModel, file: Path) -> PeftModel:
    """Put the adapters of a file into a model that has such, and return it; they are computed with in float32."""
    tensors = load_file(file)
    for path, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            short = path[path.index("layers.") :]
            layer.lora_A["default"].weight.data = tensors[f"{short}.lora_A"].float()
            layer.lora_B["default"].weight.data = tensors[f"{short}.lora_B"].float() / layer.scaling["default"]
    return model.eval()


def described(arm: Arm) -> dict[str, str]:
    """How a file was made, as metadata: which command, which settings and which base model."""
    made: dict[str, Any] = {
        "command": "python tools/live_adapters.py",
        "arm": arm.label,
        "seed": arm.seed,
        "configuration": arm.configuration(),
        "base": {"name": EMBEDDED, "file": ASSETS["model"].filename, "sha256": ASSETS["model"].sha256},
        "torch": torch.__version__,
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in made.items()}


def write_adapter(name: str, arm: Arm) -> Path:
    """Train an arm, or take it from the cache, and write its file."""
    model = arm.trained()[0]
    assert isinstance(model, PeftModel)
    target = FOLDER / f"{name}.safetensors"
    with atomic_path(target) as temporary:
        save_file(adapter_tensors(model), temporary, metadata=described(arm))
        if (size := temporary.stat().st_size) > LIMIT:
            raise SystemExit(f"The adapters of {name} take {size:,} bytes: at most {LIMIT:,} are committed.")
    return target


def main() -> None:
    """Write every file, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(ARMS)} (default: all)")
    names = parser.parse_args().names or list(ARMS)
    if unknown := sorted(set(names) - set(ARMS)):
        parser.error(f"there is no {', '.join(unknown)}: choose from {', '.join(ARMS)}")
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    for name in names:
        target = write_adapter(name, ARMS[name])
        print(f"{target.name}: {target.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
    main()
