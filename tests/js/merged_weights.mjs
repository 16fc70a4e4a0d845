// node merged_weights.mjs MODEL ADAPTERS STRENGTH WEIGHTS FILE: writes the merged weights in float32, and the merged file.
import { openAsBlob } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { readAdapters } from "../../book/_static/live/adapter.js";
import { readGguf } from "../../book/_static/live/gguf.js";
import { merge, mergeRows } from "../../book/_static/live/merge.js";

const [model, adapters, strength, weights, file] = process.argv.slice(2);
const base = await openAsBlob(model);
const changes = readAdapters(new Uint8Array(await readFile(adapters)).buffer);
const gguf = await readGguf(base);
const rows = [];
for (const tensor of gguf.tensors.filter(({ name }) => changes.has(name))) {
  await mergeRows(gguf, tensor, changes.get(tensor.name), Number(strength), (row) => rows.push(row.slice()));
}
await writeFile(weights, await new Blob(rows).bytes());
await writeFile(file, await (await merge(base, changes, Number(strength))).bytes());
