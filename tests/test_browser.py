"""The book's pages in a browser, from disk and with no network. Debian's Chromium is enough."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from notebook_pipeline.project import Project
from playwright.sync_api import Browser, ConsoleMessage, Page

PROJECT = Project(Path(__file__).resolve().parent.parent)
PAGES = [page.relative_to(PROJECT.root).with_suffix(".html").as_posix() for page in PROJECT.toc]
AXE = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]},
    "resultTypes": ["violations"],
}
PICTURED = ("book/intro.html", "book/02_hyperfitting.html", "exercises/01_degeneration.html")
PHONE = {"width": 360, "height": 740}
EXPLORERS = ("book/02_hyperfitting.html", "book/explorer.html")


@pytest.mark.parametrize("name", EXPLORERS)
def test_generation_explorer_steps_by_keyboard_through_twelve_prompts(html: Path, page: Page, name: str) -> None:
    page.goto((html / name).as_uri())
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


def test_explorer_shows_the_same_without_scripts(html: Path, page: Page, browser: Browser) -> None:
    address = (html / "book" / "03_temperature.html").as_uri()
    page.goto(address)
    shown = [explorer_rows(page, side) for side in (0, 1)]
    plain = browser.new_context(offline=True, java_script_enabled=False).new_page()
    plain.goto(address)
    assert [explorer_rows(plain, side) for side in (0, 1)] == shown


def is_error(message: ConsoleMessage) -> bool:
    """Chromium loads no fonts from disk ahead of time; that changes nothing, since scripts draw the icons."""
    return message.type == "error" and ".woff2" not in f"{message.text} {message.location}"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_error_no_barrier_and_no_text_that_leaves_a_phone(html: Path, page: Page, name: str) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if is_error(message) else None)
    page.goto((html / name).as_uri())
    assert not errors
    page.add_style_tag(content="* { transition: none !important }")  # or a colour is measured half-way
    for theme in ("light", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        violations = Axe().run(page, options=AXE).response["violations"]
        found = [
            (each["id"], each["impact"], [node["target"] for node in each["nodes"]][:3])
            for each in violations
            if each["impact"] in ("serious", "critical")
        ]
        assert not found, f"{name}, {theme}: {found}"
        if name in PICTURED:
            folder = PROJECT.root / "_build" / "screenshots"
            page.screenshot(path=folder / f"{Path(name).stem}-{theme}.png")
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], f"{name} scrolls sideways"


def test_search_finds_the_page_on_a_term(html: Path, page: Page) -> None:
    page.goto(f"{(html / 'search.html').as_uri()}?q=participation+ratio")
    found = page.locator('#search-results a[href*="book/05_terminal_expansion.html"]').first
    found.wait_for(timeout=10_000)
    assert "Where does it happen?" in (found.text_content() or "")


def test_a_quiz_answers_by_keyboard(html: Path, page: Page) -> None:
    page.goto((html / "book" / "02_hyperfitting.html").as_uri())
    answers = page.locator("section#quiz details")
    assert answers.count() >= 9
    answers.first.locator("summary").focus()
    assert answers.first.get_attribute("open") is None
    page.keyboard.press("Enter")
    assert answers.first.get_attribute("open") is not None
    assert (answers.first.text_content() or "").split()[1:]
