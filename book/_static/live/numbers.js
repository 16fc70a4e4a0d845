// How are weights stored? The number formats of GGUF files that the course's model uses, in plain arithmetic.

/** Weights of a block, which share a scale. */
export const BLOCK = 32;

/** GGUF's numbers for its types, and the bytes of a block (of one weight, for F32 and F16). */
export const TYPES = {
  F32: { id: 0, weights: 1, bytes: 4 },
  F16: { id: 1, weights: 1, bytes: 2 },
  Q4_1: { id: 3, weights: BLOCK, bytes: 20 },
  Q8_0: { id: 8, weights: BLOCK, bytes: 34 },
};

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/**
 * The number that 16 bits stand for.
 * @param {number} half the bits of a float16
 * @returns {number}
 */
export function fromHalf(half) {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/**
 * The bits of the float16 nearest to a number, ties to even.
 * @param {number} number
 * @returns {number}
 */
export function toHalf(number) {
  float[0] = number;
  const sign = (bits[0] >>> 16) & 0x8000;
  const size = Math.abs(float[0]);
  if (Number.isNaN(size)) return 0x7e00;
  if (size >= 65520) return sign | 0x7c00;
  if (size < 2 ** -14) return sign | evenRound(size * 2 ** 24);
  const exponent = ((bits[0] >>> 23) & 255) - 127;
  // A fraction that rounds up to 1024 carries into the exponent, as it should.
  return sign | (((exponent + 15) << 10) + evenRound((size / 2 ** exponent - 1) * 1024));
}

function evenRound(number) {
  const low = Math.floor(number);
  const rest = number - low;
  return rest > 0.5 || (rest === 0.5 && low % 2) ? low + 1 : low;
}

/** All float16 numbers by their bits: looked up, since a model has 106 million weights. */
let halves;
const halfTable = () => (halves ??= Float32Array.from({ length: 65536 }, (_, half) => fromHalf(half)));

/**
 * Weights from the bytes of a tensor, or of some of its rows.
 * @param {string} type a key of TYPES
 * @param {Uint8Array} bytes whole blocks
 * @param {Float32Array} out one number a weight; it is filled and returned
 * @returns {Float32Array}
 */
export function dequantise(type, bytes, out) {
  const half = halfTable();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (type === "F32") for (let i = 0; i < out.length; i++) out[i] = view.getFloat32(4 * i, true);
  else if (type === "F16") for (let i = 0; i < out.length; i++) out[i] = half[view.getUint16(2 * i, true)];
  else if (type === "Q8_0") {
    for (let start = 0, at = 0; start < out.length; start += BLOCK, at += 34) {
      const scale = half[view.getUint16(at, true)];
      for (let i = 0; i < BLOCK; i++) out[start + i] = scale * ((bytes[at + 2 + i] << 24) >> 24);
    }
  } else if (type === "Q4_1") {
    // A byte holds a weight of the block's first half (its low bits) and one of the second.
    for (let start = 0, at = 0; start < out.length; start += BLOCK, at += 20) {
      const scale = half[view.getUint16(at, true)];
      const least = half[view.getUint16(at + 2, true)];
      for (let i = 0; i < 16; i++) {
        out[start + i] = scale * (bytes[at + 4 + i] & 15) + least;
        out[start + 16 + i] = scale * (bytes[at + 4 + i] >> 4) + least;
      }
    }
  } else throw new Error(`Weights of type ${type} cannot be read here: only ${Object.keys(TYPES).join(", ")}.`);
  return out;
}

/**
 * Weights as Q8_0: blocks of 32 signed bytes with one float16 scale, the largest weight over 127.
 * @param {Float32Array} weights a multiple of 32
 * @param {Uint8Array} out 34 bytes a block; it is filled and returned
 * @returns {Uint8Array}
 */
export function quantise(weights, out) {
  for (let start = 0, at = 0; start < weights.length; start += BLOCK, at += 34) {
    let largest = 0;
    for (let i = 0; i < BLOCK; i++) largest = Math.max(largest, Math.abs(weights[start + i]));
    const scale = Math.fround(largest / 127);
    const inverse = scale ? Math.fround(1 / scale) : 0;
    const half = toHalf(scale);
    out[at] = half & 255;
    out[at + 1] = half >> 8;
    for (let i = 0; i < BLOCK; i++) {
      const level = Math.fround(weights[start + i] * inverse);
      out[at + 2 + i] = level < 0 ? -Math.floor(0.5 - level) : Math.floor(level + 0.5);
    }
  }
  return out;
}
