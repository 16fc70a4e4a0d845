"""A tiny model as a GGUF file like the course's: four-bit maps, an eight-bit embedding, one token a byte."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from peft import PeftModel
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import PreTrainedModel

from hyperfit_course.anatomy import blocks_of, linears_of
from hyperfit_course.late_stage import late_stage_lora

MAPS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
END = "<end>"


def turned(weight: Tensor, name: str, model: PreTrainedModel) -> Tensor:
    """Rows in llama.cpp's order: it pairs neighbours where transformers pairs the halves of a head."""
    heads = {"self_attn.q_proj": model.config.num_attention_heads, "self_attn.k_proj": model.config.num_key_value_heads}
    if name not in heads:
        return weight
    return weight.view(heads[name], 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write_model(model: PreTrainedModel, path: Path) -> None:
    """Write a Llama of 257 tokens, and round its weights to those that the file holds."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(2048)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*alphabet, END])
    writer.add_token_types([1] * len(alphabet) + [3])
    writer.add_token_merges([f"{alphabet[0]} {alphabet[0]}"])
    writer.add_eos_token_id(256)
    writer.add_bos_token_id(256)
    writer.add_add_bos_token(False)
    kind = gguf.GGMLQuantizationType
    embeddings = model.get_input_embeddings()
    embeddings.weight.data = add(writer, "token_embd.weight", embeddings.weight, kind.Q8_0)
    add(writer, "output_norm.weight", model.model.norm.weight, kind.F32)
    for number, block in enumerate(blocks_of(model)):
        add(writer, f"blk.{number}.attn_norm.weight", block.input_layernorm.weight, kind.F32)
        add(writer, f"blk.{number}.ffn_norm.weight", block.post_attention_layernorm.weight, kind.F32)
        for name, linear in linears_of(block).items():
            inverse = torch.argsort(turned(torch.arange(linear.weight.shape[0])[:, None], name, model)[:, 0])
            weight = turned(linear.weight, name, model)
            rounded = add(writer, f"blk.{number}.{MAPS[name]}.weight", weight, kind.Q4_1)
            linear.weight.data = rounded[inverse]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add(writer: gguf.GGUFWriter, name: str, weight: Tensor, kind: gguf.GGMLQuantizationType) -> Tensor:
    """Add a tensor; returns the weights that its numbers stand for."""
    values = weight.detach().float().contiguous().numpy()
    data = values if kind == gguf.GGMLQuantizationType.F32 else quantize(values, kind)
    writer.add_tensor(name, data, raw_dtype=None if kind == gguf.GGMLQuantizationType.F32 else kind)
    return torch.from_numpy(np.ascontiguousarray(dequantize(data, kind)).reshape(values.shape))


def adapted(model: PreTrainedModel, rank: int = 2, size: float = 0.2) -> PeftModel:
    """Adapters on all blocks, with B that is not zero."""
    with_adapters = late_stage_lora(model, list(range(len(blocks_of(model)))), rank=rank)
    torch.manual_seed(3)
    for name, parameter in with_adapters.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn_like(parameter) * size
    return with_adapters


def write_adapters(tensors: dict[str, Tensor], path: Path) -> None:
    """Write adapters as the course's tool does."""
    save_file(tensors, path, metadata={"seed": "0", "configuration": json.dumps({})})
