// Where do the large files come from? From this site in pieces, each checked, and kept by the browser.

const CACHE = "hyperfit-live";

/** A file cannot be had; the message is for the reader. */
export class StoreError extends Error {}

/** @typedef {{file: string, size: number, sha256: string}} Part */

/** Fetches parts and keeps them: in the browser's storage, and where that is forbidden or full, in memory. */
export class Store {
  /** @param {URL} folder where the parts lie */
  constructor(folder) {
    this.folder = folder;
    /** @type {Map<string, Blob>} */
    this.memory = new Map();
    /** Why nothing is kept beyond this visit; empty if it is. */
    this.trouble = "";
  }

  /**
   * The content of some parts, in their order.
   * @param {Part[]} parts
   * @param {AbortSignal} signal
   * @param {(done: number, total: number) => void} progress bytes
   * @returns {Promise<Blob[]>}
   */
  async get(parts, signal, progress = () => {}) {
    const total = parts.reduce((sum, part) => sum + part.size, 0);
    const blobs = [];
    let before = 0;
    for (const part of parts) {
      const report = (bytes) => progress(before + bytes, total);
      const blob = (await this.kept(part)) ?? (await this.download(part, signal, report));
      signal.throwIfAborted();
      before += part.size;
      progress(before, total);
      blobs.push(blob);
    }
    return blobs;
  }

  /**
   * A part that is here already, or undefined. A damaged one is thrown away.
   * @param {Part} part
   */
  async kept(part) {
    if (this.memory.has(part.file)) return this.memory.get(part.file);
    const found = await this.find(part);
    if (!found) return undefined;
    const blob = await found.blob();
    if (await intact(blob, part)) return blob;
    await (await this.open())?.delete(this.address(part));
    return undefined;
  }

  /** Whether a part is here, without reading it. @param {Part} part */
  async has(part) {
    return this.memory.has(part.file) || Boolean(await this.find(part));
  }

  /** @param {Part} part @param {AbortSignal} signal @param {(bytes: number) => void} report */
  async download(part, signal, report) {
    let bytes = 0;
    const chunks = [];
    try {
      const response = await fetch(this.address(part), { signal, cache: "no-store" });
      if (!response.ok) throw new StoreError(`This copy of the book lacks ${part.file} (${response.status}).`);
      for (const reader = response.body.getReader(); ; ) {
        const { done, value } = await reader.read();
        if (done) break;
        chunks.push(value);
        report((bytes += value.length));
      }
    } catch (error) {
      if (signal.aborted || error instanceof StoreError) throw error;
      throw new StoreError("The network was lost. What has arrived is kept: press the button to go on.", { cause: error });
    }
    const blob = new Blob(chunks);
    if (!(await intact(blob, part))) {
      throw new StoreError(`The file ${part.file} arrived damaged and was thrown away: press the button to fetch it again.`);
    }
    await this.keep(part, blob);
    return blob;
  }

  /** @param {Part} part @param {Blob} blob */
  async keep(part, blob) {
    try {
      const cache = await this.open();
      if (cache) return await cache.put(this.address(part), new Response(blob));
    } catch (error) {
      this.trouble = "The browser has no room to keep the models, so they last until this page is closed.";
    }
    this.memory.set(part.file, blob);
  }

  /** What the browser's storage has of a part; to look makes no storage. */
  async find(part) {
    try {
      return await caches.match(this.address(part), { cacheName: CACHE });
    } catch {
      return undefined;
    }
  }

  /** The browser's storage, or undefined where it is forbidden. */
  async open() {
    try {
      return await caches.open(CACHE);
    } catch (error) {
      this.trouble = "The browser forbids this page to keep the models, so they last until it is closed.";
      return undefined;
    }
  }

  /** Throw away all that is kept. */
  async clear() {
    this.memory.clear();
    this.trouble = "";
    await globalThis.caches?.delete(CACHE);
  }

  // The address names the content, so that another version of the book does not get this one's files.
  address(part) {
    const url = new URL(part.file, this.folder);
    url.searchParams.set("sha256", part.sha256.slice(0, 16));
    return url.href;
  }
}

/** @param {Blob} blob @param {Part} part */
async function intact(blob, part) {
  if (blob.size !== part.size) return false;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await blob.arrayBuffer()));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === part.sha256;
}
