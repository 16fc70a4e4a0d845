// The controls of the page: what they are set to, and what they say.

import { fromHash, toHash } from "./settings.js";

const megabytes = (bytes) => (bytes / 1e6).toFixed(0);
const NUMBERS = ["strength", "temperature", "penalty", "seed"];

/** The form. */
export class Form {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.root = root;
    this.get = (name) => root.querySelector(`[data-live="${name}"]`);
    this.listeners = {};
    for (const name of ["strength", "temperature", "penalty"]) {
      this.get(name).addEventListener("input", () => this.outputs());
    }
    this.get("prompts").addEventListener("change", ({ target }) => {
      if (target.value) this.get("prompt").value = target.value;
    });
    // Not when one is chosen: arrow keys would begin at the first again and again.
    this.get("prompt").addEventListener("input", () => (this.get("prompts").selectedIndex = 0));
    for (const name of ["arm", "strength"]) this.get(name).addEventListener("change", () => this.tell("model"));
    for (const button of root.querySelectorAll("button")) {
      button.addEventListener("click", () => this.tell(button.dataset.live));
    }
    this.get("position").addEventListener("input", ({ target }) => this.tell("position", Number(target.value)));
  }

  on(name, listener) {
    this.listeners[name] = listener;
  }

  tell(name, value) {
    this.listeners[name]?.(value);
  }

  /** Offer prompts to choose from. */
  offer(prompts) {
    for (const text of prompts) this.get("prompts").add(new Option(`${text.slice(0, 60)} …`, text));
    this.root.querySelector(".live-form").hidden = false;
  }

  /** @param {import("./settings.js").Settings} settings */
  fill(settings) {
    // A link of settings alone leaves the reader's prompt.
    this.get("prompt").value = settings.prompt || this.get("prompt").value || this.get("prompts").options[1]?.value || "";
    for (const name of ["arm", ...NUMBERS]) this.get(name).value = settings[name];
    this.get("sample").value = settings.sample ? "1" : "0";
    this.outputs();
  }

  /**
   * What is set, as a link would give it back: numbers that were typed stay in their bounds.
   * @returns {import("./settings.js").Settings}
   */
  settings() {
    const numbers = Object.fromEntries(NUMBERS.map((name) => [name, this.get(name).value]));
    const sample = this.get("sample").value === "1";
    return fromHash(toHash({ prompt: this.get("prompt").value, arm: this.get("arm").value, sample, ...numbers }));
  }

  outputs() {
    for (const name of ["strength", "temperature", "penalty"]) {
      this.root.querySelector(`[data-of="${name}"]`).textContent = Number(this.get(name).value).toFixed(2);
    }
  }

  /** @param {string} text one sentence for the reader */
  say(text) {
    this.root.querySelector(".live-message").textContent = text;
  }

  offerLoad(bytes, kept) {
    const size = bytes ? `download ${megabytes(bytes)} MB` : "they are kept in this browser";
    this.get("load").textContent = `Load the models (${size})`;
    this.get("load").hidden = false;
    this.get("remove").hidden = !kept;
    this.enable(false);
  }

  /** How far a download is. A screen reader is told its end only. */
  progress(done, total) {
    const [bar, text] = this.root.querySelector(".live-progress").children;
    if (done === total) this.say("Starting the models …");
    bar.parentElement.hidden = false;
    Object.assign(bar, { max: total, value: done });
    text.textContent = `${megabytes(done)} of ${megabytes(total)} MB`;
  }

  loaded() {
    const hadFocus = [this.get("load"), document.body].includes(document.activeElement);
    this.get("load").hidden = true;
    this.get("remove").hidden = false;
    this.enable(true);
    if (hadFocus) this.get("write").focus(); // the button that had it is gone
  }

  enable(on) {
    this.isLoaded = on;
    this.root.querySelector(".live-result").hidden = !on;
    this.busy(false);
  }

  busy(on) {
    const hadFocus = document.activeElement === this.get("stop");
    this.get("stop").hidden = !on;
    this.get("load").disabled = on;
    this.get("remove").disabled = on;
    for (const name of ["write", "step", "back", "copy", "save"]) this.get(name).disabled = !this.isLoaded;
    // Of the texts only: where a screen reader speaks is never busy.
    this.root.querySelector(".live-sides").setAttribute("aria-busy", String(on));
    if (!on) this.root.querySelector(".live-progress").hidden = true;
    if (!on && hadFocus) this.get(this.isLoaded ? "write" : "load").focus();
  }

  position(at, length) {
    const slider = this.get("position");
    Object.assign(slider, { max: length, value: at });
    slider.setAttribute("aria-valuetext", `token ${at} of ${length}`);
    this.root.querySelector('[data-of="position"]').textContent = `${at} of ${length}`;
  }
}
