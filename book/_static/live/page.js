// The page "Write with it": what its buttons do.

import { Form } from "./form.js";
import { Loader } from "./loader.js";
import { CONTEXT, isSupported, threadsOf } from "./model.js";
import { toFile } from "./record.js";
import { LENGTH, Session } from "./session.js";
import { fromHash, toHash } from "./settings.js";
import { Store, StoreError } from "./store.js";
import { View } from "./view.js";
import { Visit } from "./visit.js";

const TOO_OLD = "This browser cannot run the live models: a recent Chrome, Edge or Firefox can, Safari cannot yet.";
const NO_PARTS = "This copy of the book was built without its live part: “make html” adds it where there is a network.";

/** @param {HTMLElement} root @param {URL} folder of the modules */
export async function start(root, folder) {
  const form = new Form(root);
  if (!isSupported()) return form.say(TOO_OLD);
  const [parts, prompts] = await Promise.all(["parts.json", "prompts.json"].map((name) => json(new URL(name, folder))));
  if (!parts) return form.say(NO_PARTS);
  await new Page(form, parts, folder).begin(prompts ?? []);
}

const json = async (address) => {
  const response = await fetch(address).catch(() => undefined);
  return response?.ok ? response.json() : undefined;
};

/** One thing at a time: what the reader asks for stops what was going on. */
class Page {
  constructor(form, parts, folder) {
    this.form = form;
    this.store = new Store(folder);
    this.loader = new Loader(folder, parts, this.store, threadsOf(navigator.hardwareConcurrency, crossOriginIsolated));
    this.visit = new Visit(folder, parts.files);
    /** @type {Session | undefined} */
    this.session = undefined;
    this.at = 0; // tokens that are shown
    this.chain = Promise.resolve();
    this.writing = false; // or about to
  }

  async begin(prompts) {
    const { form } = this;
    form.offer(prompts);
    form.fill(fromHash(location.hash));
    form.on("load", () => this.run((signal) => this.open(signal)));
    form.on("write", () => this.run((signal) => this.write(signal), true));
    form.on("stop", () => this.current?.abort());
    form.on("back", () => this.look(this.at - 1));
    form.on("step", () => this.run((signal) => this.step(signal)));
    form.on("position", (at) => this.look(at));
    form.on("copy", () => this.copy());
    form.on("share", () => this.share());
    form.on("save", () => this.save());
    form.on("remove", () => this.run(() => this.remove()));
    form.on("model", () => this.changed());
    addEventListener("hashchange", () => this.reopen());
    addEventListener("pagehide", () => {
      this.current?.abort();
      this.loader.close();
    });
    addEventListener("pageshow", ({ persisted }) => persisted && this.offerLoad());
    form.say("");
    await this.offerLoad();
    if (this.visit.wasOpenedAnew()) this.run((signal) => this.open(signal, true));
  }

  /** Say on the button what it will fetch. */
  async offerLoad() {
    const needed = this.loader.needed(this.form.settings().arm);
    const kept = await Promise.all(needed.map((part) => this.store.has(part)));
    const missing = needed.reduce((sum, part, i) => sum + (kept[i] ? 0 : part.size), 0);
    this.form.offerLoad(missing, kept.includes(true));
  }

  /** Do a job after the one that goes on, which is stopped. */
  run(job, writing = false) {
    this.current?.abort();
    this.writing = writing;
    const mine = (this.current = new AbortController());
    this.chain = this.chain.catch(() => {}).then(async () => {
      if (mine.signal.aborted) return;
      this.form.busy(true);
      try {
        await job(mine.signal);
      } catch (error) {
        if (!mine.signal.aborted) await this.fail(error);
        else {
          if (!this.loader.ready) await this.offerLoad();
          if (this.current === mine) this.form.say("Stopped.");
        }
      } finally {
        if (this.current === mine) {
          this.current = undefined;
          this.writing = false;
        }
        this.form.busy(false);
      }
    });
    return this.chain;
  }

  async fail(error) {
    if (error instanceof StoreError) this.form.say(error.message);
    else {
      // llama.cpp is in no known state after an error: begin anew.
      this.loader.close();
      this.form.say(`The models stopped, mostly for want of memory: close other pages and load them again. (${error.message ?? error})`);
    }
    if (!this.loader.ready) await this.offerLoad();
  }

  /** Load the models; where several threads are of use, in a page that is opened anew first. */
  async open(signal, isAnew = false) {
    this.form.say("Loading the models …");
    await this.visit.keep();
    signal.throwIfAborted();
    if (!isAnew && threadsOf(navigator.hardwareConcurrency, true) > 1) {
      history.replaceState(null, "", `#${toHash(this.form.settings())}`);
      if (this.visit.openAnew()) return;
    }
    await this.load(signal);
  }

  async load(signal) {
    const { form, loader, store, visit } = this;
    try {
      await this.start(signal);
    } catch (error) {
      if (signal.aborted || error instanceof StoreError || loader.threads === 1) throw error;
      loader.threads = 1; // memory that threads share is reserved at once, and not every machine has it
      await this.start(signal);
    }
    this.view = new View(form.root, loader.vocabulary);
    form.loaded();
    const threads = loader.threads > 1 ? `${loader.threads} threads` : "one thread";
    const offline = visit.isKept ? " The page opens without a network now." : "";
    form.say(`The models are ready, with ${threads} each. ${store.trouble || `Press “Write”.${offline}`}`);
  }

  async start(signal) {
    await this.loader.start(this.form.settings().arm, signal, (done, total) => this.form.progress(done, total));
    await this.tune(signal);
  }

  async tune(signal) {
    const { arm, strength } = this.form.settings();
    this.form.say(`Merging: the base model and ${strength} times what the adapters add …`);
    await this.loader.arm(arm, strength, signal);
    this.form.say("");
  }

  /** Another arm or strength: merge, and write again if a text was being written. Before the models are there, nothing. */
  changed() {
    if (!this.view || !this.loader.ready) return;
    const again = this.writing;
    this.run(async (signal) => {
      await this.tune(signal);
      if (again) await this.write(signal);
      else this.form.say("Another model is loaded. Press “Write” to see what it writes.");
    }, again);
  }

  /** A new text, or undefined if the prompt cannot be taken. */
  async newText(signal) {
    const settings = this.form.settings();
    await this.tune(signal);
    const prompt = settings.prompt.trim() ? await this.loader.models.base.tokenize(settings.prompt) : [];
    const most = CONTEXT - 2 * LENGTH;
    if (!prompt.length) return this.form.say("Type a prompt first, or choose one.");
    if (prompt.length > most) {
      return this.form.say(`This prompt has ${prompt.length.toLocaleString("en")} tokens, and ${most} fit: shorten it.`);
    }
    history.replaceState(null, "", `#${toHash(settings)}`);
    this.view.clear();
    this.at = 0;
    this.form.say("The models read the prompt …");
    return (this.session = new Session(this.loader.models, prompt, settings));
  }

  async write(signal) {
    const session = await this.newText(signal);
    if (!session) return;
    try {
      const start = performance.now();
      while (session.length < LENGTH) {
        await visible(signal);
        await this.add(session, signal);
      }
      this.form.say(`Written: ${LENGTH} tokens by each model, ${(LENGTH / ((performance.now() - start) / 1000)).toFixed(1)} a second.`);
    } finally {
      this.view.speak(session, true);
    }
  }

  async add(session, signal) {
    await session.step(signal);
    if (session.length === 1) this.form.say("");
    this.look(session.length);
    this.view.speak(session, false);
  }

  /** One token further: one that is written already, or a new one. */
  async step(signal) {
    if (this.session && this.at < this.session.length) return this.look(this.at + 1);
    const same = this.session && toHash(this.session.settings) === toHash(this.form.settings());
    const session = same ? this.session : await this.newText(signal);
    if (!session) return;
    if (session.length >= 2 * LENGTH) return this.form.say(`A text ends here, after ${2 * LENGTH} tokens.`);
    await this.add(session, signal);
    this.view.speak(session, true);
  }

  look(at) {
    if (!this.session || at < 0 || at > this.session.length) return;
    this.at = at;
    this.view.show(this.session, at);
    this.form.position(at, this.session.length);
  }

  /** The address was changed by hand, or a link of this page was followed. */
  reopen() {
    this.form.fill(fromHash(location.hash));
    this.changed();
  }

  async share() {
    history.replaceState(null, "", `#${toHash(this.form.settings())}`);
    await this.toClipboard(location.href, "The link to this prompt and these settings is copied.");
  }

  async copy() {
    if (!this.session) return;
    await this.toClipboard(toFile(this.session, this.loader.vocabulary).plain, "Both texts are copied.");
  }

  async toClipboard(text, done) {
    try {
      await navigator.clipboard.writeText(text);
      this.form.say(done);
    } catch {
      this.form.say(`The browser does not let this page copy. Take it from here: ${text}`);
    }
  }

  save() {
    if (!this.session) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([toFile(this.session, this.loader.vocabulary).json], { type: "application/json" }));
    link.download = "hyperfit-live.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  async remove() {
    this.loader.close();
    await this.store.clear();
    await this.visit.remove();
    await this.offerLoad();
    this.form.say("The models are removed from this browser.");
  }
}

/** Wait until the page is seen: in the background it does not write. */
function visible(signal) {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    document.addEventListener("visibilitychange", resolve, { once: true });
  });
}
