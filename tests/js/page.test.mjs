import assert from "node:assert/strict";
import { test } from "node:test";
import { rowOfB } from "../../book/_static/live/adapter.js";
import { bigramRepetition, repeatedPositions, typeTokenRatio } from "../../book/_static/live/measures.js";
import { threadsOf } from "../../book/_static/live/model.js";
import { best, entropy, generator, pick, ranks, reshape } from "../../book/_static/live/sampling.js";
import { DEFAULTS, fromHash, toHash } from "../../book/_static/live/settings.js";
import { textsOf } from "../../book/_static/live/view.js";

const GIVEN = { tokens: [7, 3, 5, 0, 1, 2, 4, 6], p: [0.4, 0.3, 0.15, 0.05, 0.04, 0.03, 0.02, 0.01] };
const PLAIN = { temperature: 1, penalty: 1 };

test("without temperature and penalty only the end token goes", () => {
  const p = reshape(GIVEN, PLAIN, new Set([3]), 7);
  assert.equal(p[0], 0);
  assert.ok(Math.abs(p[1] - 0.5) < 1e-12);
  assert.equal(pick(GIVEN, p, false, Math.random), 3);
});

test("a temperature changes probabilities and entropy, and no greedy choice", () => {
  const shaped = [0.1, 1, 2].map((temperature) => reshape(GIVEN, { temperature, penalty: 1 }, new Set(), -1));
  assert.deepEqual(shaped.map((p) => pick(GIVEN, p, false, Math.random)), [7, 7, 7]);
  assert.ok(Math.abs(shaped[1][0] - 0.4) < 1e-12);
  assert.ok(Math.abs(shaped[2][0] / shaped[2][1] - Math.sqrt(0.4 / 0.3)) < 1e-12);
  assert.ok(entropy(shaped[0]) < entropy(shaped[1]) && entropy(shaped[1]) < entropy(shaped[2]));
});

test("probabilities near zero survive a low temperature", () => {
  const given = { tokens: [0, 1], p: [1e-30, 1e-31] };
  const p = reshape(given, { temperature: 0.1, penalty: 1 }, new Set(), -1);
  assert.ok(p[0] > 0.99 && p[0] <= 1);
});

test("a penalty divides the probability of written tokens, and turns a choice", () => {
  const p = reshape(GIVEN, { temperature: 1, penalty: 2 }, new Set([7]), -1);
  assert.equal(pick(GIVEN, p, false, Math.random), 3);
  assert.ok(Math.abs(p[0] / p[1] - 0.2 / 0.3) < 1e-12);
  assert.deepEqual(best(GIVEN, p, 3).map(({ token }) => token), [3, 7, 5]);
});

test("ranks count from one by token", () => assert.deepEqual([...ranks(GIVEN)], [4, 5, 6, 2, 7, 3, 8, 1]));

test("drawn tokens come as often as they are probable, and the same seed draws the same", () => {
  const random = generator(3);
  const p = reshape(GIVEN, PLAIN, new Set(), -1);
  const drawn = Array.from({ length: 20000 }, () => pick(GIVEN, p, true, random));
  assert.ok(Math.abs(drawn.filter((token) => token === 3).length / drawn.length - 0.3) < 0.02);
  const again = generator(3);
  assert.deepEqual(drawn.slice(0, 20), Array.from({ length: 20 }, () => pick(GIVEN, p, true, again)));
  assert.notDeepEqual(drawn.slice(0, 20), Array.from({ length: 20 }, () => pick(GIVEN, p, true, generator(4))));
});

test("measures are those of the course", () => {
  assert.deepEqual(repeatedPositions([1, 2, 3, 9, 1, 2, 3]), [false, false, false, false, true, true, true]);
  assert.equal(typeTokenRatio([1, 2, 1, 2]), 0.5);
  assert.equal(typeTokenRatio([...Array(50).fill(1), ...Array.from({ length: 96 }, (_, i) => i)]), 1);
  assert.equal(bigramRepetition([1, 2, 1, 2, 1]), 0.5);
  assert.ok(Number.isNaN(bigramRepetition([1])) && Number.isNaN(typeTokenRatio([])));
});

test("queries and keys take the rows of B in the order of their pairs, other maps as they are", () => {
  const rows = (name) => Array.from({ length: 8 }, (_, row) => rowOfB(`blk.0.${name}.weight`, row, 8, [2, 1]));
  assert.deepEqual(rows("attn_q"), [0, 2, 1, 3, 4, 6, 5, 7]);
  assert.deepEqual(rows("attn_k"), [0, 4, 1, 5, 2, 6, 3, 7]);
  assert.deepEqual(rows("attn_v"), [0, 1, 2, 3, 4, 5, 6, 7]);
});

test("a link gives back what it was made from", () => {
  const settings = { ...DEFAULTS, prompt: "Ein Satz & noch=einer\n好 🙂", arm: "last", strength: 0.35, sample: true, seed: 7 };
  assert.deepEqual(fromHash(`#${toHash(settings)}`), settings);
});

test("a link with nonsense gives defaults, and numbers stay in their bounds", () => {
  assert.deepEqual(fromHash("#arm=none&strength=much&seed=&temperature=NaN"), DEFAULTS);
  const bounded = fromHash("#strength=9&temperature=-1&penalty=0&seed=1.9");
  assert.deepEqual([bounded.strength, bounded.temperature, bounded.penalty, bounded.seed], [1.5, 0.1, 1, 1]);
});

test("three models share the cores, and without isolation each has one thread", () => {
  assert.deepEqual([1, 2, 5, 6, 8, 12, 64].map((cores) => threadsOf(cores, true)), [1, 1, 1, 2, 2, 4, 4]);
  assert.equal(threadsOf(64, false), 1);
  assert.equal(threadsOf(undefined, true), 1, "a browser that does not tell its cores");
});

test("a character over several tokens belongs to the last of them", () => {
  const smile = new TextEncoder().encode("🙂");
  const vocabulary = [smile.slice(0, 2), smile.slice(2), new TextEncoder().encode("a")];
  assert.deepEqual(textsOf([2, 0, 1, 2], vocabulary), ["a", "", "🙂", "a"]);
  assert.equal(textsOf([0], vocabulary).join(""), "\ufffd");
});
