"""What the book needs of Sphinx that no configuration value gives."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx when the extension is loaded."""
    # Outputs of code cells may hold formulas that Sphinx does not see: every page loads the (local) MathJax.
    app.set_html_assets_policy("always")
    app.connect("html-page-context", drop_thebe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Leave out thebe, which Jupyter Book adds to every page and which would load from another host."""
    context["script_files"] = [script for script in context["script_files"] if not is_thebe(script)]


def is_thebe(script: Any) -> bool:
    """Whether a script is thebe's own or the settings it reads."""
    return "thebe" in f"{script.filename}{script.attributes.get('body', '')}"
