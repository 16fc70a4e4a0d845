"""Does the page "Write with it" write as the course does, and how fast? Writes results/live.json.

The base model and the three arms write after the 30 prompts, in the page with 4 and 8 bits and in torch with 32, from
the same adapters. Memory, start and speed are those of the page in Chromium; tools/live_speed.py says how.
Needs `make html` with its live part, and takes about half an hour on two cores. Rows that are recorded already stay.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
from live_adapters import ARMS, FOLDER, read_adapters
from live_parts import WLLAMA
from live_speed import START, cost_rows
from pdf import chromium
from peft import PeftModel
from playwright.sync_api import Page
from torch import Tensor
from tqdm import tqdm

from hyperfit_course.artifacts import sha256_file
from hyperfit_course.assets import ASSETS
from hyperfit_course.decoding import NEW_TOKENS, PROMPT_TOKENS, continue_prompts
from hyperfit_course.models import load_model, load_tokenizer
from hyperfit_course.study.arms import Arm, held_out
from hyperfit_course.study.recording import TEXTS, Row, Task, record
from hyperfit_course.study.writing import repetition_row

ROOT = Path(__file__).resolve().parent.parent
ARM = "all"
"""Whose model is loaded beside the base model where no other is named."""
WRITE = """async ([name, prompt, count]) => {
  const model = window.loader.models[name];
  const written = [];
  while (written.length < count) {
    const { tokens } = await model.next([...prompt, ...written]);
    written.push(tokens[0] === model.end ? tokens[1] : tokens[0]);
  }
  return written;
}"""
READ = "(text) => window.loader.models.base.tokenize(text)"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that prints nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def served(folder: Path, handler: type[Quiet] = Quiet) -> Iterator[str]:
    """The address at which a folder is served on this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextlib.contextmanager
def live_page(html: Path) -> Iterator[Page]:
    """The page in Chromium, without any models yet."""
    with served(html) as address, chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(600_000)
        page.goto(f"{address}/book/live.html")
        yield page


def page_rows(html: Path, name: str | None, prompts: Tensor) -> Iterator[Row]:
    """What the base model or an arm writes in the page, in one thread."""
    texts = [str(text) for text in load_tokenizer().batch_decode(prompts)]
    with live_page(html) as page:
        page.evaluate(START, name or ARM)
        same = [page.evaluate(READ, text) == prompt for text, prompt in zip(texts, prompts.tolist(), strict=True)]
        model = "tuned" if name else "base"
        bar = tqdm(prompts.tolist(), desc=f"page, {label(name)}")
        continuations = torch.tensor([page.evaluate(WRITE, [model, prompt, NEW_TOKENS]) for prompt in bar])
    yield {"arm": label(name), "engine": WLLAMA, "same_prompt_tokens": sum(same), **written(continuations)}


def torch_rows(name: str | None, prompts: Tensor) -> Iterator[Row]:
    """What the same weights write by the course's own decoding."""
    model = ARMS[name].untrained() if name else load_model()[0]
    if isinstance(model, PeftModel):
        # Merged as in the page; it is faster, too.
        model = read_adapters(model, FOLDER / f"{name}.safetensors").merge_and_unload()
    continuations = continue_prompts(model, prompts, progress=f"torch, {label(name)}")
    yield {"arm": label(name), "engine": "torch", **written(continuations)}


def written(continuations: Tensor) -> Row:
    """The texts and their measures."""
    return {**repetition_row(continuations), TEXTS: continuations.tolist()}


def label(name: str | None) -> str:
    """The name of the base model or of an arm in tables."""
    return ARMS[name].label if name else Arm().label


def text_tasks(html: Path) -> Iterator[Task]:
    """Two for the base model, and two for each arm."""
    prompts = held_out("tales")[:, :PROMPT_TOKENS]
    common = {"model": ASSETS["model"].sha256, "prompts": "tales", "prompt_tokens": PROMPT_TOKENS}
    for name in (None, *ARMS):
        adapters = sha256_file(FOLDER / f"{name}.safetensors") if name else None
        for engine, measure in (
            ("torch", functools.partial(torch_rows, name, prompts)),
            (WLLAMA, functools.partial(page_rows, html, name, prompts)),
        ):
            yield Task(f"{label(name)}, {engine}", {**common, "adapters": adapters, "engine": engine}, measure)


def cost_task(html: Path) -> Task:
    """The one for memory, start and speed."""

    def measure() -> Iterator[Row]:
        with live_page(html) as page:
            yield from cost_rows(page, ARM, held_out("tales")[:, :PROMPT_TOKENS])

    return Task("costs", {"model": ASSETS["model"].sha256, "engine": WLLAMA, "measured": "costs"}, measure)


def main() -> None:
    """Write results/live.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html", help="the built pages")
    html = parser.parse_args().html
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    record("live", [*text_tasks(html), cost_task(html)], ROOT / "results")


if __name__ == "__main__":
    main()
