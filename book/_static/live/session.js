// Two models write the same text on. A third reader, the base model again, ranks what the second one writes.

import { best, entropy, generator, pick, ranks, reshape } from "./sampling.js";

/**
 * @typedef {{token: number, p: number, rank: number}} Shown a candidate, with its rank in the base model
 * @typedef {{token: number, entropy: number, top: Shown[]}} Step what was written, and from what
 */

/** Tokens that are written at once, as in all texts of the course. */
export const LENGTH = 96;

/** A text that is being written by both models. */
export class Session {
  /**
   * @param {{base: import("./model.js").Model, tuned: import("./model.js").Model, reader: import("./model.js").Model}} models
   * @param {number[]} prompt token ids
   * @param {import("./settings.js").Settings} settings
   */
  constructor(models, prompt, settings) {
    this.models = models;
    this.prompt = prompt;
    this.settings = settings;
    /** @type {Step[][]} steps of the base model, and of the other one */
    this.sides = [[], []];
    this.random = [generator(settings.seed), generator(settings.seed)];
  }

  get length() {
    return this.sides[0].length;
  }

  /** Tokens that a side has written. */
  written(side) {
    return this.sides[side].map(({ token }) => token);
  }

  /**
   * Both models write one token.
   * @param {AbortSignal} signal stopped in between, nothing is written
   */
  async step(signal) {
    const texts = [0, 1].map((side) => [...this.prompt, ...this.written(side)]);
    const { base, tuned, reader } = this.models;
    const answers = await Promise.allSettled([
      base.next(texts[0], signal),
      tuned.next(texts[1], signal),
      reader.next(texts[1], signal),
    ]);
    signal.throwIfAborted();
    // Only now: a model that still reads must not be asked again.
    for (const { reason } of answers) if (reason) throw reason;
    const [ofBase, ofTuned, ofReader] = answers.map(({ value }) => value);
    const steps = [this.take(0, ofBase, texts[0], ofBase), this.take(1, ofTuned, texts[1], ofReader)];
    steps.forEach((step, side) => this.sides[side].push(step));
  }

  /** @returns {Step} */
  take(side, given, text, base) {
    const p = reshape(given, this.settings, new Set(text), this.models.base.end);
    const baseRanks = ranks(base);
    const token = pick(given, p, this.settings.sample, this.random[side]);
    const top = best(given, p).map((each) => ({ ...each, rank: baseRanks[each.token] }));
    return { token, entropy: entropy(p), top };
  }
}
