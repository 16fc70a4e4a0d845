"""What does the page "Write with it" cost? Its memory, its start, and its speed against torch and llama.cpp."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import Page
from torch import Tensor
from tqdm import tqdm

from hyperfit_course.assets import fetch
from hyperfit_course.decoding import continue_prompts
from hyperfit_course.models import load_model
from hyperfit_course.study.recording import Row

ROUNDS = 5
TOKENS = 32
"""That each way writes in a round."""
START = """async (arm) => {
  const live = new URL("../_static/live/", location.href);
  const modules = ["loader.js", "store.js"].map((name) => import(new URL(name, live)));
  const [{ Loader }, { Store }] = await Promise.all(modules);
  const parts = await (await fetch(new URL("parts.json", live))).json();
  const loader = (window.loader = new Loader(live, parts, new Store(live)));
  const signal = new AbortController().signal;
  await loader.store.get(loader.needed(arm), signal);
  const fetched = performance.now();
  await loader.start(arm, signal, () => {});
  const started = performance.now();
  await loader.arm(arm, 1, signal);
  return { start: started - fetched, merge: performance.now() - started };
}"""
"""Loads the three models of the page, each with one thread; returns milliseconds without the download."""
ALONE = """async ([prompt, count]) => {
  const model = window.loader.models.base;
  const text = [...prompt];
  model.seen = []; // another way may have read this prompt
  const start = performance.now();
  let first;
  while (text.length < prompt.length + count) {
    const { tokens } = await model.next(text);
    text.push(tokens[0] === model.end ? tokens[1] : tokens[0]);
    first ??= performance.now();
  }
  return { first: (first - start) / 1000, rate: (1000 * (count - 1)) / (performance.now() - first) };
}"""
SESSION = """async ([prompt, count]) => {
  const { Session } = await import(new URL("session.js", window.loader.folder));
  const session = new Session(window.loader.models, prompt, { sample: false, temperature: 1, penalty: 1, seed: 0 });
  const { signal } = new AbortController();
  Object.values(window.loader.models).forEach((model) => (model.seen = [])); // another way may have read this prompt
  const start = performance.now();
  await session.step(signal);
  const first = performance.now();
  while (session.length < count) await session.step(signal);
  return { first: (first - start) / 1000, rate: (1000 * (count - 1)) / (performance.now() - first) };
}"""

Speed = dict[str, float]
"""``first``: seconds from the prompt to its first token; ``rate``: tokens a second after it."""


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


def torch_speed(prompt: list[int]) -> Speed:
    """The base model in torch, in 32 bits, as the course writes one text."""
    model, given = load_model()[0], torch.tensor([prompt])
    times = [time.perf_counter()]
    for count in (1, TOKENS):
        continue_prompts(model, given, count)
        times.append(time.perf_counter())
    first, whole = (after - before for before, after in itertools.pairwise(times))
    return {"first": first, "rate": (TOKENS - 1) / (whole - first)}


def native_speed() -> Callable[[list[int]], Speed]:
    """The base model in llama.cpp as this machine's own code, by the package xllamacpp, with one thread.

    The course does not need this package, so its environment does not have it.
    """
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(fetch("model"))
    settings.n_ctx, settings.n_parallel = 1024, 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(settings)

    def measure(prompt: list[int]) -> Speed:
        asked = {"prompt": prompt, "n_predict": TOKENS, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        times: dict[str, Any] = server.handle_completions(asked)["timings"]
        assert times["predicted_n"] == TOKENS
        return {"first": times["prompt_ms"] / 1000, "rate": times["predicted_per_second"]}

    return measure


def cost_rows(page: Page, arm: str, prompts: Tensor) -> Iterator[Row]:
    """One row of what the page takes, and a row for each way to write: the ways take turns.

    Args:
        page: the page, without any models yet.
        arm: whose model is the third one.
        prompts: token ids, shape (at least ``ROUNDS``, length).
    """
    torch.set_num_threads(1)
    load, before = os.getloadavg()[0], page_memory()
    took = page.evaluate(START, arm)
    yield {
        "memory_megabytes": round(page_memory() - before),
        "seconds_to_start": round((took["start"] + took["merge"]) / 1000, 2),
        "seconds_to_merge": round(took["merge"] / 1000, 2),
        "cores": os.cpu_count(),
        "load_average": round(load, 1),
    }
    ways: dict[str, Callable[[list[int]], Speed]] = {
        "page": lambda prompt: page.evaluate(SESSION, [prompt, TOKENS]),
        "page, base model alone": lambda prompt: page.evaluate(ALONE, [prompt, TOKENS]),
        "torch": torch_speed,
    }
    if importlib.util.find_spec("xllamacpp"):
        ways["llama.cpp"] = native_speed()
    yield from speed_rows(ways, prompts[: ROUNDS + 1].tolist())


def speed_rows(ways: dict[str, Callable[[list[int]], Speed]], prompts: list[list[int]]) -> Iterator[Row]:
    """Medians over rounds, and of each round's rate over that of torch. The first prompt is for warming up."""
    names = list(ways)
    found: dict[str, list[Speed]] = {name: [] for name in names}
    for number, prompt in enumerate(tqdm(prompts, desc="rounds")):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(ways[name](prompt))
    rates = {name: [speed["rate"] for speed in speeds[1:]] for name, speeds in found.items()}
    for name, speeds in found.items():
        yield {
            "way": name,
            "seconds_to_first_token": round(statistics.median(speed["first"] for speed in speeds[1:]), 3),
            "tokens_per_second": round(statistics.median(rates[name]), 2),
            **{f"over_{other}": over(rates[name], rates[other]) for other in ("torch", "llama.cpp") if other in rates},
            "rates": [round(rate, 2) for rate in rates[name]],
        }


def over(rates: list[float], others: list[float]) -> float:
    """The median of the ratios of each round."""
    return round(statistics.median(one / other for one, other in zip(rates, others, strict=True)), 3)
