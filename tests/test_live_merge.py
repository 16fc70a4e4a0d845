"""The page "Write with it" merges adapters in JavaScript: Node's results against those of PEFT and of gguf."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import live_model
import numpy as np
import pytest
import torch
from conftest import tiny_model
from gguf.quants import dequantize, quantize
from live_adapters import ARMS, FOLDER, LIMIT, adapter_tensors, described, read_adapters
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from transformers import PreTrainedModel

from hyperfit_course.anatomy import blocks_of, linears_of
from hyperfit_course.late_stage import late_stage_lora

NODE = Path(sys.executable).with_name("node")
JS = Path(__file__).resolve().parent / "js"


def node(*arguments: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([NODE, *arguments], capture_output=True, text=True, timeout=120)


@pytest.fixture
def merged(tmp_path: Path, model: PreTrainedModel) -> Path:
    live_model.write_model(model, tmp_path / "base.gguf")
    return tmp_path


def run_merge(folder: Path, model: PreTrainedModel, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Merged weights by the page's code and by PEFT, in one order; the merged file is ``merged.gguf``."""
    adapted = live_model.adapted(model)
    live_model.write_adapters(adapter_tensors(adapted), folder / "arm.safetensors")
    files = [folder / name for name in ("base.gguf", "arm.safetensors", "weights.bin", "merged.gguf")]
    done = node(JS / "merged_weights.mjs", files[0], files[1], str(strength), *files[2:])
    assert done.returncode == 0, done.stderr
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            module.scaling["default"] *= strength
    peft = adapted.merge_and_unload()
    by_name = {
        f"blk.{number}.{live_model.MAPS[name]}.weight": live_model.turned(linear.weight.detach(), name, peft)
        for number, block in enumerate(blocks_of(peft))
        for name, linear in linears_of(block).items()
    }
    order = [tensor.name for tensor in gguf.GGUFReader(files[0]).tensors if tensor.name in by_name]
    assert len(order) == 14
    expected = np.concatenate([by_name[name].numpy().ravel() for name in order])
    return np.fromfile(files[2], dtype=np.float32), expected


@pytest.mark.parametrize("strength", [0.5, 1.0, 1.5])
def test_merged_weights_are_those_of_peft(merged: Path, model: PreTrainedModel, strength: float) -> None:
    before = torch.cat([m.weight.flatten() for b in blocks_of(model) for m in linears_of(b).values()]).detach().norm()
    found, expected = run_merge(merged, model, strength)
    assert np.linalg.norm(expected) > 1.01 * before, "the adapters change nothing: the test would see no error"
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


def test_adapters_come_back_from_their_file(tmp_path: Path, model: PreTrainedModel) -> None:
    ids = torch.arange(20)[None]
    adapted = live_model.adapted(model, size=1.0).eval()
    live_model.write_adapters(adapter_tensors(adapted), tmp_path / "arm.safetensors")
    expected, plain = adapted(ids).logits, tiny_model()(ids).logits
    found = read_adapters(late_stage_lora(tiny_model(), [0, 1], rank=2), tmp_path / "arm.safetensors")(ids).logits
    assert (expected - plain).norm() > 0.5 * plain.norm()
    assert (found - expected).norm() < 0.01 * expected.norm()  # float16 in the file


def test_a_merged_file_holds_eight_bit_weights_and_everything_else_unchanged(
    merged: Path, model: PreTrainedModel
) -> None:
    found, _ = run_merge(merged, model, 1.0)
    base, made = (gguf.GGUFReader(merged / name) for name in ("base.gguf", "merged.gguf"))
    assert [t.name for t in made.tensors] == [t.name for t in base.tensors]
    assert {n: f.contents() for n, f in made.fields.items()} == {n: f.contents() for n, f in base.fields.items()}
    start = 0
    for old, new in zip(base.tensors, made.tensors, strict=True):
        assert list(new.shape) == list(old.shape)
        if old.tensor_type == gguf.GGMLQuantizationType.Q4_1:
            weights = found[start : start + old.n_elements].reshape(old.shape[::-1])
            start += old.n_elements
            assert new.tensor_type == gguf.GGMLQuantizationType.Q8_0
            expected = dequantize(quantize(weights, gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0)
            got = dequantize(new.data, gguf.GGMLQuantizationType.Q8_0)
            # A level may differ where a weight lies between two of them to the last bit.
            assert np.mean(got != expected) < 1e-3
            assert np.linalg.norm(got - expected) < 1e-3 * np.linalg.norm(expected)
        else:
            assert new.tensor_type == old.tensor_type
            assert np.array_equal(new.data, old.data)
    assert start == len(found)


def test_strength_zero_is_the_base_file_to_the_byte(merged: Path, model: PreTrainedModel) -> None:
    run_merge(merged, model, 0.0)
    assert (merged / "merged.gguf").read_bytes() == (merged / "base.gguf").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a model, but long enough", "it is no GGUF file"), (b"GGUF\x02" + bytes(40), "only version 3")],
)
def test_a_file_that_is_no_model_is_refused_in_one_sentence(
    merged: Path, model: PreTrainedModel, content: bytes, message: str
) -> None:
    live_model.write_adapters(adapter_tensors(live_model.adapted(model)), merged / "arm.safetensors")
    (merged / "base.gguf").write_bytes(content)
    done = node(
        JS / "merged_weights.mjs", merged / "base.gguf", merged / "arm.safetensors", "1", "/dev/null", "/dev/null"
    )
    assert done.returncode
    assert f"The model's file cannot be read ({message}" in done.stderr


def test_units_of_the_page_pass_under_node() -> None:
    done = node("--test", *sorted(JS.glob("*.test.mjs")))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ARMS)
def test_committed_adapters_are_small_and_say_how_they_were_made(name: str) -> None:
    path = FOLDER / f"{name}.safetensors"
    assert path.stat().st_size <= LIMIT
    with safe_open(path, framework="pt") as file:
        kept, expected = file.metadata(), described(ARMS[name])
        names = list(file.keys())
    assert {key: kept[key] for key in expected if key != "torch"} == {k: v for k, v in expected.items() if k != "torch"}
    blocks = {int(key.split(".")[1]) for key in names}
    assert blocks == {"all": set(range(30)), "last": set(range(25, 30)), "middle": set(range(13, 18))}[name]
    assert len(names) == 14 * len(blocks)
