// What the reader did, as a file for the notebook (hyperfit_course.live.load) and as plain text.

import { textsOf } from "./view.js";

/**
 * @param {import("./session.js").Session} session
 * @param {Uint8Array[]} vocabulary
 * @returns {{json: string, plain: string}}
 */
export function toFile(session, vocabulary) {
  const { prompt, ...settings } = session.settings;
  const models = ["base", "hyperfitted"].map((name, side) => {
    const tokens = session.written(side);
    return { name, tokens, text: textsOf(tokens, vocabulary).join(""), steps: session.sides[side] };
  });
  const data = { format: "hyperfit-live", version: 1, settings, prompt: { text: prompt, tokens: session.prompt }, models };
  const plain = [`Prompt: ${prompt}`, ...models.map(({ name, text }) => `${name}: ${text}`)].join("\n\n");
  return { json: JSON.stringify(data), plain };
}
