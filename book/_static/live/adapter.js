// What does an arm add to the base model? Low-rank adapters, from a safetensors file with PEFT's names.

import { fromHalf } from "./numbers.js";

/**
 * @typedef {{A: Float32Array, B: Float32Array, rank: number}} Adapter
 *   A of shape (rank, inputs) and B of shape (outputs, rank), row by row; B @ A is added to the weight.
 */

/** GGUF's names of the linear maps of a block. */
const MAPS = {
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
};

/**
 * The adapters of a file, by the names that GGUF has for the tensors which they change.
 * @param {ArrayBuffer} buffer
 * @returns {Map<string, Adapter>}
 */
export function readAdapters(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const adapters = new Map();
  for (const [name, entry] of Object.entries(head)) {
    const found = /^layers\.(\d+)\.(.+)\.lora_([AB])$/.exec(name);
    if (!found) continue; // how the file was made
    const [, block, map, part] = found;
    const tensor = `blk.${block}.${MAPS[map]}.weight`;
    const adapter = adapters.get(tensor) ?? {};
    adapter[part] = halves(buffer.slice(8 + length + entry.data_offsets[0], 8 + length + entry.data_offsets[1]));
    if (part === "A") adapter.rank = entry.shape[0];
    adapters.set(tensor, adapter);
  }
  return adapters;
}

const halves = (buffer) => Float32Array.from(new Uint16Array(buffer), fromHalf);

/**
 * The row of B that belongs to a row of a tensor.
 *
 * Rotary position embeddings turn pairs of numbers. Transformers pairs a number of a head's first half with one of its
 * second half; GGUF's files for Llama have the two side by side, so the rows of queries and keys stand in another order.
 * @param {string} tensor GGUF's name
 * @param {number} row
 * @param {number} rows of the tensor
 * @param {number[]} heads of queries, and of keys
 * @returns {number}
 */
export function rowOfB(tensor, row, rows, heads) {
  const count = tensor.endsWith("attn_q.weight") ? heads[0] : tensor.endsWith("attn_k.weight") ? heads[1] : 0;
  if (!count) return row;
  const size = rows / count;
  const inside = row % size;
  return row - inside + (inside % 2) * (size / 2) + Math.floor(inside / 2);
}
