// A model that reads: llama.cpp in WebAssembly, in a worker of its own, through wllama 2.4.0.

/** Most tokens of a prompt and its continuation. */
export const CONTEXT = 1024;
const SILENT = { debug() {}, log() {}, warn() {}, error() {} };

/** WebAssembly with the 64-bit memory that wllama needs: Safari has none. */
export function isSupported() {
  const module = [0, 97, 115, 109, 1, 0, 0, 0, 5, 3, 1, 4, 1];
  return typeof WebAssembly === "object" && WebAssembly.validate(new Uint8Array(module));
}

/** One model. It remembers what it has read, and reads only what is new. */
export class Model {
  /** @param {any} wllama a loaded Wllama */
  constructor(wllama) {
    this.wllama = wllama;
    /** @type {number[]} */
    this.seen = [];
  }

  /**
   * Load a GGUF file.
   * @param {new (...args: any[]) => any} Wllama the class
   * @param {string} wasm address of the WebAssembly
   * @param {Blob} file
   * @returns {Promise<Model>}
   */
  static async load(Wllama, wasm, file) {
    let fail;
    const failed = new Promise((_, reject) => (fail = reject));
    // A worker that cannot start tells only the logger.
    const logger = { ...SILENT, error: (what) => what instanceof Event && fail(new Error(what.message ?? "no worker")) };
    const wllama = new Wllama({ "single-thread/wllama.wasm": wasm }, { suppressNativeLog: true, logger });
    // Small batches: room for the results of a batch is 200 kB a token.
    const loaded = wllama.loadModel([file], { n_ctx: CONTEXT, n_batch: 64, seed: 1 });
    try {
      await Promise.race([loaded, failed]);
    } catch (error) {
      wllama.proxy?.worker?.terminate();
      throw error;
    }
    return new Model(wllama);
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
    return Array.from(await this.wllama.tokenize(text, false));
  }

  /**
   * The bytes of every token.
   * @returns {Promise<Uint8Array[]>}
   */
  async vocabulary() {
    const listed = await this.wllama.getVocab();
    return listed.slice(listed.length / 2); // wllama 2.4.0 puts as many empty entries before them
  }

  /**
   * The distribution of the token after a text.
   * @param {number[]} tokens of the whole text, at least one
   * @param {AbortSignal} [abortSignal]
   * @returns {Promise<import("./sampling.js").Distribution>}
   */
  async next(tokens, abortSignal) {
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

  /** Free its memory. */
  close() {
    // Not wllama.exit(): that waits for a worker that may be busy or broken.
    this.wllama.proxy?.worker?.terminate();
  }
}
