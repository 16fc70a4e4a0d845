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


def test_addresses_of_the_published_book_follow_the_repository(html: Path) -> None:
    owner, name = PROJECT.repository.split("/")
    site = f"https://{owner}.github.io/{name}/"
    listed = re.findall(r"<loc>(.*?)</loc>", (html / "sitemap.xml").read_text("utf8"))
    pages = {f"{site}{path.relative_to(PROJECT.root).with_suffix('.html').as_posix()}" for path in PROJECT.toc}
    assert pages <= set(listed)
    intro = (html / "book" / "intro.html").read_text("utf8")
    card = re.search(r'property="og:image" content="(.*?)"', intro)
    assert card
    assert card[1].startswith(site)
    assert (html / card[1].removeprefix(site)).is_file()


def test_a_wrong_address_shows_a_page_whose_links_work_from_anywhere(html: Path) -> None:
    name = PROJECT.repository.split("/")[1]
    page = (html / "404.html").read_text("utf8")
    local = [address for address in Loads(page).addresses if not address.startswith("data:")]
    assert local
    for address in local:
        assert address.startswith(f"/{name}/"), address
        assert (html / address.split("?")[0].removeprefix(f"/{name}/")).is_file()


def test_the_menu_of_a_notebook_opens_it_on_github(html: Path) -> None:
    address = f"https://github.com/{PROJECT.repository}/blob/{PROJECT.branch}/book/02_hyperfitting.ipynb"
    assert f'href="{address}"' in (html / "book" / "02_hyperfitting.html").read_text("utf8")
    assert f'href="{address.replace("book/02_hyperfitting", "book/faq")}"' not in (html / "book/faq.html").read_text(
        "utf8"
    )


def test_the_page_on_this_build_names_every_notebook_its_time_and_its_machine(html: Path) -> None:
    page = (html / "book" / "build.html").read_text("utf8")
    for source in PROJECT.text_notebooks:
        assert PROJECT.name(source).removesuffix(".md") in page
    assert re.search(r"\d+ s<", page)
    assert "torch: 2." in page
