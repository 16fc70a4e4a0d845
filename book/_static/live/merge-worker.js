// Merging takes seconds: it runs in a worker of its own, and the page stays alive.

import { readAdapters } from "./adapter.js";
import { merge } from "./merge.js";

onmessage = async ({ data: { base, adapter, strength } }) => {
  try {
    postMessage({ file: await merge(base, readAdapters(adapter), strength) });
  } catch (error) {
    postMessage({ error: error.message });
  }
};
