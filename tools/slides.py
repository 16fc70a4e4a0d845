"""Make the slides: one deck a chapter or lab, from its text and its executed notebook.

Each section gives a slide with the first sentences of its lists, and one slide for each table, formula and figure, and
for the first sample of text. A code cell tagged `claims`, which prints the claims that it records, gives a table of
them, and the outputs of one tagged `no-slide` are left out. The prose of the section is in the speaker notes (key S).
A quiz gives one slide a question, with the answers explained in the notes. Links to the live page stay, others do not.
Nothing is executed; the decks work offline.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

from nbformat import NotebookNode
from notebook_pipeline.execute import CLAIMS
from notebook_pipeline.markdown import Page, Site
from notebook_pipeline.project import PipelineError, Project
from notebooks import with_outputs

MOST_ROWS = 12
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
.reveal table { font-size: 0.62em; }
.reveal td p, .reveal th p { margin: 0; }
.reveal table.dataframe { border: 0; font-size: 0.8em; }
.reveal table.dataframe td { text-align: right; }
.reveal th, .reveal td { padding: 0.15em 0.5em; }
.reveal .hf-strips, .reveal .hf-prompts { font-size: 0.62em; text-align: left; }
.reveal .hf-strip { line-height: 1.25; }
.reveal img { max-height: 560px; background: white; }
.reveal blockquote { width: 90%; text-align: left; }
.reveal ul, .reveal ol { width: 90%; }
"""


def main(arguments: list[str] | None = None) -> int:
    """Write the decks; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--root", type=Path, default=root, help="the course")
    parser.add_argument("--from", dest="origin", choices=["executed", "committed"], default="committed")
    parser.add_argument("--out", type=Path, help="folder for the decks (default: _build/html/slides)")
    options = parser.parse_args(arguments)
    project = Project(options.root.resolve())
    source = project.root / "_build" / "slides"
    out = options.out or project.root / "_build" / "html" / "slides"
    try:
        write_sources(project, source, options.origin == "executed")
    except PipelineError as error:
        print(error, file=sys.stderr)
        return 1
    command = [sys.executable, "-m", "sphinx", "-b", "revealjs", "-E", "-W", "-q", source, out]
    return subprocess.run([*command, "-d", source / ".doctrees"]).returncode


def write_sources(project: Project, folder: Path, just_executed: bool) -> None:
    """The decks as Markdown for Sphinx, with the outputs of the last run or the committed ones."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "_static").mkdir(parents=True)
    (folder / "_static" / "slides.css").write_text(STYLE, "utf8")
    (folder / "conf.py").write_text(CONFIGURATION.format(title=project.config["title"]), "utf8")
    site = Site(project)
    chapters = [source for source in project.text_notebooks if source.is_relative_to(project.root / "book")]
    for source in chapters:
        (folder / source.name).write_text("\n\n".join(deck(site, source, folder, just_executed)) + "\n", "utf8")
    contents = "\n".join(source.stem for source in chapters)
    (folder / "index.md").write_text(f"# {project.config['title']}\n\n```{{toctree}}\n{contents}\n```\n", "utf8")


def deck(site: Site, source: Path, folder: Path, just_executed: bool) -> Iterator[str]:
    """The slides of one deck, in order."""
    project = site.project
    notebook = project.executed_path(source) if just_executed else source.with_suffix(".ipynb")
    recorded = project.executed / CLAIMS.name if just_executed else project.root / CLAIMS
    executed = (cell for cell in with_outputs(project, source, notebook).cells if cell.cell_type == "code")
    title, prose, shown = "", "", []
    for cell in Page(site, source).cells():
        if cell.cell_type == "code":
            cell, tags = next(executed), cell.metadata.get("tags", [])
            if "no-slide" not in tags:
                shown += [write_figure(cell, data, folder, source) for data in images(cell)]
                shown += [f"```{{raw}} html\n{html}\n```" for html in samples(cell) + frames(cell)]
            shown += claims(recorded, cell) if "claims" in tags else []
            continue
        for part in re.split(r"^(?=##? )", cell.source, flags=re.M):
            if part.startswith("#"):
                yield from section(title, prose, shown)
                title, _, part = part.partition("\n")
                prose, shown = "", []
            prose += f"{part}\n\n"
    yield from section(title, prose, shown)


def images(cell: NotebookNode) -> list[str]:
    """The pictures among a cell's outputs, in base64."""
    return [output["data"]["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]


def samples(cell: NotebookNode) -> list[str]:
    """The texts of models among a cell's outputs, in HTML."""
    found = [output.get("data", {}).get("text/html", "") for output in cell.outputs]
    return [html for html in found if 'class="hf-strips"' in html]


def frames(cell: NotebookNode) -> list[str]:
    """The computed tables among a cell's outputs that fit on a slide."""
    found = [output.get("data", {}).get("text/html", "") for output in cell.outputs]
    return [html for html in found if 'class="dataframe"' in html and html.count("<tr") <= MOST_ROWS]


def write_figure(cell: NotebookNode, data: str, folder: Path, source: Path) -> str:
    """Save a figure; returns the Markdown that shows it with its alt text."""
    alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
    number = len(list(folder.glob(f"{source.stem}-*.png"))) + 1
    path = folder / f"{source.stem}-{number}.png"
    path.write_bytes(base64.b64decode(data))
    return f"![{alt}]({path.name})"


def claims(path: Path, cell: NotebookNode) -> list[str]:
    """A table of the recorded claims whose ids a cell prints, each on a line with what became of it, in its order."""
    recorded = {claim["id"]: claim for claim in json.loads(path.read_text("utf8"))}
    printed = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    lines = ["| claim | paper | here | verdict |", "| --- | --- | --- | --- |"]
    for name in (line.split(": ")[0] for line in printed.splitlines()):
        if name not in recorded:
            raise PipelineError(f"{path} has no claim {name!r}, which a notebook prints: run `make notebooks`")
        lines.append("| {claim} | {paper} | {measured} | {verdict} |".format(**recorded[name]))
    return ["\n".join(lines)]


def section(title: str, prose: str, outputs: list[str]) -> Iterator[str]:
    """The slides of one section: its lists and boxes together, all else that is shown one by one."""
    prose = re.sub(r"!?\[([^\]]*)\]\(([^)]*)\)", linked, prose)
    if not title:
        return
    if "<details>" in prose:
        yield from quiz(title, prose)
        return
    blocks = [block.strip() for block in re.split(r"\n\s*\n", prose) if block.strip()]
    together = [short(block) for block in blocks if block.startswith(("- ", ">")) or is_question(block)]
    alone = [block for block in blocks if block.startswith(("|", "$$"))] + first_sample_only(outputs)
    if not together + alone and blocks:
        together = [re.split(r"(?<!\bal)(?<=[.?!]) ", " ".join(blocks[0].split()))[0]]
    slides = (["\n\n".join(together)] if together else []) + alone
    for number, shown in enumerate(slides or [""]):
        heading = title if number == 0 else f"## {title.lstrip('# ')}"
        yield "\n\n".join([heading, shown, notes(blocks)])


def linked(found: re.Match[str]) -> str:
    """What stands for a link: one to the live page stays, of others only the text, since a deck has no pages."""
    text, address = found.groups()
    _, live, settings = address.partition("book/live.html")
    return f'<a href="../{live}{escape(settings)}">{text}</a>' if live else text


def first_sample_only(outputs: list[str]) -> list[str]:
    """What is shown of a section's outputs: of several texts of models, the first."""
    texts = [output for output in outputs if 'class="hf-strips"' in output]
    return [output for output in outputs if output not in texts[1:]]


def is_question(block: str) -> bool:
    """Whether a paragraph is the question of the chapter, the italic line below its title."""
    return re.fullmatch(r"\*[^*].*\*", block) is not None


def short(block: str) -> str:
    """A list whose entries begin with a bold sentence keeps only these."""
    leads = re.findall(r"^- (\*\*[^*]+[.?]\*\*)", block, re.M)
    return "\n".join(f"- {lead}" for lead in leads) or block


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
