// The page "Judge for yourself". No module: a page that is opened from disk may load none.
(() => {
  const root = document.getElementById("judge");
  const data = JSON.parse(document.getElementById("judge-pairs").textContent);
  const KEPT = "hyperfit-judgements";
  /** The 97.5 % point of the normal distribution. */
  const Z = 1.959964;
  const part = (name) => root.querySelector(`[data-judge="${name}"]`);
  const pick = (items) => items[Math.floor(Math.random() * items.length)];

  /** Every pair that can be judged. */
  const pairs = data.comparisons.flatMap(({ of, over }, comparison) =>
    data.prompts
      .map((_, prompt) => ({ comparison, prompt }))
      .filter(({ prompt }) => data.texts[of][prompt] !== null && data.texts[over][prompt] !== null),
  );
  let judgements = kept();
  let current = null;

  /** What this browser has kept; nothing where it keeps nothing, or where the pairs are others by now. */
  function kept() {
    try {
      const found = JSON.parse(localStorage.getItem(KEPT)) ?? [];
      const known = (one) => pairs.some((pair) => same(pair, one)) && ["of", "over", "neither"].includes(one.choice);
      return found.filter(known);
    } catch {
      return [];
    }
  }

  function keep() {
    try {
      localStorage.setItem(KEPT, JSON.stringify(judgements));
    } catch {
      // A private window may forbid it. The judgements of this visit are here all the same.
    }
  }

  function same(one, other) {
    return one.comparison === other.comparison && one.prompt === other.prompt;
  }

  /** A pair that was not judged yet, of the comparison with the fewest judgements: so all intervals shrink alike. */
  function next() {
    const left = pairs.filter((pair) => !judgements.some((one) => same(one, pair)));
    const judged = (comparison) => judgements.filter((one) => one.comparison === comparison).length;
    const fewest = Math.min(...left.map((pair) => judged(pair.comparison)));
    const pair = pick(left.filter((one) => judged(one.comparison) === fewest));
    return pair && { ...pair, ofIsFirst: Math.random() < 0.5 };
  }

  function show() {
    current = next();
    part("pair").hidden = !current;
    if (!current) {
      part("message").textContent = "You have judged every pair.";
      results();
      return;
    }
    const { of, over } = data.comparisons[current.comparison];
    const kinds = current.ofIsFirst ? [of, over] : [over, of];
    part("message").textContent = `Pair ${judgements.length + 1} of ${pairs.length}`;
    part("prompt").textContent = data.prompts[current.prompt];
    ["a", "b"].forEach((side, i) => {
      part(side).textContent = data.texts[kinds[i]][current.prompt].trim();
    });
  }

  function judge(choice) {
    const { comparison, prompt, ofIsFirst } = current;
    const chosen = choice === "neither" ? choice : (choice === "a") === ofIsFirst ? "of" : "over";
    judgements.push({ comparison, prompt, choice: chosen });
    keep();
    show();
    if (!part("results").hidden) results();
    root.scrollIntoView({ block: "nearest" });
  }

  /** Wilson's 95 % interval of a share. */
  function wilson(count, n) {
    const share = count / n;
    const centre = (share + Z ** 2 / (2 * n)) / (1 + Z ** 2 / n);
    const half = (Z * Math.sqrt((share * (1 - share)) / n + Z ** 2 / (4 * n ** 2))) / (1 + Z ** 2 / n);
    return [centre - half, centre + half];
  }

  function said(low, high) {
    if (low > 0.5) return "you prefer the hyperfitted text";
    if (high < 0.5) return "you prefer the other text";
    return "not decided";
  }

  function results() {
    const rows = data.comparisons.map(({ name }, comparison) => {
      const own = judgements.filter((one) => one.comparison === comparison);
      const count = (choice) => own.filter((one) => one.choice === choice).length;
      const [wins, losses, ties] = ["of", "over", "neither"].map(count);
      const n = wins + losses;
      const [low, high] = n ? wilson(wins, n) : [0, 1];
      const share = n ? `${(wins / n).toFixed(2)} [${low.toFixed(2)}, ${high.toFixed(2)}]` : "–";
      return [name, wins, losses, ties, share, n ? said(low, high) : "no judgement yet"];
    });
    part("table").replaceChildren(
      ...rows.map((cells) => {
        const row = document.createElement("tr");
        cells.forEach((cell, i) => {
          const element = document.createElement(i ? "td" : "th");
          if (!i) element.scope = "row";
          element.textContent = cell;
          row.append(element);
        });
        return row;
      }),
    );
    part("results").hidden = false;
  }

  function save() {
    const named = judgements.map(({ comparison, prompt, choice }) => {
      const { of, over } = data.comparisons[comparison];
      return { of, over, prompt: data.prompts[prompt], preferred: { of, over, neither: null }[choice] };
    });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(named, null, 1)], { type: "application/json" }));
    link.download = "judgements.json";
    link.click();
    URL.revokeObjectURL(link.href);
  }

  function forget() {
    if (!window.confirm("Forget all your judgements on this page?")) return;
    judgements = [];
    keep();
    part("results").hidden = true;
    show();
  }

  for (const choice of ["a", "b", "neither"]) part(`choose-${choice}`).addEventListener("click", () => judge(choice));
  part("show").addEventListener("click", results);
  part("save").addEventListener("click", save);
  part("forget").addEventListener("click", forget);
  show();
})();
