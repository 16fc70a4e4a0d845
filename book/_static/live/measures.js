// How repetitive is a text? The measures of the course (hyperfit_course/metrics.py and display.py), on token ids.

/**
 * For each token, whether it belongs to an n-gram that has occurred before in the text.
 * @param {number[]} tokens
 * @param {number} n
 * @returns {boolean[]}
 */
export function repeatedPositions(tokens, n = 3) {
  const seen = new Set();
  const marks = tokens.map(() => false);
  for (let start = 0; start + n <= tokens.length; start++) {
    const gram = tokens.slice(start, start + n).join();
    if (seen.has(gram)) marks.fill(true, start, start + n);
    seen.add(gram);
  }
  return marks;
}

/**
 * Distinct tokens divided by tokens, over the last 96; NaN without any.
 * @param {number[]} tokens
 */
export function typeTokenRatio(tokens) {
  const last = tokens.slice(-96);
  return new Set(last).size / last.length;
}

/**
 * Share of a text's pairs of neighbours that occurred before in it; NaN for a text that has none.
 * @param {number[]} tokens
 */
export function bigramRepetition(tokens) {
  const pairs = tokens.slice(1).map((token, i) => `${tokens[i]},${token}`);
  return 1 - new Set(pairs).size / pairs.length;
}
