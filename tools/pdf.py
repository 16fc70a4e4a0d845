"""Print the built book into one PDF with headless Chromium: `make pdf`.

Every page of the contents is printed as a reader sees it, with its figures and formulas and with all that can be folded
unfolded. The explorers show the state in which their page opens.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from notebook_pipeline.project import PipelineError, Project
from playwright.sync_api import Browser, sync_playwright
from pypdf import PdfReader, PdfWriter
from tqdm import tqdm

PAPER: dict[str, Any] = {
    "format": "A4",
    "scale": 0.8,
    "margin": {"top": "15mm", "bottom": "18mm", "left": "14mm", "right": "14mm"},
}
FOOTER = '<div style="width: 100%; text-align: center; font-size: 8px"><span class="pageNumber"></span></div>'
UNFOLD = "document.querySelectorAll('details').forEach(each => { each.open = true })"
STYLE = """
* { animation: none !important; transition: none !important; }
h1, h2, h3 { break-after: avoid; }
pre { white-space: pre-wrap !important; overflow-wrap: anywhere; }
pre, details, .cell, .cell_input, .highlight { break-inside: auto !important; }
.bd-article table { display: table !important; width: auto; font-size: 80%; }
#jb-print-toc { display: none; }
"""
TYPESET = "() => !window.MathJax || window.MathJax.startup.promise.then(() => true)"


def main(arguments: list[str] | None = None) -> int:
    """Write the PDF; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--root", type=Path, default=root, help="the course")
    parser.add_argument("--html", type=Path, help="the built pages (default: _build/html)")
    parser.add_argument("--out", type=Path, help="the file to write (default: _build/hyperfitting.pdf)")
    options = parser.parse_args(arguments)
    project = Project(options.root.resolve())
    html = options.html or project.root / "_build" / "html"
    out = options.out or project.root / "_build" / "hyperfitting.pdf"
    try:
        with chromium() as browser:
            print_pages(project, browser, html.resolve(), out)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"The book is in {out}")
    return 0


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The Chromium of this machine, without a window."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise PipelineError("There is no Chromium: run 'sudo apt install chromium'")
    flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


def print_pages(project: Project, browser: Browser, html: Path, out: Path) -> None:
    """Print the pages of the contents one by one and join them, each with a bookmark."""
    page = browser.new_context(offline=True).new_page()
    book = PdfWriter()
    for source in tqdm(project.toc, desc="pages"):
        path = html / source.relative_to(project.root).with_suffix(".html")
        if not path.is_file():
            raise PipelineError(f"{path} is missing: run `make html` first")
        page.goto(path.as_uri())
        page.evaluate(UNFOLD)
        page.add_style_tag(content=STYLE)
        page.wait_for_function(TYPESET)
        printed = page.pdf(**PAPER, display_header_footer=True, header_template="<span></span>", footer_template=FOOTER)
        book.append(PdfReader(io.BytesIO(printed)), outline_item=page.title().split(" — ")[0])
    book.compress_identical_objects()
    book.write(out)


if __name__ == "__main__":
    sys.exit(main())
