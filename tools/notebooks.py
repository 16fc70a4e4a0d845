"""Turn the text notebooks (`book/*.md`) into the executed notebooks beside them and into the book's outputs.

    execute   make the exercises from the solutions, and run every notebook whose code, library or recorded results
              changed; the others are skipped
    publish   copy what was executed beside its source, and its claims into `results/`, for readers in Colab and on
              GitHub (authors only)
    refresh   bring the text of the committed notebooks up to date and keep their outputs: runs nothing
    set-repository URL
              give the course the address of its repository, in every badge, button and set-up cell
    seed      give Jupyter Book the outputs, so that it executes nothing
    check     fail, saying why, when a committed notebook is not what its source gives

An author edits a `.md`, runs `make notebooks` (execute, then publish) and commits both files. Where only prose
changed, `make refresh` is enough. `make book` runs execute and seed; `make html` seeds from the committed notebooks.
A NAME is the end of a page's path: `coin` is a lab with its exercises and solutions, `exercises/labs/coin` one page.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from myst_nb.core.read import read_myst_markdown_notebook
from nbformat import NotebookNode
from notebook_pipeline.execute import CLAIMS, NEW_CLAIMS, execute, execution_key
from notebook_pipeline.exercises import exercise_problems, write_exercises
from notebook_pipeline.generate import copy_outputs, generate, generated_part, page_code, read, write
from notebook_pipeline.markdown import Site
from notebook_pipeline.project import PipelineError, Project

ADDRESSED = ("_config.yml", "README.md", "book/teaching.md")
"""Where the repository's address is written; all else is made from the first."""
PREDICTIONS = Path("results", "predictions.json")
MADE = "made.json"
"""Beside the built pages: when, where and in how many seconds each notebook was executed."""
MAX_CODE_CELLS = 25
MAX_BYTES = 2_000_000


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; returns the exit status."""
    options = parse_arguments(arguments)
    try:
        return options.command(Project(options.root.resolve()), options)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return 1


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("--root", type=Path, default=here, help="the course (default: the one this script is in)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    for name, run, does in (
        ("execute", run_execute, "run the notebooks that changed"),
        ("publish", run_publish, "copy executed notebooks beside their sources"),
    ):
        command = commands.add_parser(name, help=does)
        command.add_argument("names", nargs="*", metavar="NAME", help="such as 02_hyperfitting (default: all)")
        command.set_defaults(command=run)

    command = commands.add_parser("refresh", help="bring the text of the committed notebooks up to date")
    command.set_defaults(command=run_refresh)

    command = commands.add_parser("set-repository", help="give the course the address of its repository")
    command.add_argument("url", metavar="URL", help="such as https://github.com/ORG/REPO")
    command.set_defaults(command=run_set_repository)

    command = commands.add_parser("seed", help="give Jupyter Book the outputs, so that it executes nothing")
    command.add_argument("--from", dest="origin", choices=["executed", "committed"], required=True)
    command.add_argument("--build", type=Path, help="Jupyter Book's output folder (default: _build)")
    command.set_defaults(command=run_seed)

    command = commands.add_parser("check", help="fail when a committed notebook is not what its source gives")
    command.set_defaults(command=run_check)
    return parser.parse_args(arguments)


def select(project: Project, names: list[str]) -> list[Path]:
    """The text notebooks whose paths end with one of these names, with or without a suffix; all of them for no name."""
    chosen: set[Path] = set()
    for name in names:
        wanted = Path(re.sub(r"\.(md|ipynb)$", "", name))
        ends = {path: Path(*path.with_suffix("").parts[-len(wanted.parts) :]) for path in project.text_notebooks}
        if wanted not in ends.values():
            known = sorted({end.as_posix() for end in ends.values()})
            nearest = ", ".join(difflib.get_close_matches(wanted.as_posix(), known, cutoff=0))
            raise PipelineError(f"no text notebook is called {name}; the nearest names are {nearest}")
        chosen |= {path for path, end in ends.items() if end == wanted}
    return [path for path in project.text_notebooks if path in chosen or not names]


def run_execute(project: Project, options: argparse.Namespace) -> int:
    """Execute the notebooks whose outputs are out of date."""
    write_exercises(project)
    site = Site(project)
    sources = select(project, options.names)
    for number, source in enumerate(sources, 1):
        notebook = generate(site, source)
        title = f"[{number}/{len(sources)}] {project.name(source)}"
        earlier = up_to_date(project, source, notebook)
        if earlier is None:
            print(f"{title}: executing", flush=True)
            started = time.monotonic()
            execute(project, notebook, source)
            keep_claims(project, source)
            print(f"{title}: done in {time.monotonic() - started:.0f} s", flush=True)
        else:
            print(f"{title}: nothing changed, not executed", flush=True)
            copy_outputs(earlier, notebook)
            notebook.metadata["hyperfit"] = earlier.metadata["hyperfit"]
        write(notebook, project.executed_path(source))
    return 0


def keep_claims(project: Project, source: Path) -> None:
    """Keep what a page has just claimed, and forget what it had claimed before."""
    new, page = project.executed / NEW_CLAIMS, source.relative_to(project.root).with_suffix("")
    for claim in json.loads(new.read_text("utf8")):
        if Path("book", claim["chapter"]) != page:
            problem = f"the claim {claim['id']} has chapter={claim['chapter']!r}, which is another page or none"
            raise PipelineError(f"{project.name(source)}: {problem}; the path below book/ is wanted")
    replace_claims(project, new, project.executed / CLAIMS.name, [source])


def up_to_date(project: Project, source: Path, notebook: NotebookNode) -> NotebookNode | None:
    """The executed form of a notebook if nothing that its outputs depend on has changed since."""
    path = project.executed_path(source)
    if not path.exists():
        return None
    earlier = read(path)
    same = earlier.metadata["hyperfit"]["key"] == execution_key(project, notebook, source)
    return earlier if same and claimed_as_predicted(project, source) else None


def claimed_as_predicted(project: Project, source: Path) -> bool:
    """Whether the claims that a page recorded when it ran still say what is predicted: no key holds predictions."""
    executed, predicted = project.executed / CLAIMS.name, project.root / PREDICTIONS
    if not (executed.exists() and predicted.exists()):
        return True
    rows = {row["id"]: row for row in json.loads(predicted.read_text("utf8"))["rows"]}
    page = source.relative_to(project.root).with_suffix("")
    claims = [claim for claim in json.loads(executed.read_text("utf8")) if Path("book", claim["chapter"]) == page]
    return all(claim | rows.get(claim["id"], {"id": None}) == claim for claim in claims)


def run_publish(project: Project, options: argparse.Namespace) -> int:
    """Copy executed notebooks beside their sources, and the claims that they recorded to `results/`."""
    site, sources = Site(project), select(project, options.names)
    for source in sources:
        executed = up_to_date(project, source, generate(site, source))
        if executed is None:
            names = f" NAMES={source.stem}" if options.names else ""
            raise PipelineError(f"{project.name(source)} changed since it was executed: run `make notebooks{names}`")
        write(executed, source.with_suffix(".ipynb"))
    claims = project.executed / CLAIMS.name
    if claims.exists():
        replace_claims(project, claims, project.root / CLAIMS, sources)
    print(f"{len(sources)} notebooks are beside their sources, ready to commit")
    return 0


def replace_claims(project: Project, new: Path, old: Path, sources: list[Path]) -> None:
    """Let what these pages claim in one file replace what they claim in another; other pages keep theirs."""
    others = [source for source in project.text_notebooks if source not in sources]
    claims = []
    for path, pages in ((new, sources), (old, others)):
        for claim in json.loads(path.read_text("utf8")) if path.exists() else []:
            claims += [claim] if project.root / "book" / f"{claim['chapter']}.md" in pages else []
    claims.sort(key=lambda claim: claim["id"])
    old.write_text(json.dumps(claims, indent=1) + "\n", "utf8")


def run_refresh(project: Project, options: argparse.Namespace) -> int:
    """Rewrite the committed notebooks from their text, with the outputs that they have."""
    write_exercises(project)
    refreshed = refreshed_notebooks(project)
    for source, notebook in refreshed.items():
        write(notebook, source.with_suffix(".ipynb"))
    print(f"{len(refreshed)} notebooks have the text of their sources and the outputs that they had")
    return 0


def refreshed_notebooks(project: Project) -> dict[Path, NotebookNode]:
    """Every notebook as its source gives it now, with the outputs of the committed one."""
    site, refreshed = Site(project), {}
    for source in project.text_notebooks:
        with_outputs(project, source, source.with_suffix(".ipynb"))  # refuses where the code differs
        committed, notebook = read(source.with_suffix(".ipynb")), generate(site, source)
        copy_outputs(committed, notebook)
        notebook.metadata["hyperfit"] = committed.metadata["hyperfit"]
        refreshed[source] = notebook
    return refreshed


def run_set_repository(project: Project, options: argparse.Namespace) -> int:
    """Put another address where the old one stands, and into everything that is made from it."""
    given = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?", options.url)
    if not given:
        raise PipelineError(
            f"An address looks like https://github.com/ORG/REPO, not {options.url!r}: Colab reads GitHub"
        )
    refreshed_notebooks(project)  # refuses before anything is changed
    old, new = project.repository, given[1]
    for name in ADDRESSED:
        path = project.root / name
        text = path.read_text("utf8").replace(f"github.com/{old}", f"github.com/{new}")
        path.write_text(text.replace(f"cd {old.split('/')[1]}\n", f"cd {new.split('/')[1]}\n"), "utf8")
    print(f"The course is at https://github.com/{new} now")
    return run_refresh(Project(project.root), options)


def run_seed(project: Project, options: argparse.Namespace) -> int:
    """Fill Jupyter Book's cache, and make it build every page anew if any output changed."""
    build = options.build or project.root / "_build"
    cache = get_cache(build / ".jupyter_cache")
    digest, made = hashlib.sha256(), {}
    for source in project.text_notebooks:
        path = project.executed_path(source) if options.origin == "executed" else source.with_suffix(".ipynb")
        notebook = with_outputs(project, source, path)
        made[project.name(source)] = read(path).metadata["hyperfit"]
        bundle = CacheBundleIn(notebook, str(source), data={})
        cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
        digest.update(nbformat.writes(notebook).encode())
    (build / MADE).write_text(json.dumps(made), "utf8")
    forget_pages_if_changed(build, digest.hexdigest())
    return 0


def with_outputs(project: Project, source: Path, path: Path) -> NotebookNode:
    """A text notebook as Jupyter Book reads it, with the outputs of the generated notebook at `path`."""
    if not path.exists():
        raise PipelineError(f"{project.name(path)} is missing: run `make notebooks`")
    notebook = read_myst_markdown_notebook(source.read_text("utf8"), path=source)
    wanted = [cell for cell in notebook.cells if cell.cell_type == "code"]
    given = page_code(read(path))
    if [cell.source for cell in wanted] != [cell.source for cell in given]:
        raise PipelineError(f"{project.name(path)} does not match its text: run `make notebooks`")
    for cell, executed in zip(wanted, given, strict=True):
        cell.execution_count, cell.outputs = executed.execution_count, executed.outputs
    return notebook


def forget_pages_if_changed(build: Path, digest: str) -> None:
    """Delete built pages when they show other outputs: Sphinx looks only at the sources' times."""
    stamp = build / ".seeded"
    if stamp.exists() and stamp.read_text() == digest:
        return
    for folder in (".doctrees", "html"):
        shutil.rmtree(build / folder, ignore_errors=True)
    stamp.write_text(digest)


def run_check(project: Project, options: argparse.Namespace) -> int:
    """Print one line for everything that is wrong with the committed notebooks."""
    site = Site(project)
    problems = list(exercise_problems(project))
    problems += [problem for source in project.text_notebooks for problem in notebook_problems(site, source)]
    for path in project.files(".md"):
        if path not in project.toc:
            name = project.name(path)
            problems.append(f"{name}: no page of the book; write `- file: {name.removesuffix('.md')}` into _toc.yml")
    expected = {source.with_suffix(".ipynb") for source in project.text_notebooks}
    for path in project.files(".ipynb"):
        if path not in expected:
            problems.append(f"{project.name(path)}: no text notebook beside it; delete it or write its .md")
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{len(expected)} notebooks match their text and are executed")
    return 1 if problems else 0


def notebook_problems(site: Site, source: Path) -> Iterator[str]:
    """What is wrong with the notebook beside a text notebook."""
    path = source.with_suffix(".ipynb")
    name = site.project.name(path)
    if not path.exists():
        yield f"{name}: missing; run `make notebooks`"
        return
    notebook = read(path)
    if generated_part(notebook) != generated_part(generate(site, source)):
        yield f"{name}: not what {source.name} gives now; run `make notebooks`"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        yield from (f"{name}: code cell {number} {problem}" for problem in cell_problems(cell, number))
    if source.is_relative_to(site.project.root / "book") and len(page_code(notebook)) > MAX_CODE_CELLS:
        yield f"{name}: {len(page_code(notebook))} code cells, more than {MAX_CODE_CELLS}"
    if path.stat().st_size > MAX_BYTES:
        yield f"{name}: {path.stat().st_size / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:.0f} MB"


def cell_problems(cell: NotebookNode, number: int) -> Iterator[str]:
    """What is wrong with the outputs of the `number`-th code cell."""
    tags = cell.metadata.get("tags", [])
    if cell.execution_count is None:
        yield "was not executed; run `make notebooks`"
    elif cell.execution_count != number:
        yield f"was executed as number {cell.execution_count}; run `make notebooks`"
    if "raises-exception" not in tags and any(output.output_type == "error" for output in cell.outputs):
        yield "ends in an error"
    if "nbval-check-output" in tags and not cell.outputs:
        yield "is tagged nbval-check-output but has no output, so nothing would be compared"


if __name__ == "__main__":
    sys.exit(main())
