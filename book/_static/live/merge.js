// The model of an arm: the base model's weights plus strength times what the adapters add.

import { rowOfB } from "./adapter.js";
import { bytesOf, dataOf, readGguf, writeGguf } from "./gguf.js";
import { dequantise, quantise, TYPES } from "./numbers.js";

/**
 * The weights of one tensor with its adapter, row by row.
 * @param {import("./gguf.js").Gguf} gguf
 * @param {import("./gguf.js").Tensor} tensor
 * @param {import("./adapter.js").Adapter} adapter
 * @param {number} strength
 * @param {(weights: Float32Array, row: number) => void} use is given each row; the array is used again for the next
 */
export async function mergeRows(gguf, tensor, adapter, strength, use) {
  const [inputs, rows] = tensor.shape;
  const bytes = new Uint8Array(await dataOf(gguf, tensor).arrayBuffer());
  const perRow = (inputs / TYPES[tensor.type].weights) * TYPES[tensor.type].bytes;
  const weights = new Float32Array(inputs);
  for (let row = 0; row < rows; row++) {
    dequantise(tensor.type, bytes.subarray(row * perRow, (row + 1) * perRow), weights);
    const ofB = rowOfB(tensor.name, row, rows, gguf.heads) * adapter.rank;
    for (let k = 0; k < adapter.rank; k++) {
      const factor = strength * adapter.B[ofB + k];
      const start = k * inputs;
      for (let i = 0; i < inputs; i++) weights[i] += factor * adapter.A[start + i];
    }
    use(weights, row);
  }
}

/**
 * A GGUF file of the merged model. Tensors without an adapter are the base model's, byte for byte, and with a strength
 * of 0 all are. The others are in Q8_0, since 4 bits would lose part of what the adapters add.
 * @param {Blob} base the base model's file
 * @param {Map<string, import("./adapter.js").Adapter>} adapters
 * @param {number} strength
 * @returns {Promise<Blob>}
 */
export async function merge(base, adapters, strength) {
  if (strength === 0) return base;
  const gguf = await readGguf(base);
  const changed = new Map();
  for (const tensor of gguf.tensors) {
    const adapter = adapters.get(tensor.name);
    if (!adapter) continue;
    const data = new Uint8Array(bytesOf("Q8_0", tensor.shape));
    const perRow = bytesOf("Q8_0", [tensor.shape[0]]);
    await mergeRows(gguf, tensor, adapter, strength, (weights, row) => {
      quantise(weights, data.subarray(row * perRow, (row + 1) * perRow));
    });
    changed.set(tensor.name, data);
  }
  if (changed.size < adapters.size) throw new Error("The adapters are those of another model.");
  return writeGguf(gguf, changed);
}
