// What the reader chose, and the link that holds it.

/**
 * @typedef {{prompt: string, arm: string, strength: number, sample: boolean, temperature: number, penalty: number,
 *   seed: number}} Settings
 */

export const ARMS = ["all", "last", "middle"];
/** The most characters of a prompt in a link. */
export const LONGEST = 20000;
const NUMBERS = { strength: [0, 1.5], temperature: [0.1, 2], penalty: [1, 2], seed: [0, 999999] };

/** @type {Settings} */
export const DEFAULTS = { prompt: "", arm: "all", strength: 1, sample: false, temperature: 1, penalty: 1, seed: 0 };

/**
 * The part of a link behind #.
 * @param {Settings} settings
 */
export function toHash(settings) {
  return new URLSearchParams({ ...settings, sample: settings.sample ? "1" : "0" }).toString();
}

/**
 * Settings from the part of a link behind #. What is missing or no sense there keeps its default.
 * @param {string} hash
 * @returns {Settings}
 */
export function fromHash(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const settings = { ...DEFAULTS, prompt: (given.get("prompt") ?? "").slice(0, LONGEST), sample: given.get("sample") === "1" };
  if (ARMS.includes(given.get("arm"))) settings.arm = given.get("arm");
  for (const [name, [least, most]] of Object.entries(NUMBERS)) {
    const number = Number.parseFloat(given.get(name));
    if (Number.isFinite(number)) settings[name] = Math.min(most, Math.max(least, number));
  }
  settings.seed = Math.floor(settings.seed);
  return settings;
}
