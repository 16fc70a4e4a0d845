// Which token comes next? From a model's probabilities to a choice.

/**
 * @typedef {{tokens: number[], p: number[]}} Distribution all tokens, from the most probable one on
 * @typedef {{sample: boolean, temperature: number, penalty: number}} Choice
 * @typedef {{token: number, p: number}} Candidate
 */

/**
 * The distribution that a token is taken from: each token of the text so far is made `penalty` times less probable,
 * then the temperature acts, and the end token is forbidden, as everywhere in the course.
 * @param {Distribution} given
 * @param {Choice} choice
 * @param {Set<number>} written tokens of the text so far
 * @param {number} end the end token
 * @returns {Float64Array} in the order of the given tokens, with sum 1
 */
export function reshape(given, { temperature, penalty }, written, end) {
  const shaped = new Float64Array(given.tokens.length);
  let sum = 0;
  for (let i = 0; i < shaped.length; i++) {
    const token = given.tokens[i];
    if (token === end) continue;
    const p = written.has(token) ? given.p[i] / penalty : given.p[i];
    // Over the largest one, so that a low temperature does not turn all of them into zeros.
    sum += shaped[i] = (p / given.p[0]) ** (1 / temperature);
  }
  for (let i = 0; i < shaped.length; i++) shaped[i] /= sum;
  return shaped;
}

/**
 * The most probable tokens, from the first on.
 * @param {Distribution} given
 * @param {Float64Array} p what `reshape` gives
 * @param {number} count
 * @returns {Candidate[]}
 */
export function best(given, p, count = 10) {
  const top = [];
  for (let i = 0; i < p.length; i++) {
    if (top.length === count && p[i] <= top[count - 1].p) continue;
    let at = top.length;
    while (at > 0 && top[at - 1].p < p[i]) at--;
    top.splice(at, 0, { token: given.tokens[i], p: p[i] });
    top.length = Math.min(top.length, count);
  }
  return top;
}

/**
 * The token that is written: the most probable one, or one that is drawn.
 * @param {Distribution} given
 * @param {Float64Array} p
 * @param {boolean} sample
 * @param {() => number} random numbers from 0 to 1
 */
export function pick(given, p, sample, random) {
  if (!sample) return best(given, p, 1)[0].token;
  let left = random();
  for (let i = 0; i < p.length; i++) {
    left -= p[i];
    if (left < 0) return given.tokens[i];
  }
  return best(given, p, 1)[0].token; // rounding left a rest
}

/**
 * Entropy in nats.
 * @param {Float64Array} p
 */
export function entropy(p) {
  let sum = 0;
  for (const each of p) if (each > 0) sum -= each * Math.log(each);
  return sum;
}

/**
 * The rank of each token, from 1 on.
 * @param {Distribution} given
 * @returns {Int32Array} by token
 */
export function ranks(given) {
  const found = new Int32Array(given.tokens.length);
  given.tokens.forEach((token, i) => (found[token] = i + 1));
  return found;
}

/**
 * Random numbers from 0 to 1, the same for the same seed (mulberry32).
 * @param {number} seed
 * @returns {() => number}
 */
export function generator(seed) {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
