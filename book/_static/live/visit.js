// A visit without a network, or with several threads: both need the service worker that lies beside the page.

/** Files of the page itself; its service worker knows the name, too. */
const CACHE = "hyperfit-live-page";
const OPENED_ANEW = "hyperfit-live-opened-anew";
/** Milliseconds that a service worker may take to start. */
const PATIENCE = 5000;

/** Keeps the page for visits without a network, and opens it anew for several threads. */
export class Visit {
  /**
   * @param {URL} folder of the page's modules
   * @param {string[]} files what the page consists of, in that folder
   */
  constructor(folder, files) {
    this.worker = new URL("../../book/live-worker.js", folder);
    this.page = new URL(location.pathname, location.href);
    this.files = files.map((name) => new URL(name, folder).href);
    /** Whether the page opens without a network. */
    this.isKept = false;
  }

  /** Keep the page's files. Where the browser forbids it, nothing happens. */
  async keep() {
    try {
      const cache = await caches.open(CACHE);
      await this.controlled();
      await cache.addAll([this.page.href, ...this.files]);
      // The theme's files. One that cannot be kept costs the page its looks only.
      await Promise.allSettled(loaded().map((address) => cache.add(address)));
      this.isKept = true;
    } catch {
      this.isKept = false;
    }
  }

  /** Wait until the service worker stands between the page and the network. */
  async controlled() {
    const registration = await navigator.serviceWorker.register(this.worker, { scope: this.page.pathname });
    // A page that was loaded past its service worker gets it at the next visit.
    if (navigator.serviceWorker.controller || registration.active) return;
    await new Promise((resolve, reject) => {
      navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
      setTimeout(reject, PATIENCE, new Error("The service worker does not start."));
    });
  }

  /**
   * Open the page anew if that gives it several threads. The address has to hold what the reader has set.
   * @returns {boolean} whether it does
   */
  openAnew() {
    if (crossOriginIsolated || !navigator.serviceWorker?.controller) return false;
    try {
      sessionStorage.setItem(OPENED_ANEW, "1");
    } catch {
      return false;
    }
    location.reload();
    return true;
  }

  /** Whether the page was opened anew just now; asked once. */
  wasOpenedAnew() {
    try {
      const found = sessionStorage.getItem(OPENED_ANEW);
      sessionStorage.removeItem(OPENED_ANEW);
      return Boolean(found);
    } catch {
      return false;
    }
  }

  /** Keep nothing any more. */
  async remove() {
    this.isKept = false;
    await globalThis.caches?.delete(CACHE);
    const registration = await navigator.serviceWorker?.getRegistration(this.page);
    if (registration?.scope === this.page.href) await registration.unregister();
  }
}

/** What this page has loaded from its own site, without the models. */
function loaded() {
  const addresses = performance.getEntriesByType("resource").map(({ name }) => new URL(name));
  const own = addresses.filter(({ origin, pathname }) => origin === location.origin && !/\/live\/(parts|adapters)\//.test(pathname));
  return [...new Set(own.map(({ href }) => href))];
}
