"""The page "Write with it" in Chromium over a local server, with a tiny model in place of the course's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import live_model
import live_parts
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from conftest import ROOT, tiny_model
from live_adapters import adapter_tensors
from live_measure import Quiet, served
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect
from test_browser import AXE, PHONE

from hyperfit_course.assets import AssetError
from hyperfit_course.live import load

expect.set_options(timeout=60_000)
LIVE = "book/live.html"
LARGE = ("/parts/", "/adapters/")
CORES = "Object.defineProperty(navigator, 'hardwareConcurrency', { get: () => %d, configurable: true })"
DAMAGED = "arrived damaged"
LOST = "The network was lost"


@pytest.fixture(scope="session")
def site(html: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built book with a live part of its own, in pieces of 8 kB."""
    try:
        archive = live_parts.wllama_archive()
    except AssetError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("site")
    live = folder / "_static" / "live"
    live.mkdir(parents=True)
    for source in [*html.iterdir(), *(html / "_static").iterdir(), *(html / "_static" / "live").iterdir()]:
        target = folder / source.relative_to(html)
        if target not in (live.parent, live, live / "adapters"):
            target.symlink_to(source)
    (live / "adapters").mkdir()
    model = sharp_model()
    live_model.write_model(model, folder / "base.gguf")
    torch.save(model.state_dict(), folder / "rounded.pt")
    for number, name in enumerate(("all", "last", "middle")):
        adapted = live_model.adapted(sharp_model(), size=0.1 + 0.1 * number)
        live_model.write_adapters(adapter_tensors(adapted), live / "adapters" / f"{name}.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_parts, "PIECE", 8_000)
        live_parts.write_parts(folder, folder / "base.gguf", archive)
    return folder


def sharp_model() -> torch.nn.Module:
    """A tiny model that is sure of its next token."""
    model = tiny_model(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= 6
        model.get_input_embeddings().weight *= 7
    return model


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    with served(site) as url:
        yield f"{url}/{LIVE}"


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A new browser on a machine with two cores, whatever this one has."""
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    context.set_default_timeout(30_000)
    context.add_init_script(CORES % 2)
    yield context
    context.close()


def control(page: Page, name: str) -> Locator:
    return page.locator(f'[data-live="{name}"]')


def message(page: Page) -> Locator:
    return page.locator(".live-message")


def opened(context: BrowserContext, address: str, settings: str = "prompt=Once+upon") -> Page:
    page = context.new_page()
    page.goto(f"{address}#{settings}")
    expect(control(page, "load")).to_contain_text("Load the models")
    expect(control(page, "load")).to_be_enabled()
    return page


def loaded(context: BrowserContext, address: str, settings: str = "prompt=Once+upon") -> Page:
    page = opened(context, address, settings)
    control(page, "load").click()
    expect(control(page, "write")).to_be_enabled()
    return page


def write(page: Page) -> list[str]:
    """Press the button, and return both texts when they are written."""
    control(page, "write").click()
    expect(message(page)).to_contain_text("Written: 96 tokens")
    return page.locator(".live-text").all_text_contents()


def move(page: Page, name: str, value: float) -> None:
    """Move a slider and let it go."""
    control(page, name).fill(str(value))
    control(page, name).dispatch_event("change")


def saved(page: Page, folder: Path) -> Path:
    with page.expect_download() as download:
        control(page, "save").click()
    download.value.save_as(folder / "saved.json")
    return folder / "saved.json"


def test_nothing_large_before_the_click_and_never_another_host(context: BrowserContext, address: str) -> None:
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = opened(context, address)
    page.wait_for_load_state("networkidle")
    assert asked
    assert not [url for url in asked if any(name in url for name in LARGE)]
    control(page, "load").click()
    expect(control(page, "write")).to_be_enabled()
    write(page)
    own = address.removesuffix(LIVE)
    assert not [url for url in asked if not url.startswith((own, f"blob:{own}", "data:"))]
    pieces = [url for url in asked if "/parts/model-" in url]
    assert len(pieces) == len(set(pieces)) > 2


def test_both_models_write_and_the_tables_are_those_of_torch(
    context: BrowserContext, address: str, site: Path, tmp_path: Path
) -> None:
    page = loaded(context, address)
    texts = write(page)
    assert texts[0] != texts[1]
    text = load(saved(page, tmp_path))
    assert {name: len(tokens) for name, tokens in text.tokens.items()} == {"base": 96, "hyperfitted": 96}
    base = tiny_model(1)
    base.load_state_dict(torch.load(site / "rounded.pt"))
    models = {"base": base, "hyperfitted": tiny_model(1)}
    models["hyperfitted"].load_state_dict(base.state_dict())
    models["hyperfitted"] = live_model.adapted(models["hyperfitted"], size=0.1)
    for name, model in models.items():
        ids = torch.tensor([text.prompt_tokens + text.tokens[name]])
        with torch.no_grad():
            logits, of_base = (each(ids).logits[0, len(text.prompt_tokens) - 1 : -1] for each in (model, base))
        logits[:, 256] = -torch.inf
        rows = text.steps[text.steps["model"] == name]
        expected = logits.softmax(-1)[rows["step"].tolist(), rows["token"].tolist()]
        # llama.cpp rounds activations to eight bits as well.
        assert (torch.tensor(rows["p"].tolist()) - expected).abs().mean() < 0.02
        assert expected[(rows["place"] == 1).tolist()].mean() > 0.2, "a flat distribution would show no error"
        theirs = (of_base > of_base.gather(1, ids[0, len(text.prompt_tokens) :, None])).sum(-1) + 1
        chosen = rows[rows["token"] == rows["written"]]["base_rank"]
        assert (torch.tensor(chosen.tolist()) - theirs).abs().float().mean() < 1.5
    measures = text.measures()
    for side, name in enumerate(("base", "hyperfitted")):
        shown = page.locator(".live-side").nth(side)
        assert shown.locator(".live-ttr").text_content() == f"{measures.loc[name, 'ttr']:.2f}"
        assert shown.locator(".live-bigrams").text_content() == f"{measures.loc[name, 'bigram_repetition']:.2f}"


def test_strength_zero_is_the_base_model_and_one_is_not(context: BrowserContext, address: str) -> None:
    page = loaded(context, address)
    first = write(page)
    move(page, "strength", 0)
    expect(message(page)).to_contain_text("Another model is loaded")
    at_zero = write(page)
    assert at_zero == [first[0], first[0]]
    move(page, "strength", 1)
    expect(message(page)).to_contain_text("Another model is loaded")
    assert write(page) == first
    control(page, "arm").select_option("middle")
    expect(message(page)).to_contain_text("Another model is loaded")
    other = write(page)
    assert other[0] == first[0]
    assert other[1] != first[1]


def test_greedy_text_does_not_move_with_temperature_and_sampled_text_does(
    context: BrowserContext, address: str
) -> None:
    page = loaded(context, address)
    first, entropy = write(page), page.locator(".live-entropy").first.text_content()
    move(page, "temperature", 2)
    assert write(page) == first
    assert page.locator(".live-entropy").first.text_content() != entropy
    control(page, "sample").select_option("1")
    drawn = write(page)
    assert drawn != first
    assert write(page) == drawn, "one seed, one text"
    control(page, "seed").fill("5")
    assert write(page) != drawn


def test_steps_back_forward_and_one_at_a_time_by_keyboard(context: BrowserContext, address: str) -> None:
    page = opened(context, address)
    control(page, "load").focus()
    page.keyboard.press("Enter")
    expect(control(page, "write")).to_be_focused()
    control(page, "step").focus()
    for length in (1, 2, 3):
        page.keyboard.press("Enter")
        expect(page.locator('[data-of="position"]')).to_have_text(f"{length} of {length}")
    three = page.locator(".live-text").all_text_contents()
    control(page, "back").focus()
    page.keyboard.press("Enter")
    expect(page.locator('[data-of="position"]')).to_have_text("2 of 3")
    two = page.locator(".live-text").all_text_contents()
    assert all(long.startswith(short) and long != short for long, short in zip(three, two, strict=True))
    for side in (0, 1):
        chosen = page.locator(".live-side").nth(side).locator(".live-chosen td").nth(1).text_content()
        assert two[side].endswith(chosen or "?")
    control(page, "position").focus()
    page.keyboard.press("End")
    assert page.locator(".live-text").all_text_contents() == three
    assert control(page, "position").get_attribute("aria-valuetext") == "token 3 of 3"
    spoken = page.locator(".live-spoken").text_content() or ""
    assert "Base model: " in spoken
    assert "Hyperfitted model: " in spoken


def test_a_shared_link_opens_the_same_text(context: BrowserContext, address: str) -> None:
    page = loaded(context, address, "prompt=Guten+Tag&arm=last&strength=0.5&penalty=1.5&sample=1&seed=9")
    first = write(page)
    assert control(page, "prompt").input_value() == "Guten Tag"
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    control(page, "share").click()
    expect(message(page)).to_contain_text("copied")
    link = page.evaluate("navigator.clipboard.readText()")
    other = loaded(context, *link.split("#"))
    assert write(other) == first


def test_a_link_of_settings_alone_leaves_the_prompt_and_changes_the_model(
    context: BrowserContext, address: str
) -> None:
    page = loaded(context, address, "prompt=Keep+me")
    page.get_by_role("link", name="Begin with the last five").click()
    expect(message(page)).to_contain_text("Another model is loaded")
    assert control(page, "arm").input_value() == "last"
    assert control(page, "prompt").input_value() == "Keep me"


class Server(Quiet):
    """Serves the book; of a file that a test names, its own answer."""

    instead: ClassVar[dict[str, bytes]] = {}
    broken: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        """Answer with what the test wants: another content, or 60 % of the file."""
        path = self.path.split("?")[0]
        content = self.instead.get(path, b"")
        if path in self.broken:
            content = Path(self.translate_path(path)).read_bytes()
        if not content:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) * 6 // 10] if path in self.broken else content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> type[Server]:
    monkeypatch.setattr(Server, "instead", {})
    monkeypatch.setattr(Server, "broken", set())
    return Server


def test_nothing_is_kept_before_the_click_and_nothing_after_it_is_removed(
    context: BrowserContext, address: str
) -> None:
    page = opened(context, address)
    kept = """async () => [
        ...(await caches.keys()),
        ...(await navigator.serviceWorker.getRegistrations()).map((each) => each.scope),
    ]"""
    assert page.evaluate(kept) == []
    control(page, "load").click()
    expect(control(page, "write")).to_be_enabled()
    assert set(page.evaluate(kept)) == {"hyperfit-live", "hyperfit-live-page", address}
    control(page, "remove").click()
    expect(message(page)).to_contain_text("removed from this browser")
    assert page.evaluate(kept) == []
    page.reload()
    expect(control(page, "load")).to_be_enabled()
    assert page.evaluate(kept) == []


def test_the_page_opens_writes_and_merges_without_a_network_once_it_was_loaded(
    context: BrowserContext, site: Path, server: type[Server]
) -> None:
    with served(site, server) as url:
        page = loaded(context, f"{url}/{LIVE}")
        expect(message(page)).to_contain_text("The page opens without a network now.")
        first = write(page)
    page.goto(f"{url}/{LIVE}?again=1#prompt=Once+upon")
    expect(control(page, "load")).to_contain_text("they are kept in this browser")
    control(page, "load").click()
    expect(control(page, "write")).to_be_enabled()
    assert write(page) == first
    move(page, "strength", 0.5)
    expect(message(page)).to_contain_text("Another model is loaded")
    assert page.locator(".live-row").first.evaluate("row => getComputedStyle(row).display") == "flex", "no style sheet"


def test_with_a_network_the_page_is_the_newest(context: BrowserContext, site: Path, server: type[Server]) -> None:
    with served(site, server) as url:
        page = loaded(context, f"{url}/{LIVE}")
        expect(message(page)).to_contain_text("without a network")
        server.instead[f"/{LIVE}"] = (site / LIVE).read_bytes().replace(b"<h1>Write with it<", b"<h1>New<")
        style = "/_static/live/live.css"
        server.instead[style] = (site / style[1:]).read_bytes() + b".live-row {opacity: .5}"
        page.reload()
        expect(page.locator("h1").first).to_have_text("New")
        assert page.locator(".live-row").first.evaluate("row => getComputedStyle(row).opacity") == "0.5"
        expect(control(page, "load")).to_be_enabled()
    page.reload()
    expect(page.locator("h1").first).to_have_text("New")


def test_no_other_page_is_touched_by_the_service_worker(context: BrowserContext, address: str) -> None:
    page = loaded(context, address)
    assert page.evaluate("navigator.serviceWorker.controller !== null")
    page.goto(address.replace("live.html", "intro.html"))
    assert page.evaluate("[navigator.serviceWorker.controller, crossOriginIsolated]") == [None, False]


def test_with_many_cores_the_page_opens_anew_and_writes_the_same_with_several_threads(
    context: BrowserContext, address: str
) -> None:
    context.add_init_script(CORES % 6)
    page = opened(context, address, "prompt=Twice&strength=0.5")
    control(page, "prompt").fill("Once upon")
    move(page, "strength", 1)
    page.evaluate("window.before = true")
    errors: list[str] = []
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    control(page, "load").click()
    expect(message(page)).to_contain_text("with 2 threads each")
    assert page.evaluate("[crossOriginIsolated, window.before]") == [True, None]
    assert control(page, "prompt").input_value() == "Once upon"
    control(page, "step").click()
    expect(page_position(page)).to_have_text("1 of 1")
    assert not errors
    context.add_init_script(CORES % 2)
    plain = loaded(context, address)
    expect(message(plain)).to_contain_text("with one thread each")
    control(plain, "step").click()
    expect(page_position(plain)).to_have_text("1 of 1")
    texts = (each.locator(".live-text").all_text_contents() for each in (plain, page))
    assert next(texts) == next(texts)


def page_position(page: Page) -> Locator:
    return page.locator('[data-of="position"]')


NO_FIRST_WORKER = """{
  const Native = Worker;
  Worker = class extends Native {
    constructor(...given) {
      if (crossOriginIsolated && !window.refused) {
        window.refused = true;
        throw new RangeError("no shared memory");
      }
      super(...given);
    }
  };
}"""


def test_without_memory_for_threads_it_goes_on_with_one(context: BrowserContext, address: str) -> None:
    context.add_init_script(CORES % 6)
    context.add_init_script(NO_FIRST_WORKER)
    page = loaded(context, address)
    expect(message(page)).to_contain_text("with one thread each")
    assert page.evaluate("[crossOriginIsolated, window.refused]") == [True, True]
    write(page)


def test_it_works_offline_after_the_load_and_keeps_the_models(context: BrowserContext, address: str) -> None:
    page = loaded(context, address)
    context.set_offline(True)
    write(page)
    move(page, "strength", 0.5)
    expect(message(page)).to_contain_text("Another model is loaded")
    write(page)
    context.set_offline(False)
    again = opened(context, address)
    expect(control(again, "load")).to_contain_text("they are kept in this browser")
    control(again, "remove").click()
    expect(message(again)).to_contain_text("removed from this browser")
    expect(control(again, "load")).to_contain_text("MB")


@pytest.mark.parametrize(
    "prompt",
    ["🙂🙃", "שלום עולם", "<end> and <|im_end|>", "从前有一座山", "a\n\n\nb", " ", "x" * 800],
    ids=["emoji", "right to left", "control tokens", "Chinese", "lines", "space", "long"],
)
def test_any_prompt_is_written_on_or_answered(
    context: BrowserContext, address: str, tmp_path: Path, prompt: str
) -> None:
    page = loaded(context, address)
    control(page, "prompt").fill(prompt)
    if not prompt.strip():
        control(page, "write").click()
        expect(message(page)).to_contain_text("Type a prompt first")
        return
    write(page)
    kept = load(saved(page, tmp_path))
    assert len(kept.prompt_tokens) == len(prompt.encode()), "a token a byte: a control token would be one token"


@pytest.mark.parametrize("prompt", ["", "y" * 5000], ids=["empty", "5,000 characters"])
def test_a_prompt_that_cannot_be_taken_is_answered_in_one_sentence(
    context: BrowserContext, address: str, prompt: str
) -> None:
    page = loaded(context, address)
    control(page, "prompt").fill(prompt)
    control(page, "write").click()
    expect(message(page)).to_contain_text("5,000 tokens, and 832 fit: shorten it." if prompt else "Type a prompt first")
    control(page, "prompt").fill("Fine")
    write(page)


def no_network(route: Route) -> None:
    route.abort("internetdisconnected")


def damage(route: Route) -> None:
    body = route.fetch().body()
    route.fulfill(body=bytes(len(body)), status=200)


def cut(route: Route) -> None:
    route.fulfill(body=b"short", status=200)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [(no_network, LOST), (damage, DAMAGED), (cut, DAMAGED)],
    ids=["network lost", "damaged", "cut short"],
)
def test_a_piece_that_does_not_arrive_is_said_and_the_rest_is_kept(
    context: BrowserContext, address: str, fault: Callable[[Route], None], sentence: str
) -> None:
    page = opened(context, address)
    context.route("**/model-2.bin*", fault)
    control(page, "load").click()
    expect(message(page)).to_contain_text(sentence)
    expect(control(page, "load")).to_be_enabled()
    context.unroute("**/model-2.bin*")
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    control(page, "load").click()
    expect(control(page, "write")).to_be_enabled()
    assert not [url for url in asked if "model-0" in url or "model-1" in url], "kept pieces were fetched again"
    write(page)


def test_a_network_that_is_lost_at_60_percent_is_said_and_the_download_goes_on(
    context: BrowserContext, site: Path, server: type[Server]
) -> None:
    with served(site, server) as url:
        page = opened(context, f"{url}/{LIVE}")
        server.broken.add("/_static/live/parts/model-1.bin")
        control(page, "load").click()
        expect(message(page)).to_contain_text(LOST)
        server.broken.clear()
        control(page, "load").click()
        expect(control(page, "write")).to_be_enabled()
        write(page)


def test_a_download_can_be_stopped_and_goes_on(context: BrowserContext, address: str) -> None:
    page = opened(context, address)
    context.route("**/model-1.bin*", lambda route: None)  # no answer ever comes
    control(page, "load").click()
    expect(control(page, "stop")).to_be_visible()
    page.wait_for_timeout(300)
    control(page, "stop").click()
    expect(control(page, "load")).to_be_enabled()
    context.unroute("**/model-1.bin*")
    control(page, "load").click()
    expect(control(page, "write")).to_be_enabled()


PRIVATE = """{
  Object.defineProperty(window, "caches", { get: () => { throw new DOMException("no", "SecurityError") } });
  Object.defineProperty(navigator, "serviceWorker", { get: () => undefined });
  Object.defineProperty(window, "sessionStorage", { get: () => { throw new DOMException("no", "SecurityError") } });
}"""
NO_STORAGE = "CacheStorage.prototype.open = () => Promise.reject(new DOMException('no', 'SecurityError'))"
FULL_STORAGE = "Cache.prototype.put = () => Promise.reject(new DOMException('full', 'QuotaExceededError'))"


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (NO_STORAGE, "forbids this page to keep the models"),
        (FULL_STORAGE, "no room to keep the models"),
        (PRIVATE, "forbids this page to keep the models"),
    ],
    ids=["forbidden", "full", "private mode"],
)
def test_without_storage_the_models_last_until_the_page_is_closed(
    context: BrowserContext, address: str, script: str, sentence: str
) -> None:
    context.add_init_script(script)
    page = loaded(context, address)
    expect(message(page)).to_contain_text(sentence)
    write(page)


def test_a_browser_without_the_memory_is_told_and_loads_nothing(context: BrowserContext, address: str) -> None:
    context.add_init_script("WebAssembly.validate = () => false")
    page = context.new_page()
    page.goto(address)
    expect(message(page)).to_contain_text("This browser cannot run the live models")
    assert not control(page, "load").is_visible()
    assert page.locator('a[href="explorer.html"]').first.is_visible()


def test_models_that_find_no_memory_end_in_one_sentence(context: BrowserContext, address: str) -> None:
    context.route("**/wllama.wasm*", lambda route: route.fallback())
    page = opened(context, address)
    page.evaluate("() => { Worker = class { constructor() { throw new RangeError('Out of memory') } } }")
    control(page, "load").click()
    expect(message(page)).to_contain_text("want of memory")
    expect(control(page, "load")).to_be_enabled()


def test_a_book_without_the_live_part_says_so(context: BrowserContext, address: str) -> None:
    context.route("**/parts.json", lambda route: route.fulfill(status=404))
    page = context.new_page()
    page.goto(address)
    expect(message(page)).to_contain_text("built without its live part")
    assert not control(page, "load").is_visible()


def test_from_disk_it_says_what_to_do(site: Path, page: Page) -> None:
    page.goto((site / LIVE).resolve().as_uri())
    expect(message(page)).to_contain_text("make serve")


def test_what_changes_while_it_writes_stops_it_and_writes_anew(context: BrowserContext, address: str) -> None:
    page = loaded(context, address)
    first = write(page)
    control(page, "write").click()
    move(page, "strength", 0)
    expect(message(page)).to_contain_text("Written: 96 tokens")
    expect(page.locator('[data-of="strength"]')).to_have_text("0.00")
    expect(page.locator(".live-sides")).to_have_attribute("aria-busy", "false")
    texts = page.locator(".live-text").all_text_contents()
    assert texts == [first[0], first[0]]


def test_a_page_that_is_left_while_it_writes_can_be_come_back_to(context: BrowserContext, address: str) -> None:
    page = loaded(context, address)
    control(page, "write").click()
    # Chromium keeps no pages for going back when it is driven, so the events stand in for it.
    for name in ("pagehide", "pageshow"):
        page.evaluate(f"dispatchEvent(new PageTransitionEvent('{name}', {{ persisted: true }}))")
    control(page, "load").click()
    expect(control(page, "write")).to_be_enabled()
    control(page, "write").click()
    page.goto(address.replace("live.html", "intro.html"))
    page.go_back()
    control(page, "load").click()
    expect(control(page, "write")).to_be_enabled()
    write(page)


KEPT_WORKERS = """{
  const Native = Worker;
  window.workers = [];
  Worker = class extends Native {
    constructor(...given) {
      super(...given);
      window.workers.push(this);
    }
  };
}"""


def test_a_model_that_breaks_ends_in_one_sentence_and_can_be_loaded_again(
    context: BrowserContext, address: str
) -> None:
    context.add_init_script(KEPT_WORKERS)
    page = loaded(context, address)
    control(page, "write").click()
    page.evaluate("workers.forEach((each) => each.dispatchEvent(new ErrorEvent('error', { message: 'broken' })))")
    expect(message(page)).to_contain_text("want of memory")
    control(page, "load").click()
    expect(control(page, "write")).to_be_enabled()
    write(page)


def test_every_prompt_is_reached_by_arrow_keys_and_no_focus_is_taken(context: BrowserContext, address: str) -> None:
    page = opened(context, address)
    control(page, "prompts").focus()
    seen = []
    for _ in range(12):
        page.keyboard.press("ArrowDown")
        seen.append(control(page, "prompt").input_value())
    assert len(set(seen)) == 12
    control(page, "load").click()
    control(page, "prompt").focus()
    expect(control(page, "write")).to_be_enabled()
    expect(control(page, "prompt")).to_be_focused()
    assert page.locator("[aria-busy] [aria-live], [aria-busy] [role=status]").count() == 0, "it would not be read"
    assert page.locator("#live output").count() == 0, "each of its changes is read: every token"


def test_a_number_beyond_its_bounds_is_used_as_the_link_gives_it_back(context: BrowserContext, address: str) -> None:
    page = loaded(context, address, "prompt=Once+upon&sample=1")
    control(page, "seed").fill("5000000")
    first = write(page)
    assert "seed=999999" in page.url
    control(page, "seed").fill("999999")
    assert write(page) == first


def test_it_stops_at_once_and_pauses_while_it_is_hidden(context: BrowserContext, address: str) -> None:
    page = loaded(context, address)
    page.evaluate("Object.defineProperty(document, 'hidden', { get: () => window.away ?? false, configurable: true })")
    page.evaluate("window.away = true")
    control(page, "write").click()
    page.wait_for_timeout(500)
    assert page.locator(".live-text").first.text_content() == ""
    page.evaluate("() => { window.away = false; document.dispatchEvent(new Event('visibilitychange')) }")
    expect(message(page)).to_contain_text("Written: 96 tokens")
    page.evaluate("window.away = true")
    control(page, "write").click()
    control(page, "stop").click()
    expect(control(page, "stop")).to_be_hidden()
    expect(message(page)).to_have_text("Stopped.")


def test_two_tabs_write_at_once_and_one_may_be_closed(context: BrowserContext, address: str) -> None:
    pages = [opened(context, address) for _ in range(2)]
    for page in pages:
        control(page, "load").click()
    for page in pages:
        expect(control(page, "write")).to_be_enabled()
        control(page, "write").click()
    pages[0].close()
    pages[1].bring_to_front()
    expect(message(pages[1])).to_contain_text("Written: 96 tokens")


def test_without_barriers_in_both_themes_and_on_a_phone(context: BrowserContext, address: str) -> None:
    page = loaded(context, address)
    write(page)
    page.add_style_tag(content="* { transition: none !important }")
    for theme in ("light", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        violations = Axe().run(page, options=AXE).response["violations"]
        assert not [(each["id"], [node["target"] for node in each["nodes"]][:3]) for each in violations], theme
        for name, size in (("wide", {"width": 1300, "height": 900}), ("phone", PHONE)):
            page.set_viewport_size(size)
            page.screenshot(path=ROOT / "_build" / "screenshots" / f"live-{name}-{theme}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_the_policy_of_the_page_names_no_other_host(html: Path) -> None:
    page = (html / LIVE).read_text("utf8")
    policy = page.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0]
    assert "http:" not in policy
    assert "https:" not in policy
    assert "default-src 'self'" in policy
    (scripts,) = (part for part in policy.split("; ") if part.startswith("script-src"))
    assert "unsafe-inline" not in scripts
    assert "'unsafe-eval'" not in scripts


def test_a_script_that_is_not_of_the_page_does_not_run_and_those_of_the_theme_do(
    context: BrowserContext, address: str
) -> None:
    page = opened(context, address)
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.foreign = true";
        document.body.append(script);
        const button = document.createElement("button");
        button.setAttribute("onclick", "window.foreign = true");
        document.body.append(button);
        button.click();
    }""")
    assert page.evaluate("window.foreign") is None
    errors: list[str] = []
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.reload()
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.dataset.mode") == "auto"
    page.evaluate("document.querySelectorAll('[onclick]').forEach((each) => each.click())")
    assert not errors


def test_parts_are_small_enough_for_any_host_and_complete(site: Path) -> None:
    parts = json.loads((site / "_static/live/parts.json").read_text("utf8"))
    whole = b"".join((site / "_static/live" / part["file"]).read_bytes() for part in parts["model"])
    assert whole == (site / "base.gguf").read_bytes()
    assert live_parts.PIECE <= 24_000_000
