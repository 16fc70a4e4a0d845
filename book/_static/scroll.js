// What scrolls in its own box can be reached and moved by keyboard.
const reachable = () => {
  for (const box of document.querySelectorAll(".bd-article table, .bd-article .cell_output, .bd-article div.math, .bd-article pre")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
};
addEventListener("load", reachable);
addEventListener("resize", reachable);
