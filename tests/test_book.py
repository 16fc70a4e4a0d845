"""The book as a reader gets it, built from the committed outputs."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from notebook_pipeline.project import FOLDERS, Project

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


class Loads(HTMLParser):
    """Collects the addresses that a browser fetches when it shows a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called for every element of the page."""
        values = dict(attrs)
        address = values.get(LOADING.get(tag, ""))
        if address and values.get("rel") != "canonical":
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
