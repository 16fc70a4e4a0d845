"""Make the slides: one deck a chapter, from the text and the executed notebook of that chapter.

Each section gives a slide with its tables, its formulas and the first words of its lists, and one slide for every
figure. The prose of the section is in the speaker notes (key S). A quiz gives one slide a question, with the answers
explained in the notes. Nothing is executed; the decks work offline.
"""

from __future__ import annotations

import argparse
import base64
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from nbformat import NotebookNode
from notebook_pipeline.generate import page_code, read
from notebook_pipeline.markdown import Page, Site
from notebook_pipeline.project import PipelineError, Project

CONFIGURATION = """\
project = "{title}"
extensions = ["myst_parser", "sphinx_revealjs", "sphinx-mathjax-offline"]
myst_enable_extensions = ["dollarmath"]
html_static_path = ["_static"]
revealjs_static_path = ["_static"]
revealjs_css_files = ["slides.css"]
revealjs_style_theme = "white"
revealjs_script_conf = {{"hash": True, "slideNumber": "c/t", "width": 1280, "height": 720}}
revealjs_script_plugins = [{{"src": "revealjs/plugin/notes/notes.js", "name": "RevealNotes"}}]
"""
STYLE = """\
.reveal { font-size: 30px; }
.reveal h1 { font-size: 2.2em; text-transform: none; }
.reveal h2, .reveal h3 { font-size: 1.4em; text-transform: none; }
.reveal table { font-size: 0.72em; }
.reveal img { max-height: 560px; background: white; }
.reveal blockquote { width: 90%; text-align: left; }
.reveal ul, .reveal ol { width: 90%; }
"""


def main(arguments: list[str] | None = None) -> int:
    """Write the decks; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--root", type=Path, default=root, help="the course")
    parser.add_argument("--out", type=Path, help="folder for the decks (default: _build/html/slides)")
    options = parser.parse_args(arguments)
    project = Project(options.root.resolve())
    source = project.root / "_build" / "slides"
    out = options.out or project.root / "_build" / "html" / "slides"
    try:
        write_sources(project, source)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return 1
    command = [sys.executable, "-m", "sphinx", "-b", "revealjs", "-E", "-W", "-q", source, out]
    return subprocess.run([*command, "-d", source / ".doctrees"]).returncode


def write_sources(project: Project, folder: Path) -> None:
    """The decks as Markdown, with their figures, for Sphinx."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "_static").mkdir(parents=True)
    (folder / "_static" / "slides.css").write_text(STYLE, "utf8")
    (folder / "conf.py").write_text(CONFIGURATION.format(title=project.config["title"]), "utf8")
    site = Site(project)
    chapters = [source for source in project.text_notebooks if source.parent.name == "book"]
    for source in chapters:
        (folder / source.name).write_text("\n\n".join(deck(site, source, folder)) + "\n", "utf8")
    contents = "\n".join(source.stem for source in chapters)
    (folder / "index.md").write_text(f"# {project.config['title']}\n\n```{{toctree}}\n{contents}\n```\n", "utf8")


def deck(site: Site, source: Path, folder: Path) -> Iterator[str]:
    """The parts of one deck, in order."""
    cells = Page(site, source).cells()
    executed = iter(page_code(read(source.with_suffix(".ipynb"))))
    title, prose, figures = "", "", []
    for cell in cells:
        if cell.cell_type == "code":
            figures += [write_figure(cell, data, folder, source) for data in images(next(executed))]
            continue
        for part in re.split(r"^(?=##? )", cell.source, flags=re.M):
            if part.startswith("#"):
                yield from section(title, prose, figures)
                title, _, part = part.partition("\n")
                prose, figures = "", []
            prose += f"{part}\n\n"
    yield from section(title, prose, figures)


def images(cell: NotebookNode) -> list[str]:
    """The pictures among a cell's outputs, in base64."""
    return [output["data"]["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]


def write_figure(cell: NotebookNode, data: str, folder: Path, source: Path) -> str:
    """Save a figure; returns the Markdown that shows it with its alt text."""
    settings = cell.metadata.get("mystnb", {})
    alt = settings.get("image", {}).get("alt") or settings.get("figure", {}).get("caption", "")
    number = len(list(folder.glob(f"{source.stem}-*.png"))) + 1
    path = folder / f"{source.stem}-{number}.png"
    path.write_bytes(base64.b64decode(data))
    return f"![{alt}]({path.name})"


def section(title: str, prose: str, figures: list[str]) -> Iterator[str]:
    """The slides of one section: what it says in short, then its figures."""
    prose = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", prose)  # a deck has no pages to link to
    if not title:
        return
    if "<details>" in prose:
        yield from quiz(title, prose)
        return
    blocks = [block for block in re.split(r"\n\s*\n", prose) if block.strip()]
    shown = [short(block) for block in blocks if is_shown(block)]
    if not shown and blocks and not figures:
        shown = [re.split(r"(?<=[.?!:]) ", " ".join(blocks[0].split()))[0]]
    if shown or not figures:
        yield "\n\n".join([title, *shown, notes(blocks)])
    for figure in figures:
        yield "\n\n".join([f"## {title.lstrip('# ')}", figure, notes(blocks)])


def is_shown(block: str) -> bool:
    """Whether a paragraph is one that a slide shows: a list, a table, a formula, a box, or the chapter's question."""
    return block.lstrip().startswith(("- ", "|", "$$", ">")) or re.fullmatch(r"\s*\*[^*].*\*\s*", block) is not None


def short(block: str) -> str:
    """A list whose entries begin with bold words keeps only these."""
    if not block.lstrip().startswith("- **"):
        return block
    return "\n".join(f"- {lead}" for lead in re.findall(r"^\s*- (\*\*.+?\*\*)", block, re.M | re.S))


def notes(blocks: list[str]) -> str:
    """Text for the speaker."""
    text = "\n\n".join(blocks) or "This slide says it all."
    return f"``````{{revealjs-notes}}\n{text}\n``````"


def quiz(title: str, prose: str) -> Iterator[str]:
    """One slide a question, with its answers in the notes."""
    for part in re.split(r"\n(?=\*\*\d+\. )", prose)[1:]:
        question = part[: part.index("<details>")].strip()
        found = re.findall(r"<summary><b>(.*?)</b></summary>\s*(.*?)\s*</details>", part, re.S)
        answers = "\n".join(f"- {answer}" for answer, _ in found)
        yield "\n\n".join([title, question, answers, notes([f"{answer}: {why}" for answer, why in found])])


if __name__ == "__main__":
    sys.exit(main())
