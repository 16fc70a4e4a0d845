// The service worker of the page "Write with it". It keeps the page's own files for visits without a network, and it
// isolates the page, so that its models may use several threads.
//
// Its scope is that one page. It asks the network first: what it keeps is shown only where no answer comes, so it cannot
// show an old book to a reader who has a network. The models are no matter of its own: the page keeps them (store.js).

const CACHE = "hyperfit-live-page";
/** What browsers ask of a page before they give it memory that threads share. */
const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));

addEventListener("fetch", (event) => {
  const { request } = event;
  const isOwn = new URL(request.url).origin === location.origin;
  // Pieces of the models are asked for with "no-store".
  if (isOwn && request.method === "GET" && request.cache !== "no-store") event.respondWith(answer(event));
});

async function answer(event) {
  const { request } = event;
  const isPage = request.mode === "navigate";
  const address = addressOf(request.url, isPage);
  let response;
  try {
    // The browser's own cache may mix files of two versions of the book: it has to ask whether they are still good.
    response = await (isPage ? fetch(request) : fetch(request, { cache: "no-cache" }));
    if (response.ok) event.waitUntil(keep(address, response.clone()));
  } catch (error) {
    response = await caches.match(address, { cacheName: CACHE });
    if (!response) throw error;
  }
  return isPage ? isolated(response) : response;
}

/** Under which address a file is kept. What stands behind the page's own changes nothing of it. */
function addressOf(url, isPage) {
  const address = new URL(url);
  address.hash = "";
  if (isPage) address.search = "";
  return address.href;
}

/** Keep a file in place of its older versions, if the reader keeps the models: the page makes and removes the cache. */
async function keep(address, response) {
  if (!(await caches.has(CACHE))) return;
  const cache = await caches.open(CACHE);
  await cache.delete(address, { ignoreSearch: true });
  await cache.put(address, response);
}

function isolated(response) {
  if (response.status === 0) return response; // a redirection, which the browser follows
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
