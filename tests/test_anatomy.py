from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import FAMILIES, tiny_model
from torch import nn
from transformers import GPT2Config, GPT2Model, PreTrainedModel

from hyperfit_course.anatomy import AnatomyError, anatomy, blocks_of, body_of, linears_of, unwrapped
from hyperfit_course.late_stage import late_stage_lora

FINAL_NORM = {
    "llama": "model.norm",
    "qwen2": "model.norm",
    "gemma": "model.norm",
    "gpt2": "transformer.ln_f",
    "neox": "gpt_neox.final_layer_norm",
    "opt": "model.decoder.final_layer_norm",  # made before the blocks, used after them
}
BLOCKS = {"gpt2": "transformer.h", "neox": "gpt_neox.layers", "opt": "model.decoder.layers"}


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_every_family(family: str) -> None:
    model = FAMILIES[family]()
    parts = anatomy(model)
    assert parts.blocks is model.get_submodule(BLOCKS.get(family, "model.layers"))
    assert parts.final_norm is model.get_submodule(FINAL_NORM[family])
    assert parts.head is model.get_output_embeddings()


@pytest.mark.parametrize(("family", "count"), [("llama", 7), ("qwen2", 7), ("gemma", 7), ("gpt2", 4), ("neox", 4)])
def test_all_linear_maps_of_a_block(family: str, count: int) -> None:
    linears = linears_of(blocks_of(FAMILIES[family]())[0])
    assert len(linears) == count
    assert all(module.weight.ndim == 2 for module in linears.values())


def test_adapters_do_not_hide_the_parts() -> None:
    model = tiny_model()
    adapted = late_stage_lora(model, [1])
    assert unwrapped(adapted) is model
    assert body_of(adapted) is model.model
    assert anatomy(adapted).blocks is model.model.layers


def test_model_without_blocks_is_refused(model: PreTrainedModel) -> None:
    model.model.layers = nn.Identity()
    with pytest.raises(AnatomyError, match="No blocks were found in LlamaForCausalLM"):
        blocks_of(model)


def test_model_without_a_head_is_refused() -> None:
    body = GPT2Model(GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=64))
    with pytest.raises(AnatomyError, match="load it as a causal language model"):
        anatomy(body)


def test_model_without_a_final_norm_is_refused(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_norm(input_ids: torch.Tensor, **_: object) -> tuple[torch.Tensor]:
        hidden = model.model.embed_tokens(input_ids)
        rotary = model.model.rotary_emb(hidden, torch.arange(input_ids.shape[1])[None])
        for block in model.model.layers:
            hidden = block(hidden, position_embeddings=rotary)
        return (hidden,)

    monkeypatch.setattr(model.model, "forward", without_norm)
    with pytest.raises(AnatomyError, match="applies no norm after its last block"):
        anatomy(model)


def test_hooks_are_gone_afterwards(model: PreTrainedModel) -> None:
    anatomy(model)
    hooked: Callable[[nn.Module], bool] = lambda module: bool(module._forward_hooks)  # noqa: E731
    assert not any(map(hooked, model.modules()))
