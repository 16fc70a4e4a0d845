// The controls of the page: what they are set to, and what they say.

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
      target.selectedIndex = 0;
    });
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

  /** @returns {import("./settings.js").Settings} */
  settings() {
    const numbers = Object.fromEntries(NUMBERS.map((name) => [name, Number(this.get(name).value) || 0]));
    return { prompt: this.get("prompt").value, arm: this.get("arm").value, sample: this.get("sample").value === "1", ...numbers };
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

  progress(done, total) {
    const text = `${megabytes(done)} of ${megabytes(total)} MB`;
    const bar = this.root.querySelector("progress");
    Object.assign(bar, { max: total, value: done, hidden: false });
    bar.setAttribute("aria-label", "Download");
    if (this.shown !== text) this.say(done < total ? `Loading: ${text}` : "Starting the models …");
    this.shown = text;
  }

  loaded() {
    this.get("load").hidden = true;
    this.get("remove").hidden = false;
    this.enable(true);
    this.get("write").focus(); // the button that had the focus is gone
  }

  enable(on) {
    this.isLoaded = on;
    this.root.querySelector("progress").hidden = true;
    this.root.querySelector(".live-result").hidden = !on;
    this.busy(false);
  }

  busy(on) {
    this.get("stop").hidden = !on;
    this.get("load").disabled = on;
    this.get("remove").disabled = on;
    for (const name of ["write", "step", "back", "copy", "save"]) this.get(name).disabled = !this.isLoaded;
    this.root.setAttribute("aria-busy", String(on));
    if (!on) this.root.querySelector("progress").hidden = true;
  }

  position(at, length) {
    const slider = this.get("position");
    Object.assign(slider, { max: length, value: at });
    slider.setAttribute("aria-valuetext", `token ${at} of ${length}`);
    this.root.querySelector('[data-of="position"]').textContent = `${at} of ${length}`;
  }
}
