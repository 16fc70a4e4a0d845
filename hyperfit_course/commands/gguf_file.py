"""A GGUF file of a trained model: the description and the tokenizer of its base's file, and the trained weights.

What llama.cpp needs to know beside the weights (tokenizer, merges, chat template, sizes) stands in the file that the
base came from, and is copied from there. So this works for the course's model and for any base that is a GGUF file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from tqdm import tqdm
from transformers import PreTrainedModel

from hyperfit_course.artifacts import atomic_path
from hyperfit_course.assets import fetch
from hyperfit_course.commands.trained import base_of
from hyperfit_course.models import EMBEDDED
from hyperfit_course.study.config import StudyError

KINDS = {"f32": (Kind.F32, 0), "f16": (Kind.F16, 1), "q8_0": (Kind.Q8_0, 7)}
"""For each precision the type of the matrices, and the number by which llama.cpp calls such a file."""
_OWN = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")


def template_for(model: str, base: str | None = None) -> Path:
    """The GGUF file that a trained model's base came from.

    Raises:
        StudyError: the base came from no GGUF file.
    """
    name = base or (model if model.endswith(".gguf") else base_of(Path(model).expanduser()).get("name"))
    if name == EMBEDDED:
        return fetch("model")
    if name and name.endswith(".gguf") and Path(name).expanduser().is_file():
        return Path(name).expanduser()
    raise StudyError(
        f"The base of {model} ({name or 'not named'}) is no GGUF file here, and its tokenizer would have to come from "
        "one: name the file with --base, or export safetensors and use convert_hf_to_gguf.py of llama.cpp."
    )


def write_gguf(model: PreTrainedModel, template: Path, out: Path, precision: str) -> None:
    """Write the weights of a model in the place of those of another GGUF file.

    Args:
        model: without adapters.
        template: a GGUF file with the same tensors.
        precision: of the matrices, from :data:`KINDS`; norms and biases stay in float32.

    Raises:
        StudyError: the file is of another model.
    """
    reader = gguf.GGUFReader(template)
    architecture = reader.fields["general.architecture"].contents()
    tensors = _named(model, architecture, {tensor.name for tensor in reader.tensors})
    kind, number = KINDS[precision]
    with atomic_path(out) as temporary:
        writer = gguf.GGUFWriter(temporary, architecture)
        for name, field in reader.fields.items():
            if not name.startswith(_OWN):
                inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
        writer.add_file_type(number)
        if precision == "q8_0":
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for name, array in tqdm(tensors.items(), desc="weights", unit="tensor"):
            # A row of a quantised matrix is cut into pieces of 32.
            wanted = kind if array.ndim == 2 and (kind != Kind.Q8_0 or array.shape[-1] % 32 == 0) else Kind.F32
            writer.add_tensor(name, gguf.quantize(array, wanted), raw_dtype=wanted)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _named(model: PreTrainedModel, architecture: str, wanted: set[str]) -> dict[str, np.ndarray]:
    """The weights by their names in a GGUF file; a tied head that the file leaves out is left out."""
    known = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(known[architecture], model.config.get_text_config().num_hidden_layers)
    found = {}
    for name, tensor in model.state_dict().items():
        array = tensor.detach().float().cpu().numpy()
        if architecture == "llama":
            array = _rotary(name, array, model.config)
        found[str(names.get_name(name, (".weight", ".bias")))] = np.ascontiguousarray(array)
    missing = sorted(wanted - set(found))
    spare = sorted(set(found) - wanted - {"output.weight"})
    if missing or spare:
        raise StudyError(
            f"The GGUF file is of another model (it has {missing[:3] or 'nothing'} that this one lacks, and lacks "
            f"{spare[:3] or 'nothing'}): name the file of the right base with --base."
        )
    return {name: array for name, array in found.items() if name in wanted}


def _rotary(name: str, array: np.ndarray, config: Any) -> np.ndarray:
    """llama.cpp keeps the two halves of a rotary pair side by side, and transformers keeps all first halves first."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for part, count in heads.items():
        if part in name:
            return array.reshape(count, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
    return array
