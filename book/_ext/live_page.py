"""The page "Write with it": its policy, the links to it with settings, and the tables of what was measured."""

from __future__ import annotations

import base64
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from docutils import nodes
from hf_sphinx import table
from sphinx.application import Sphinx
from sphinx.util.docutils import ReferenceRole, SphinxDirective

PAGE = "book/live"
INLINE = "'unsafe-inline'"
SCRIPTS = f"script-src 'self' {INLINE}"
POLICY = (
    f"default-src 'self'; {SCRIPTS} 'wasm-unsafe-eval'; style-src 'self' {INLINE}; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; connect-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)
"""The page reaches no other host. The theme's own styles stand in it; its scripts are named once they are known."""
MEASURES = ("ttr", "bigram_repetition")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx when the extension is loaded."""
    app.connect("html-page-context", keep_to_this_site)
    app.connect("build-finished", name_scripts)
    app.add_directive("live-measured", LiveMeasured)
    app.add_role("live", LiveLink())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def keep_to_this_site(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Tell browsers that the page may load from its own site only."""
    if page == PAGE:
        context["metatags"] += f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'


def name_scripts(app: Sphinx, error: Exception | None) -> None:
    """Allow the scripts that stand in the finished page by their hashes, and no others."""
    path = Path(app.outdir) / f"{PAGE}.html"
    if error or not path.is_file():
        return
    page = path.read_text("utf8")
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()) for script in InlineScripts(page).found)
    hashes = " ".join(dict.fromkeys(f"'sha256-{digest.decode()}'" for digest in digests))
    # "unsafe-hashes" lets the theme's buttons run the scripts in their onclick, if their hash is there.
    path.write_text(page.replace(SCRIPTS, f"script-src 'self' 'unsafe-hashes' {hashes}"), "utf8")


class InlineScripts(HTMLParser):
    """Collects the scripts that stand in a page, those of attributes such as onclick too."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.is_script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called for every element of the page."""
        self.found += [value for name, value in attrs if name.startswith("on") and value]
        self.is_script = tag == "script" and "src" not in dict(attrs)
        if self.is_script:
            self.found.append("")

    def handle_data(self, data: str) -> None:
        """Called for the text in an element."""
        if self.is_script:
            self.found[-1] += data

    def handle_endtag(self, tag: str) -> None:
        """Called when an element ends."""
        self.is_script = False


class LiveMeasured(SphinxDirective):
    """Tables of what the live page's models write, and of what they cost, from `results/live.json`."""

    def run(self) -> list[nodes.Node]:
        """Read what `tools/live_measure.py` has recorded."""
        source = Path(self.env.srcdir) / "results" / "live.json"
        self.env.note_dependency(str(source))
        recorded = json.loads(source.read_text("utf8"))["rows"]
        cost = next(row for row in recorded if "memory_megabytes" in row)
        machine = f"Measured on {cost['made']['machine']}, {cost['made']['date']}."
        return [live_texts(recorded), live_costs(cost), live_speeds(recorded), nodes.paragraph(text=machine)]


def live_texts(recorded: list[dict[str, Any]]) -> nodes.table:
    """What each model writes, here and in the course, and how far the two are apart."""
    rows: list[list[str]] = []
    for page in (row for row in recorded if "arm" in row and row["engine"] != "torch"):
        course = next(row for row in recorded if row.get("arm") == page["arm"] and row["engine"] == "torch")
        apart = [f"{abs(page[name] - course[name]):.3f}" for name in MEASURES]
        for row, by, last in ((page, "this page", " and ".join(apart)), (course, "the course (32 bits)", "")):
            rows.append([row["arm"], by, *(with_interval(row, name) for name in MEASURES), last])
    return table(["model", "written by", "type-token ratio", "repeated bigrams", "apart by"], rows)


def live_costs(cost: dict[str, Any]) -> nodes.table:
    """What the page takes before it writes."""
    rows = [
        ["memory of the page with its three models", f"{cost['memory_megabytes']} MB"],
        ["starting the models, after the download", f"{cost['seconds_to_start']:.1f} s"],
        ["of which merging and loading an arm", f"{cost['seconds_to_merge']:.1f} s"],
        ["programs that were running already", f"{cost['load_average']:.1f} on {cost['cores']} cores"],
    ]
    return table(["what it costs", "measured"], rows)


def live_speeds(recorded: list[dict[str, Any]]) -> nodes.table:
    """How fast the page, torch and llama.cpp write, in one run in which they take turns."""
    speeds = [row for row in recorded if "way" in row]
    first = {row["way"]: row["seconds_to_first_token"] for row in speeds}
    others = [name for name in ("torch", "llama.cpp") if name in first]
    rows = [
        [
            row["way"],
            f"{first[row['way']]:.2f} s",
            *(f"{first[row['way']] / first[other]:.1f}" for other in others),
            f"{row['tokens_per_second']:.1f}",
            *(f"{row[f'over_{other}']:.2f}" for other in others),
        ]
        for row in speeds
    ]
    over = [f"over {other}" for other in others]
    return table(["written by", "first token", *over, "tokens a second", *over], rows)


class LiveLink(ReferenceRole):
    """A link to the live page with settings: {live}`text <arm=last&strength=0.5>`."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The address is relative, so that a fork and a book on this machine lead to their own page."""
        up = "../" * self.env.docname.count("/")
        title = self.title if self.has_explicit_title else "Write with it"
        return [nodes.reference(self.rawtext, title, refuri=f"{up}book/live.html#{self.target}")], []


def with_interval(row: dict[str, Any], name: str) -> str:
    """A mean over prompts with its 95 % interval."""
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
