// From files to models: the base model, a second copy of it that only reads, and the model of an arm.

import { Model } from "./model.js";

/** The models of the page. */
export class Loader {
  /**
   * @param {URL} folder of the page's modules
   * @param {any} parts what parts.json lists
   * @param {import("./store.js").Store} store
   * @param {number} threads of each model
   */
  constructor(folder, parts, store, threads = 1) {
    Object.assign(this, { folder, parts, store, threads });
    this.models = {};
    /** Which arm is loaded, and how strong. */
    this.loaded = "";
  }

  /** All that is fetched before the first text: the model, the WebAssembly and one arm. */
  needed(arm) {
    return [...this.parts.model, this.threads > 1 ? this.parts.wasm_threads : this.parts.wasm, this.parts.adapters[arm]];
  }

  /** Whether all models are there. */
  get ready() {
    return Boolean(this.models.base && this.models.reader && this.models.tuned);
  }

  /**
   * Load the base model, and its copy.
   * @param {string} arm it is fetched with the rest
   * @param {AbortSignal} signal
   * @param {(done: number, total: number) => void} progress bytes
   */
  async start(arm, signal, progress) {
    this.close(); // what an earlier start, which was stopped, has left
    const blobs = await this.store.get(this.needed(arm), signal, progress);
    const pieces = this.parts.model.length;
    this.base = new Blob(blobs.slice(0, pieces));
    this.wasm = URL.createObjectURL(new Blob([blobs[pieces]], { type: "application/wasm" }));
    ({ Wllama: this.Wllama } = await import(new URL(this.parts.script.file, this.folder).href));
    for (const name of ["base", "reader"]) {
      signal.throwIfAborted();
      this.models[name] = await Model.load(this.Wllama, this.wasm, this.base, this.threads);
    }
    this.vocabulary = await this.models.base.vocabulary();
  }

  /**
   * Make the model of an arm the second one, unless it is already.
   * @param {string} arm
   * @param {number} strength of the adapters: 1 as they were trained, 0 without them
   * @param {AbortSignal} signal
   */
  async arm(arm, strength, signal) {
    const wanted = `${arm} ${strength}`;
    if (this.loaded === wanted) return;
    const [adapter] = await this.store.get([this.parts.adapters[arm]], signal);
    const file = await merged(new URL("merge-worker.js", this.folder), this.base, await adapter.arrayBuffer(), strength, signal);
    signal.throwIfAborted();
    // The old model goes first, so that there is room for the new one.
    this.models.tuned?.close();
    this.loaded = "";
    delete this.models.tuned;
    this.models.tuned = await Model.load(this.Wllama, this.wasm, file, this.threads);
    this.loaded = wanted;
  }

  /** Free all models. */
  close() {
    Object.values(this.models).forEach((model) => model.close());
    if (this.wasm) URL.revokeObjectURL(this.wasm);
    this.models = {};
    this.loaded = "";
    this.wasm = "";
  }
}

/** A merged file, made in a worker. */
function merged(address, base, adapter, strength, signal) {
  // An isolated page starts no worker from an address whose answer does not isolate it, too; one from a blob it does.
  const code = URL.createObjectURL(new Blob([`import ${JSON.stringify(address.href)};`], { type: "text/javascript" }));
  const worker = new Worker(code, { type: "module" });
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    worker.onerror = () => reject(new Error("The merging could not start."));
    worker.onmessage = ({ data }) => (data.file ? resolve(data.file) : reject(new Error(data.error)));
    worker.postMessage({ base, adapter, strength });
  }).finally(() => {
    worker.terminate();
    URL.revokeObjectURL(code);
  });
}
