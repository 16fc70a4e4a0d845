// A model that reads: llama.cpp in WebAssembly, in a worker of its own, through wllama 2.4.0.

/** Most tokens of a prompt and its continuation. */
export const CONTEXT = 1024;
/** Models that run at the same time. */
const MODELS = 3;
const MOST_THREADS = 4;
const SILENT = { debug() {}, log() {}, warn() {}, error() {} };

/** WebAssembly with the 64-bit memory that wllama needs: Safari has none. */
export function isSupported() {
  const module = [0, 97, 115, 109, 1, 0, 0, 0, 5, 3, 1, 4, 1];
  return typeof WebAssembly === "object" && WebAssembly.validate(new Uint8Array(module));
}

/**
 * Threads of each model. More of them than processor cores would wait for each other.
 * @param {number} cores
 * @param {boolean} isolated browsers let threads share memory only in an isolated page
 */
export function threadsOf(cores, isolated) {
  const share = Math.min(MOST_THREADS, Math.floor(cores / MODELS));
  return isolated && share > 1 ? share : 1;
}

/** One model. It remembers what it has read, and reads only what is new. */
export class Model {
  /** @param {any} wllama */
  constructor(wllama) {
    this.wllama = wllama;
    /** @type {number[]} */
    this.seen = [];
    /** @type {Set<(error: Error) => void>} what to call if the model ends before it has answered */
    this.waiting = new Set();
    /** Why it has ended, if it has. */
    this.ended = "";
  }

  /**
   * Load a GGUF file.
   * @param {new (...args: any[]) => any} Wllama the class
   * @param {string} wasm address of the WebAssembly, which is another one for several threads
   * @param {Blob} file
   * @param {number} threads
   * @returns {Promise<Model>}
   */
  static async load(Wllama, wasm, file, threads) {
    // A worker that breaks tells only the logger.
    const logger = { ...SILENT, error: (what) => what instanceof Event && model.close(what.message ?? "no worker") };
    const paths = { "single-thread/wllama.wasm": wasm, "multi-thread/wllama.wasm": wasm };
    const model = new Model(new Wllama(paths, { suppressNativeLog: true, logger }));
    try {
      // Small batches: room for the results of a batch is 200 kB a token.
      await model.answer(model.wllama.loadModel([file], { n_ctx: CONTEXT, n_batch: 64, n_threads: threads, seed: 1 }));
    } catch (error) {
      model.close();
      throw error;
    }
    return model;
  }

  /** The end token. */
  get end() {
    return this.wllama.getEOS();
  }

  /**
   * Token ids of a text. Names of control tokens in it are ordinary text.
   * @param {string} text
   * @returns {Promise<number[]>}
   */
  async tokenize(text) {
    return Array.from(await this.answer(this.wllama.tokenize(text, false)));
  }

  /**
   * The bytes of every token.
   * @returns {Promise<Uint8Array[]>}
   */
  async vocabulary() {
    const listed = await this.answer(this.wllama.getVocab());
    return listed.slice(listed.length / 2); // wllama 2.4.0 puts as many empty entries before them
  }

  /**
   * The distribution of the token after a text.
   * @param {number[]} tokens of the whole text, at least one
   * @param {AbortSignal} [abortSignal]
   * @returns {Promise<import("./sampling.js").Distribution>}
   */
  next(tokens, abortSignal) {
    return this.answer(this.read(tokens, abortSignal));
  }

  async read(tokens, abortSignal) {
    let common = 0;
    while (common < this.seen.length && common < tokens.length - 1 && this.seen[common] === tokens[common]) common++;
    const remembered = this.seen.length;
    this.seen = []; // if it fails on the way, what the model remembers is not known
    if (common === 0) await this.wllama.kvClear();
    else if (common < remembered) await this.wllama.kvRemove(common, -1);
    await this.wllama.decode(tokens.slice(common), { abortSignal });
    const found = await this.wllama.getLogits(-1); // in spite of its name, probabilities
    this.seen = [...tokens];
    return { tokens: found.map(({ token }) => token), p: found.map(({ p }) => p) };
  }

  /** The same promise, which fails when the model ends: a worker that is gone answers nothing. */
  answer(promise) {
    return new Promise((resolve, reject) => {
      if (this.ended) reject(new Error(this.ended));
      this.waiting.add(reject);
      promise.then(resolve, reject).finally(() => this.waiting.delete(reject));
    });
  }

  /** Free its memory. */
  close(why = "the model was closed") {
    // Not wllama.exit(): that waits for a worker that may be busy or broken.
    this.wllama.proxy?.worker?.terminate();
    this.ended = why;
    for (const reject of this.waiting) reject(new Error(why));
  }
}
