"""The book as a reader gets it, built from the committed outputs."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import notebooks
import pytest
from notebook_pipeline.project import Project

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
    built = {path.relative_to(html).with_suffix(".md") for path in html.rglob("book/**/*.html")}
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
