"""Does the page "Write with it" write as the course does? Measures its models in Chromium: writes results/live.json.

Base model and the arm of all blocks write after the 30 prompts, in the page with 4 and 8 bits and in torch with 32.
Time and memory are those of the page with its three models; the speed is compared with that of torch in the same run.
Needs `make html` with its live part, and takes 10 to 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from live_adapters import ARMS, FOLDER
from live_parts import WLLAMA
from pdf import chromium
from playwright.sync_api import Page
from torch import Tensor
from tqdm import tqdm

from hyperfit_course.artifacts import sha256_file
from hyperfit_course.decoding import NEW_TOKENS, PROMPT_TOKENS, continue_prompts, kept_continuations
from hyperfit_course.models import load_model
from hyperfit_course.study.recording import TEXTS, Row, Task, record
from hyperfit_course.study.writing import repetition_row

ROOT = Path(__file__).resolve().parent.parent
ARM = "all"
LOAD = """async (arm) => {
  const live = new URL("../_static/live/", location.href);
  const modules = ["loader.js", "store.js"].map((name) => import(new URL(name, live)));
  const [{ Loader }, { Store }] = await Promise.all(modules);
  const parts = await (await fetch(new URL("parts.json", live))).json();
  const loader = (window.loader = new Loader(live, parts, new Store(live)));
  const signal = new AbortController().signal;
  const start = performance.now();
  await loader.store.get(loader.needed(arm), signal);
  const fetched = performance.now();
  await loader.start(arm, signal, () => {});
  const started = performance.now();
  await loader.arm(arm, 1, signal);
  return { fetch: fetched - start, start: started - fetched, merge: performance.now() - started };
}"""
WRITE = """async ([prompt, count]) => {
  const { base, tuned } = window.loader.models;
  const write = async (model) => {
    const written = [];
    while (written.length < count) {
      const { tokens } = await model.next([...prompt, ...written]);
      written.push(tokens[0] === model.end ? tokens[1] : tokens[0]);
    }
    return written;
  };
  return Promise.all([write(base), write(tuned)]);
}"""
READ = "(text) => window.loader.models.base.tokenize(text)"
SESSION = """async ([prompt, count]) => {
  const { Session } = await import(new URL("../_static/live/session.js", location.href));
  const choice = { sample: false, temperature: 1, penalty: 1, seed: 0 };
  const session = new Session(window.loader.models, prompt, choice);
  const signal = new AbortController().signal;
  const start = performance.now();
  await session.step(signal);
  const first = performance.now();
  while (session.length < count) await session.step(signal);
  return { first: first - start, rest: performance.now() - first };
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that prints nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which a folder is served on this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def page_memory() -> float:
    """Megabytes that this program's browser pages have in memory, shared ones counted in parts (PSS)."""
    kilobytes = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"--type=renderer" in (process / "cmdline").read_bytes() and is_ours(int(process.name)):
                lines = (process / "smaps_rollup").read_text().splitlines()
                kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes / 1000


def is_ours(process: int) -> bool:
    """Whether this program has started a process, directly or through others."""
    while process not in (0, os.getpid()):
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return process == os.getpid()


def page_rows(page: Page, prompts: Tensor, texts: list[str]) -> Iterator[Row]:
    """What both models of the page write, how fast, and in how much memory."""
    before = page_memory()
    took = page.evaluate(LOAD, ARM)
    memory = page_memory() - before
    same = [page.evaluate(READ, text) == prompt for text, prompt in zip(texts, prompts.tolist(), strict=True)]
    shown = page.evaluate(SESSION, [prompts[0].tolist(), NEW_TOKENS])
    base, start = load_model()[0], time.perf_counter()
    speed = continue_prompts(base, prompts[:1]).shape[1] / (time.perf_counter() - start)
    common = {
        "engine": WLLAMA,
        "same_prompt_tokens": sum(same),
        "seconds_to_start": round((took["start"] + took["merge"]) / 1000, 2),
        "seconds_to_merge": round(took["merge"] / 1000, 2),
        "memory_megabytes": round(memory),
        "seconds_to_first_token": round(shown["first"] / 1000, 2),
        "tokens_per_second": round(1000 * (NEW_TOKENS - 1) / shown["rest"], 2),
        "torch_tokens_per_second": round(speed, 2),
    }
    written = [page.evaluate(WRITE, [prompt, NEW_TOKENS]) for prompt in tqdm(prompts.tolist(), desc="page")]
    for side, label in enumerate(("base", ARMS[ARM].label)):
        continuations = torch.tensor([sides[side] for sides in written])
        yield {"arm": label, **common, **repetition_row(continuations), TEXTS: continuations.tolist()}


def torch_rows(prompts: Tensor) -> Iterator[Row]:
    """The same by the course's own decoding."""
    for label, model in (("base", load_model()[0]), (ARMS[ARM].label, ARMS[ARM].trained()[0])):
        continuations = kept_continuations(model, prompts, progress=f"torch, {label}")
        yield {"arm": label, "engine": "torch", **repetition_row(continuations), TEXTS: continuations.tolist()}


def main() -> None:
    """Write results/live.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html", help="the built pages")
    html = parser.parse_args().html
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    prompts = ARMS[ARM].splits()["prompts"][:, :PROMPT_TOKENS]
    texts = [str(text) for text in load_model()[1].batch_decode(prompts)]

    def in_page() -> Iterator[Row]:
        with served(html) as address, chromium() as browser:
            page = browser.new_page()
            page.set_default_timeout(600_000)
            page.goto(f"{address}/book/live.html")
            yield from page_rows(page, prompts, texts)

    common = {**ARMS[ARM].configuration(), "prompts": "tales", "prompt_tokens": PROMPT_TOKENS}
    adapters = sha256_file(FOLDER / f"{ARM}.safetensors")
    tasks = [
        Task("torch", {**common, "engine": "torch"}, functools.partial(torch_rows, prompts)),
        Task("page", {**common, "engine": WLLAMA, "adapters": adapters}, in_page),
    ]
    record("live", tasks, ROOT / "results")


if __name__ == "__main__":
    main()
