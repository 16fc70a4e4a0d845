"""The book as a reader gets it, built from the committed outputs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import notebooks
import pytest
from notebook_pipeline.project import FOLDERS, Project
from playwright.sync_api import Page, sync_playwright

PROJECT = Project(Path(__file__).resolve().parent.parent)
LOADING = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
}


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built pages; a warning fails the build."""
    folder = tmp_path_factory.mktemp("book")
    arguments = [
        "--root",
        str(PROJECT.root),
        "seed",
        "--from",
        "committed",
        "--build",
        str(folder / "_build"),
    ]
    assert notebooks.main(arguments) == 0
    program = str(Path(sys.executable).with_name("jupyter-book"))
    command = [program, "build", str(PROJECT.root), "--path-output", str(folder), "-W", "--keep-going", "-q"]
    build = subprocess.run(command, capture_output=True, text=True)
    assert build.returncode == 0, build.stdout + build.stderr
    return folder / "_build" / "html"


class Loads(HTMLParser):
    """Collects the addresses that a browser fetches when it shows a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called for every element of the page."""
        address = dict(attrs).get(LOADING.get(tag, ""))
        if address:
            self.addresses.append(address)


def test_every_page_of_the_contents_is_built(html: Path) -> None:
    pages = [path for folder in FOLDERS for path in (html / folder).rglob("*.html")]
    built = {path.relative_to(html).with_suffix(".md") for path in pages}
    assert built == {path.relative_to(PROJECT.root) for path in PROJECT.toc}


def test_no_page_loads_anything_from_another_host(html: Path) -> None:
    for page in html.rglob("*.html"):
        text = page.read_text("utf8")
        remote = [address for address in Loads(text).addresses if re.match(r"(https?:)?//", address)]
        assert not remote, f"{page.relative_to(html)} loads {remote}"
        assert "unpkg" not in text, f"{page.relative_to(html)} would load thebe"
    for sheet in html.rglob("*.css"):
        remote = re.findall(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')]+)""", sheet.read_text("utf8"))
        assert not remote, f"{sheet.relative_to(html)} loads {remote}"


def test_formulas_are_drawn_without_a_network(html: Path) -> None:
    scripts = {script for page in html.glob("book/*.html") for script in Loads(page.read_text("utf8")).addresses}
    mathjax = [script.split("?")[0] for script in scripts if "mathjax" in script]
    assert mathjax
    assert all((html / "book" / script).resolve().is_file() for script in mathjax)


def test_launch_buttons_open_notebooks_that_exist(html: Path) -> None:
    prefix = f"https://colab.research.google.com/github/{PROJECT.repository}/blob/{PROJECT.branch}/"
    for source in PROJECT.text_notebooks:
        page = html / source.relative_to(PROJECT.root).with_suffix(".html")
        launched = set(re.findall(rf'href="{re.escape(prefix)}([^"]+)"', page.read_text("utf8")))
        assert launched == {PROJECT.name(source.with_suffix(".ipynb"))}
        assert source.with_suffix(".ipynb").is_file()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page of a browser that reaches no network."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium: install Debian's package 'chromium'")
    flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser.new_context(offline=True).new_page()
        browser.close()


def test_generation_explorer_steps_by_keyboard_through_twelve_prompts(html: Path, page: Page) -> None:
    page.goto((html / "book" / "02_hyperfitting.html").as_uri())
    explorer = page.locator(".hf-generation")
    assert len(explorer.locator('script[type="application/json"]').text_content() or "") < 600_000
    slider, status, texts = (explorer.locator(name) for name in ("input", "[role=status]", ".hf-text"))
    whole = texts.all_text_contents()
    assert whole[0] != whole[1]
    seen = set()
    slider.focus()
    page.keyboard.press("Home")
    for step in (1, 2, 3):
        assert slider.get_attribute("aria-valuetext") == f"token {step} of 96"
        for side in (0, 1):
            shown = texts.nth(side).text_content() or ""
            assert whole[side].startswith(shown)
            chosen = explorer.locator("table").nth(side).locator(".hf-chosen .hf-word")
            assert chosen.count() == 1
            assert shown.endswith(chosen.text_content() or "?")
        seen.add(status.text_content())
        explorer.locator("button").last.focus()
        page.keyboard.press("Enter")
    assert len(seen) == 3
    prompts = explorer.locator("select")
    assert prompts.locator("option").count() == 12
    prompts.focus()
    page.keyboard.press("ArrowDown")
    slider.focus()
    page.keyboard.press("End")
    assert texts.all_text_contents() != whole


def explorer_rows(page: Page, side: int) -> tuple[list[str], list[float]]:
    """Tokens of one side of the temperature explorer, from the most probable one, and their probabilities."""
    table = page.locator(".hf-explorer table").nth(side)
    tokens = table.locator("tbody td:nth-child(2)").all_text_contents()
    return tokens, [float(text) for text in table.locator("tbody td:nth-child(3) span").all_text_contents()]


def test_explorer_moves_by_keyboard_and_changes_probabilities_but_no_order(html: Path, page: Page) -> None:
    page.goto((html / "book" / "03_temperature.html").as_uri())
    slider = page.locator(".hf-explorer input[type=range]")
    before = [explorer_rows(page, side) for side in (0, 1)]
    assert before[0][0] != before[1][0], "both models have the same order: the page shows nothing"
    slider.focus()
    for key, text in (("ArrowLeft", "T = 0.95"), ("Home", "T = 0.10"), ("End", "T = 2.00")):
        page.keyboard.press(key)
        assert slider.get_attribute("aria-valuetext") == text
        assert page.locator(".hf-explorer output").text_content() == text
        for side in (0, 1):
            tokens, probabilities = explorer_rows(page, side)
            assert tokens == before[side][0]
            assert probabilities != before[side][1]
            assert probabilities == sorted(probabilities, reverse=True)
            assert (probabilities[0] > before[side][1][0]) == (key != "End")


def test_explorer_shows_the_same_without_scripts(html: Path, page: Page) -> None:
    address = (html / "book" / "03_temperature.html").as_uri()
    page.goto(address)
    shown = [explorer_rows(page, side) for side in (0, 1)]
    assert page.context.browser is not None
    plain = page.context.browser.new_context(offline=True, java_script_enabled=False).new_page()
    plain.goto(address)
    assert [explorer_rows(plain, side) for side in (0, 1)] == shown
