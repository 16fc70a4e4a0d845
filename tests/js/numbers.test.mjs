import assert from "node:assert/strict";
import { test } from "node:test";
import { dequantise, fromHalf, quantise, toHalf } from "../../book/_static/live/numbers.js";

test("every float16 comes back from its number", () => {
  for (let bits = 0; bits < 65536; bits++) {
    const number = fromHalf(bits);
    if (!Number.isNaN(number)) assert.equal(toHalf(number), bits, `${bits.toString(16)} is ${number}`);
  }
});

test("numbers between two float16 go to the nearer one, and ties to the even one", () => {
  assert.equal(toHalf(1 + 2 ** -11), toHalf(1));
  assert.equal(toHalf(1 + 3 * 2 ** -11), toHalf(1 + 2 ** -9));
  assert.equal(toHalf(1 + 1.1 * 2 ** -11), toHalf(1 + 2 ** -10));
  assert.equal(toHalf(2 ** -25), 0);
  assert.equal(toHalf(70000), 0x7c00);
});

test("eight bits keep each weight to half a step of the block's scale", () => {
  const weights = Float32Array.from({ length: 64 }, (_, i) => Math.sin(i * 7) * (i < 32 ? 1 : 40));
  const bytes = quantise(weights, new Uint8Array(68));
  const back = dequantise("Q8_0", bytes, new Float32Array(64));
  for (let i = 0; i < 64; i++) {
    const step = fromHalf(bytes[i < 32 ? 0 : 34] | (bytes[i < 32 ? 1 : 35] << 8));
    assert.ok(Math.abs(back[i] - weights[i]) <= 0.57 * step, `${i}: ${weights[i]} became ${back[i]}`);
  }
});

test("a block of zeros stays zero, and negative halves round away from zero", () => {
  assert.deepEqual(quantise(new Float32Array(32), new Uint8Array(34)), new Uint8Array(34));
  const weights = new Float32Array(32);
  weights.set([127, -0.5, 0.5, -1.5]);
  assert.deepEqual([...quantise(weights, new Uint8Array(34)).slice(2, 6)], [127, 255, 1, 254]);
});

test("a type that is not known is named", () => {
  assert.throws(() => dequantise("Q6_K", new Uint8Array(210), new Float32Array(256)), /Q6_K cannot be read/);
});
