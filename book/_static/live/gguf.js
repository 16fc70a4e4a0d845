// What is in a GGUF file, and how is one written with other tensors? https://github.com/ggml-org/ggml, docs/gguf.md

import { TYPES } from "./numbers.js";

/**
 * @typedef {{name: string, shape: number[], type: string, offset: number, bytes: number}} Tensor
 *   shape: inputs first, then outputs; offset: from the start of the tensors' data.
 * @typedef {{blob: Blob, keys: Uint8Array, tensors: Tensor[], start: number, alignment: number, heads: number[]}} Gguf
 *   keys: the file's bytes up to its list of tensors; start: where their data begin; heads: of queries, and of keys.
 */

const SIZES = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 };
const TEXT = 8;
const LIST = 9;
const UINT32 = 4;
const NAMES = Object.fromEntries(Object.entries(TYPES).map(([name, type]) => [type.id, name]));
const FIRST_READ = 1 << 22;

/** Reads numbers and texts one after the other. */
class Cursor {
  constructor(buffer) {
    this.buffer = buffer;
    this.view = new DataView(buffer);
    this.at = 0;
  }
  u32() {
    this.at += 4;
    return this.view.getUint32(this.at - 4, true);
  }
  u64() {
    this.at += 8;
    return Number(this.view.getBigUint64(this.at - 8, true));
  }
  text() {
    const length = this.u64();
    if (this.at + length > this.buffer.byteLength) throw new RangeError("beyond the end");
    this.at += length;
    return new TextDecoder().decode(new Uint8Array(this.buffer, this.at - length, length));
  }
  /** A value of a key; only small numbers and texts are returned. */
  value(type) {
    if (type === TEXT) return this.text();
    if (type === UINT32) return this.u32();
    if (type === LIST) {
      const of = this.u32();
      const count = this.u64();
      if (of !== TEXT) this.at += count * size(of);
      else for (let i = 0; i < count; i++) this.text();
    } else this.at += size(type);
    return undefined;
  }
}

function size(type) {
  if (type in SIZES) return SIZES[type];
  throw new Error(`The model's file has a key of the unknown type ${type}.`);
}

/**
 * Read the head of a file. Its tensors stay where they are.
 * @param {Blob} blob
 * @returns {Promise<Gguf>}
 */
export async function readGguf(blob) {
  for (let length = FIRST_READ; ; length *= 2) {
    const buffer = await blob.slice(0, length).arrayBuffer();
    try {
      return { blob, ...parse(buffer) };
    } catch (error) {
      // The head is longer than what was read, unless that is the whole file already.
      if (!(error instanceof RangeError) || length >= blob.size) {
        throw new Error(`The model's file cannot be read (${error.message}).`, { cause: error });
      }
    }
  }
}

function parse(buffer) {
  const cursor = new Cursor(buffer);
  if (cursor.u32() !== 0x46554747) throw new Error("it is no GGUF file");
  if (cursor.u32() !== 3) throw new Error("only version 3 of the format is known here");
  const count = cursor.u64();
  const values = {};
  for (let left = cursor.u64(); left > 0; left--) {
    const key = cursor.text();
    values[key] = cursor.value(cursor.u32());
  }
  const keys = new Uint8Array(buffer.slice(0, cursor.at));
  const tensors = Array.from({ length: count }, () => tensor(cursor));
  const alignment = values["general.alignment"] ?? 32;
  const model = values["general.architecture"];
  const heads = ["head_count", "head_count_kv"].map((name) => values[`${model}.attention.${name}`]);
  return { keys, tensors, start: aligned(cursor.at, alignment), alignment, heads };
}

function tensor(cursor) {
  const name = cursor.text();
  const shape = Array.from({ length: cursor.u32() }, () => cursor.u64());
  const number = cursor.u32();
  const type = NAMES[number];
  if (!type) throw new Error(`the tensor ${name} has the unknown type ${number}`);
  return { name, shape, type, offset: cursor.u64(), bytes: bytesOf(type, shape) };
}

/**
 * Bytes of a tensor's data.
 * @param {string} type
 * @param {number[]} shape
 */
export function bytesOf(type, shape) {
  return (shape.reduce((product, n) => product * n, 1) / TYPES[type].weights) * TYPES[type].bytes;
}

const aligned = (at, alignment) => Math.ceil(at / alignment) * alignment;

/**
 * The data of a tensor, as a part of the file.
 * @param {Gguf} gguf
 * @param {Tensor} tensor
 */
export function dataOf(gguf, tensor) {
  return gguf.blob.slice(gguf.start + tensor.offset, gguf.start + tensor.offset + tensor.bytes);
}

/**
 * The same file with other data for some tensors, in Q8_0. All else is taken from the file as it is.
 * @param {Gguf} gguf
 * @param {Map<string, Uint8Array>} changed data by the tensor's name
 * @returns {Blob}
 */
export function writeGguf(gguf, changed) {
  let offset = 0;
  const infos = [];
  const data = [];
  for (const each of gguf.tensors) {
    const type = changed.has(each.name) ? "Q8_0" : each.type;
    const bytes = bytesOf(type, each.shape);
    infos.push(info({ ...each, type, offset }));
    data.push(changed.get(each.name) ?? dataOf(gguf, each));
    const room = aligned(bytes, gguf.alignment);
    data.push(new Uint8Array(room - bytes));
    offset += room;
  }
  const length = infos.reduce((sum, part) => sum + part.length, gguf.keys.length);
  const rest = new Uint8Array(aligned(length, gguf.alignment) - length);
  return new Blob([gguf.keys, ...infos, rest, ...data]);
}

function info({ name, shape, type, offset }) {
  const text = new TextEncoder().encode(name);
  const bytes = new Uint8Array(8 + text.length + 4 + 8 * shape.length + 4 + 8);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  let at = 8 + text.length;
  view.setUint32(at, shape.length, true);
  at += 4;
  for (const n of shape) {
    view.setBigUint64(at, BigInt(n), true);
    at += 8;
  }
  view.setUint32(at, TYPES[type].id, true);
  view.setBigUint64(at + 4, BigInt(offset), true);
  return bytes;
}
