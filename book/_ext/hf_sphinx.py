"""What the book needs of Sphinx that no configuration value gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxDirective
from sphinx.writers.html5 import HTML5Translator


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx when the extension is loaded."""
    # Outputs of code cells may hold formulas that Sphinx does not see: every page loads the (local) MathJax.
    app.set_html_assets_policy("always")
    app.connect("config-inited", set_addresses)
    app.connect("html-page-context", drop_thebe)
    app.connect("html-page-context", add_ways_to_open, priority=900)  # after the theme has made the menu
    app.add_directive("made-by", MadeBy)
    app.add_node(nodes.citation, override=True, html=(open_citation, close_citation))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def set_addresses(app: Sphinx, config: Config) -> None:
    """Where GitHub Pages shows the book, from the one place that names the repository."""
    owner, name = config.html_theme_options["repository_url"].rstrip("/").split("/")[-2:]
    config.html_baseurl = config.ogp_site_url = f"https://{owner}.github.io/{name}/"
    config.notfound_urls_prefix = f"/{name}/"
    config.html_context.setdefault("default_mode", "auto")  # without it the theme's script reports an error


def drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Leave out thebe, which Jupyter Book adds to every page and which would load from another host."""
    context["script_files"] = [script for script in context["script_files"] if not is_thebe(script)]


def is_thebe(script: Any) -> bool:
    """Whether a script is thebe's own or the settings it reads."""
    return "thebe" in f"{script.filename}{script.attributes.get('body', '')}"


def add_ways_to_open(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Beside Colab, the menu of a notebook's page opens it on GitHub."""
    for group in context.get("header_buttons", []):
        if group.get("label") == "launch-buttons":
            theme = app.config.html_theme_options
            group["buttons"].append(
                {
                    "type": "link",
                    "text": "GitHub",
                    "tooltip": "Read the notebook on GitHub",
                    "url": f"{theme['repository_url']}/blob/{theme['repository_branch']}/{page}.ipynb",
                    "icon": "fab fa-github",
                }
            )


def open_citation(writer: HTML5Translator, node: nodes.citation) -> None:
    """An entry of the bibliography without docutils' roles, which ARIA has given up."""
    writer.body.append(writer.starttag(node, "div", CLASS="citation"))


def close_citation(writer: HTML5Translator, node: nodes.citation) -> None:
    """The end of an entry."""
    writer.body.append("</div>\n")


class MadeBy(SphinxDirective):
    """A table of the notebooks: the time that each took, when, on which machine, and with which versions."""

    def run(self) -> list[nodes.Node]:
        """Read what `tools/notebooks.py seed` has written beside the built pages."""
        made = json.loads(Path(self.env.app.outdir).with_name("made.json").read_text("utf8"))
        machines = [json.dumps(each["made"] | {"date": ""}) for each in made.values()]
        kinds = list(dict.fromkeys(machines))
        rows = [
            [name.removesuffix(".md"), f"{each['seconds']} s", each["made"]["date"], "ABCDEFGH"[kinds.index(machine)]]
            for (name, each), machine in zip(made.items(), machines, strict=True)
        ]
        return [table(["notebook", "time", "date", "machine"], rows), *map(machine_list, kinds, "ABCDEFGH")]


def machine_list(kind: str, letter: str) -> nodes.Node:
    """What is known of a machine, as a list under its letter."""
    entries = [f"{name}: {value}" for name, value in json.loads(kind).items() if value and name != "machine"]
    items = [nodes.list_item("", nodes.paragraph(text=text)) for text in entries]
    name = nodes.paragraph("", "", nodes.strong(text=f"{letter}: "), nodes.Text(json.loads(kind)["machine"]))
    return nodes.container("", name, nodes.bullet_list("", *items))


def table(head: list[str], rows: list[list[str]]) -> nodes.table:
    """A table of texts."""
    entries = [
        nodes.row("", *(nodes.entry("", nodes.paragraph(text=text)) for text in texts)) for texts in [head, *rows]
    ]
    columns = [nodes.colspec(colwidth=1) for _ in head]
    group = nodes.tgroup("", *columns, nodes.thead("", entries[0]), nodes.tbody("", *entries[1:]), cols=len(head))
    return nodes.table("", group)
