// What the reader sees of both texts, and what a screen reader says of them.

import { bigramRepetition, repeatedPositions, typeTokenRatio } from "./measures.js";

/** Words that are announced at once. */
const SPOKEN = 12;
const NAMES = ["Base model", "Hyperfitted model"];
const visible = (text) => text.replaceAll("\n", "↵");

/**
 * Texts of tokens: a character that is spread over several tokens belongs to the last of them.
 * @param {number[]} tokens
 * @param {Uint8Array[]} vocabulary
 * @returns {string[]}
 */
export function textsOf(tokens, vocabulary) {
  const decoder = new TextDecoder();
  const texts = tokens.map((token) => decoder.decode(vocabulary[token], { stream: true }));
  if (texts.length) texts[texts.length - 1] += decoder.decode();
  return texts;
}

/** The two texts with their numbers and tables. */
export class View {
  /** @param {HTMLElement} root @param {Uint8Array[]} vocabulary */
  constructor(root, vocabulary) {
    this.root = root;
    this.vocabulary = vocabulary;
    this.sides = [...root.querySelectorAll(".live-side")];
    this.spoken = root.querySelector(".live-spoken");
    this.said = [0, 0];
  }

  /**
   * Show a session as it was after some tokens.
   * @param {import("./session.js").Session} session
   * @param {number} at tokens
   */
  show(session, at) {
    this.sides.forEach((side, number) => {
      const tokens = session.written(number).slice(0, at);
      this.text(side.querySelector(".live-text"), tokens);
      this.numbers(side, tokens, session.sides[number][at - 1]);
      this.table(side.querySelector("tbody"), session.sides[number][at - 1]);
    });
  }

  text(box, tokens) {
    const marks = repeatedPositions(tokens);
    box.replaceChildren(
      ...textsOf(tokens, this.vocabulary).map((text, i) => {
        const element = document.createElement(marks[i] ? "u" : "span");
        element.textContent = visible(text);
        element.classList.toggle("live-last", i === tokens.length - 1);
        return element;
      }),
    );
  }

  numbers(side, tokens, step) {
    const shown = (number) => (Number.isFinite(number) ? number.toFixed(2) : "–");
    side.querySelector(".live-ttr").textContent = shown(tokens.length ? typeTokenRatio(tokens) : NaN);
    side.querySelector(".live-bigrams").textContent = shown(bigramRepetition(tokens));
    side.querySelector(".live-entropy").textContent = shown(step?.entropy);
  }

  table(body, step) {
    const rows = (step?.top ?? []).map((each, i) => {
      const row = document.createElement("tr");
      row.classList.toggle("live-chosen", each.token === step.token);
      row.ariaCurrent = each.token === step.token ? "true" : null;
      const word = visible(new TextDecoder().decode(this.vocabulary[each.token]));
      for (const text of [i + 1, word, each.p.toFixed(4), each.rank.toLocaleString("en")]) {
        const cell = document.createElement("td");
        cell.textContent = String(text);
        row.append(cell);
      }
      return row;
    });
    body.replaceChildren(...rows);
  }

  /**
   * Tell a screen reader what is new, in words and not in tokens.
   * @param {import("./session.js").Session} session
   * @param {boolean} all the last words too, which may not be finished
   */
  speak(session, all) {
    const fresh = this.sides.map((_, number) => {
      const words = textsOf(session.written(number), this.vocabulary).join("").split(/\s+/).filter(Boolean);
      const until = all ? words.length : words.length - 1;
      return { words: words.slice(this.said[number], until), until };
    });
    if (!all && fresh.every(({ words }) => words.length < SPOKEN)) return;
    this.spoken.textContent = fresh.map(({ words }, number) => `${NAMES[number]}: ${words.join(" ")}`).join(". ");
    this.said = fresh.map(({ until }) => until);
  }

  /** Before a new text. */
  clear() {
    this.said = [0, 0];
    this.spoken.textContent = "";
  }
}
