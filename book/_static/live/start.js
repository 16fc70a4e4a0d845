// Starts the page "Write with it", or says why it cannot. No module: a page that is opened from disk may load none.
(() => {
  const root = document.getElementById("live");
  if (!root) return;
  const say = (text) => {
    root.querySelector(".live-message").textContent = text;
  };
  if (location.protocol === "file:") {
    say("This page was opened from disk, where browsers let it load no model: run “make serve” and open the address that it prints.");
  } else if (!window.isSecureContext) {
    say("Browsers let this page work only at an address that begins with https, or on your own machine at localhost.");
  } else {
    const folder = new URL("./", document.currentScript.src);
    import(new URL("page.js", folder)).then(({ start }) => start(root, folder)).catch(() => {
      say("The live models could not start: reload the page, or take a recent Chrome, Edge or Firefox.");
    });
  }
})();
