"""The notebook pipeline, on a small course that is made for each test."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import types
from importlib.metadata import version
from pathlib import Path

import nbformat
import notebooks
import pytest
from nbformat import NotebookNode
from notebook_pipeline.execute import execution_key
from notebook_pipeline.exercises import exercise_problems, write_exercises
from notebook_pipeline.generate import generate, read
from notebook_pipeline.markdown import Page, Site
from notebook_pipeline.outputs import final_screen, normalize
from notebook_pipeline.project import PipelineError, Project

ROOT = Path(__file__).resolve().parent.parent

HEADER = """\
---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {display_name: Python 3, language: python, name: python3}
---

"""

CHAPTER = (
    HEADER
    + """\
# One: a question

Written by {cite:t}`holtzman2020`.

```{code-cell} ipython3
:tags: [nbval-check-output]

from hyperfit_course import answer

answer()
```

```{code-cell} ipython3
import json
import os
from pathlib import Path

Path("ran.txt").write_text("a cell of this notebook ran")  # a chapter would read recorded("seeds") here
# and recorded_arms("arms", earlier=["sweeps"]), which need not be there
if claims := os.environ.get("HYPERFIT_CLAIMS"):
    Path(claims).write_text(json.dumps([{"id": "answer", "chapter": "01_one", "measured": answer()}]))
```

```{code-cell} ipython3
:tags: [raises-exception]

raise ValueError("on purpose")
```
"""
)

FILES = {
    "_toc.yml": """\
format: jb-book
root: book/intro
chapters:
- file: book/01_one
- file: book/02_two
- file: book/teaching
- file: book/bibliography
""",
    "book/intro.md": "# The course\n\nFirst {doc}`01_one`.\n",
    "book/01_one.md": CHAPTER,
    "book/02_two.md": HEADER + "(a-section)=\n# Two\n\nSee {doc}`01_one`.\n\n```{code-cell} ipython3\nprint(2)\n```\n",
    "book/bibliography.md": "# Sources\n\n```{bibliography}\n```\n",
    "book/figure.svg": "<svg xmlns='http://www.w3.org/2000/svg'/>",
    "book/references.bib": """\
@inproceedings{holtzman2020, title={A}, author={Holtzman, Ari and Buys, Jan and Choi, Yejin}, year={2020},
  booktitle={B}, url={https://arxiv.org/abs/1904.09751}}
@article{two2021, title={C}, author={M{\\"u}ller, Ann and Bee, Cy}, year={2021}, journal={D}, doi={10.1/2}}
""",
    "README.md": "git clone https://github.com/your-org/hyperfit-course\ncd hyperfit-course\n",
    "book/teaching.md": "# Teaching\n",
    "pyproject.toml": 'version = "1.2.3"\n',
    "hyperfit_course/__init__.py": "TABLE = 'data.txt'\n\n\ndef answer():\n    return 41\n",
    "hyperfit_course/data.txt": "41",
    "results/seeds.json": "{}",
    "results/sweeps.json": "{}",
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small course whose notebooks are executed and published, once for all tests."""
    root = tmp_path_factory.mktemp("published")
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    shutil.copy(ROOT / "_config.yml", root)
    replace(root / "_config.yml", Project(ROOT).repository, "your-org/hyperfit-course")
    replace(root / "_config.yml", "    model_rows: book/_ext\n", "")  # which needs the library of the real course
    for folder in ("book/_ext", "book/_extra", "book/_static"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(root))
        assert run(root, "execute") == 0
    assert run(root, "publish") == 0
    return root


@pytest.fixture
def course(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a copy of the published course, whose library kernels import."""
    root = tmp_path / "course"
    shutil.copytree(published, root)
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return root


def run(root: Path, *arguments: str) -> int:
    """Run the command line on a course."""
    return notebooks.main(["--root", str(root), *arguments])


def replace(path: Path, old: str, new: str) -> None:
    """Replace a text that must be in a file."""
    text = path.read_text("utf8")
    assert old in text
    path.write_text(text.replace(old, new), "utf8")


def edit_cell(root: Path, number: int, **changes: object) -> None:
    """Change a code cell (the set-up cell is number 0) of the first chapter's committed notebook."""
    path = root / "book/01_one.ipynb"
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code[number].update(changes)
    nbformat.write(notebook, path)


# Generating


def test_generation_is_deterministic_and_valid(course: Path) -> None:
    source = course / "book/01_one.md"
    texts = {nbformat.writes(generate(Site(Project(course)), source)) for _ in range(2)}
    assert len(texts) == 1
    notebook = nbformat.reads(texts.pop(), as_version=4)
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


def test_an_address_is_set_in_every_badge_button_and_set_up_cell(course: Path) -> None:
    (course / "book/ran.txt").unlink()
    assert run(course, "set-repository", "https://github.com/fork/course.git") == 0
    for path in course.rglob("*"):
        if path.is_file() and "_build" not in path.parts:
            assert b"your-org" not in path.read_bytes(), path
    text = (course / "book/01_one.ipynb").read_text("utf8")
    assert "colab.research.google.com/github/fork/course/blob/main/book/01_one.ipynb" in text
    assert "git+https://github.com/fork/course@main" in text
    assert (course / "README.md").read_text("utf8") == "git clone https://github.com/fork/course\ncd course\n"
    assert run(course, "check") == 0, "outputs were lost"
    assert not (course / "book/ran.txt").exists(), "a notebook was executed"


@pytest.mark.parametrize("url", ["fork/course", "https://gitlab.com/fork/course", "https://github.com/fork", ""])
def test_an_address_that_colab_cannot_read_changes_nothing(
    course: Path, url: str, capsys: pytest.CaptureFixture
) -> None:
    before = (course / "_config.yml").read_bytes()
    assert run(course, "set-repository", url) == 1
    assert "looks like https://github.com/ORG/REPO" in capsys.readouterr().err
    assert (course / "_config.yml").read_bytes() == before


def test_an_address_is_not_set_where_a_notebook_waits_for_its_outputs(course: Path) -> None:
    replace(course / "book/02_two.md", "print(2)", "print(3)")
    before = (course / "_config.yml").read_bytes()
    assert run(course, "set-repository", "https://github.com/fork/course") == 1
    assert (course / "_config.yml").read_bytes() == before


def test_refreshing_takes_new_prose_and_keeps_outputs(course: Path, capsys: pytest.CaptureFixture) -> None:
    replace(course / "book/01_one.md", "Written by", "Written in prose by")
    assert run(course, "check") == 1
    assert run(course, "refresh") == 0
    assert run(course, "check") == 0
    assert "Written in prose by" in (course / "book/01_one.ipynb").read_text("utf8")
    replace(course / "book/01_one.md", "answer()\n```", "answer() + 1\n```")
    assert run(course, "refresh") == 1
    assert "01_one.ipynb does not match its text: run `make notebooks`" in capsys.readouterr().err


def setup_code(course: Path) -> str:
    """The set-up cell of a generated notebook."""
    return generate(Site(Project(course)), course / "book/01_one.md").cells[1].source


def test_set_up_does_nothing_outside_colab(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("outside Colab nothing may be installed"))
    exec(setup_code(course), {})


def test_set_up_installs_in_colab_and_says_why_it_could_not(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def no_network(command: list[str], **_: object) -> subprocess.CompletedProcess:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "no network")

    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", no_network)
    with pytest.raises(RuntimeError, match="no network"):
        exec(setup_code(course), {})
    assert commands[0][-1] == "git+https://github.com/your-org/hyperfit-course@main"
    assert f"torch=={version('torch')}" in commands[0], "pip might replace the torch that fits the GPU"


def test_set_up_tells_the_library_what_the_notebook_needs(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    colab = types.ModuleType("hyperfit_course.colab")
    colab.set_up = lambda **given: calls.append(given)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setitem(sys.modules, "hyperfit_course.colab", colab)
    exec(setup_code(course), {})
    replace(course / "book/01_one.md", "Written by", "**Computing:** about 3 minutes, once. Written by")
    exec(setup_code(course), {})
    given = {"made_for": "1.2.3", "keep_in_drive": False}
    assert calls == [given | {"computing": None}, given | {"computing": "about 3 minutes"}]


# MyST to Markdown

RAW = "https://raw.githubusercontent.com/your-org/hyperfit-course/main/book"

CONVERSIONS = {
    "plain": ("# Title\n\nText with `code`, $x$ and *more*.", "# Title\n\nText with `code`, $x$ and *more*."),
    "note": (":::{note}\nText\n:::", "> **Note**\n>\n> Text"),
    "note on its first line": ("```{tip} Text\n```", "> **Tip**\n>\n> Text"),
    "see also": ("```{seealso}\nText\n```", "> **See also**\n>\n> Text"),
    "titled": (":::{admonition} A {math}`t`\n:class: tip\nText\n:::", "> **A $t$**\n>\n> Text"),
    "dropdown": (
        "```{hint}\n:class: dropdown\nText\n```",
        "<details>\n<summary><b>Hint</b></summary>\n\nText\n\n</details>",
    ),
    "code in a summary": (
        ":::{dropdown} What is `x`?\nText\n:::",
        "<details>\n<summary><b>What is <code>x</code>?</b></summary>\n\nText\n\n</details>",
    ),
    "nested": ("::::{note}\n:::{tip}\nA\n:::\nB\n::::", "> **Note**\n>\n> > **Tip**\n> >\n> > A\n>\n> B"),
    "backticks in colons": (
        "::::::{note}\n```python\nx = 1\n```\n::::::",
        "> **Note**\n>\n> ```python\n> x = 1\n> ```",
    ),
    "in a list": (
        "- one\n  ```{note}\n  Text\n  ```\n- two",
        "- one\n\n  > **Note**\n  >\n  > Text\n\n- two",
    ),
    "touching text": ("A\n:::{note}\nB\n:::\nC", "A\n\n> **Note**\n>\n> B\n\nC"),
    "figure": (
        "```{figure} figure.svg\n:name: f\n:alt: What is shown\nA *caption*.\n```\n\nSee {numref}`f`.",
        f"![What is shown]({RAW}/figure.svg)\n\n**Figure 1.** A *caption*.\n\nSee Figure 1.",
    ),
    "image": ("![alt](figure.svg)", f"![alt]({RAW}/figure.svg)"),
    "image directive": ("```{image} /book/figure.svg\n:alt: alt\n```", f"![alt]({RAW}/figure.svg)"),
    "math": ("```{math}\nx\n```", "$$\nx\n$$"),
    "labelled math": ("```{math}\n:label: e\nx\n```\n\nIn {eq}`e`.", "$$\nx\n\\tag{1}\n$$\n\nIn (1)."),
    "dollar label": ("$$\nx\n$$ (e)\n\nIn {eq}`e`.", "$$\nx\n\\tag{1}\n$$\n\nIn (1)."),
    "theorem": (
        "```{prf:theorem} Name\n:label: t\nText\n```\n\nBy {prf:ref}`t`.",
        "> **Theorem 1 (Name)**\n>\n> Text\n\nBy Theorem 1.",
    ),
    "proof": ("```{prf:proof}\nText\n```", "> *Proof.* Text ∎"),
    "table cells": ("| a | b |\n|---|---|\n| {math}`x` | {math}`x` |", "| a | b |\n|---|---|\n| $x$ | $x$ |"),
    "citations": (
        "{cite}`holtzman2020,two2021`",
        "([Holtzman et al., 2020](https://arxiv.org/abs/1904.09751); [Müller & Bee, 2021](https://doi.org/10.1/2))",
    ),
    "citation in a sentence": ("{cite:t}`two2021`", "[Müller & Bee (2021)](https://doi.org/10.1/2)"),
    "role in code stays": ("``{cite}`nothing` ``", "``{cite}`nothing` ``"),
    "two roles, two lines": (
        "a {math}`b` and {math}`c`\nd {doc}`e f <01_one>`.",
        "a $b$ and $c$\nd [e f](01_one.ipynb).",
    ),
    "number in a title": (
        "```{figure} figure.svg\n:name: f\n```\n\nSee {numref}`picture %s <f>`.",
        f"![]({RAW}/figure.svg)\n\n**Figure 1.**\n\nSee picture 1.",
    ),
    "dropdown proof": (
        "```{prf:proof}\n:class: dropdown\nText\n```",
        "<details>\n<summary><b>Proof</b></summary>\n\nText\n\n</details>",
    ),
    "quoted roles": ("> a {math}`x`\n> b {math}`y`", "> a $x$\n> b $y$"),
    "page": (
        "{doc}`01_one` or {doc}`that <01_one>`",
        "[One: a question](01_one.ipynb) or [that](01_one.ipynb)",
    ),
    "live page with settings": (
        "{live}`try it <sample=1&temperature=0.6>`",
        "[try it](https://your-org.github.io/hyperfit-course/book/live.html#sample=1&temperature=0.6)",
    ),
    "link to a page": (
        "[text](01_one.md#part) and [](intro.md)",
        "[text](01_one.ipynb) and [The course](intro.md)",
    ),
    "link to a file": (
        "[library](../hyperfit_course/__init__.py)",
        "[library](https://github.com/your-org/hyperfit-course/blob/main/hyperfit_course/__init__.py)",
    ),
    "formula in a link": ("[a {math}`x`](01_one.md)", "[a $x$](01_one.ipynb)"),
    "section here": (
        "(here)=\n## Part\n\nSee {ref}`here` and [this](#here).",
        "## Part\n\nSee Part and this.",
    ),
    "section elsewhere": ("See {ref}`a-section`.", "See [Two](02_two.ipynb)."),
    "comment": ("a\n\n% not for readers\n\nb", "a\n\n\n\nb"),
}


def convert(course: Path, text: str, page: str = "book/03_new.md") -> str:
    """MyST on a page of its own, in plain Markdown."""
    (course / page).write_text(HEADER + text + "\n", "utf8")
    replace(course / "_toc.yml", "- file: book/02_two", "- file: book/02_two\n- file: book/03_new")
    return "\n\n".join(cell.source for cell in Page(Site(Project(course)), course / page).cells())


@pytest.mark.parametrize(("myst", "markdown"), CONVERSIONS.values(), ids=CONVERSIONS)
def test_conversion(course: Path, myst: str, markdown: str) -> None:
    converted = convert(course, myst)
    blank_lines_apart = [line for line in converted.split("\n") if line]
    assert blank_lines_apart == [line for line in markdown.split("\n") if line]


def test_blank_lines_keep_blocks_apart(course: Path) -> None:
    assert convert(course, CONVERSIONS["touching text"][0]) == CONVERSIONS["touching text"][1]


@pytest.mark.parametrize(
    "text",
    [
        "```{no-such-directive}\n```",
        "A {no-such-role}`x`.",
        "{cite}`nobody1999`",
        "{ref}`no-such-label`",
        "{doc}`no_such_page`",
        "[text](no_such_file.py)",
        "![alt](no_such_image.png)",
        "![alt](https://example.org/remote.png)",
        "<img src='figure.svg'>",
        "A[^1].\n\n[^1]: A footnote.",
        "Term\n: What it is",
        "\\begin{align}\nx\n\\end{align}",
        "[text][1]\n\n[1]: https://example.org",
        "Text\n\n```{code-cell}\n---\nmystnb: {figure: {caption: A line}}\n---\ndraw()\n```",
        "```{code-block}\n:::{no-such-directive}\n```\n\n:::{note}\n:::{no-such-directive}\n:::\n:::",
    ],
)
def test_what_cannot_be_shown_is_an_error_with_its_place(course: Path, text: str) -> None:
    with pytest.raises(PipelineError, match=r"^book/03_new\.md:\d+: "):
        convert(course, text)


def test_an_error_names_the_line(course: Path) -> None:
    text = "# Title\n\nText\n\n::::{note}\n:class: tip\n\nA\nline {no-such-role}`x`\n::::"
    with pytest.raises(PipelineError, match=rf"^book/03_new\.md:{HEADER.count(chr(10)) + 9}: .*no-such-role"):
        convert(course, text)


# Outputs


def test_progress_bars_keep_their_last_state() -> None:
    bar = "".join(f"\r{n:3d}%|{'#' * (n // 10):10s}| {n}/100" for n in range(101))
    assert final_screen(bar + "\ndone\n") == "100%|##########| 100/100\ndone\n"


def test_nested_progress_bars_keep_one_line_each() -> None:
    text = "\router 0%\n\rinner 0%\x1b[A\n\rinner 99%\x1b[A\router 99%\n"
    assert final_screen(text).split("\n")[:2] == ["outer 99%", "inner 99%"]


def test_a_bar_goes_on_after_other_output(tmp_path: Path) -> None:
    def stream(name: str, text: str) -> NotebookNode:
        return nbformat.v4.new_output("stream", name=name, text=text)

    outputs = [
        stream("stderr", "\r 0%"),
        stream("stdout", "epoch 1\n"),
        stream("stderr", "\r99%"),
        stream("stderr", "\n"),
    ]
    cell = nbformat.v4.new_code_cell("", outputs=outputs)
    normalize(cell, tmp_path)
    assert [output.text for output in cell.outputs] == ["99%", "epoch 1\n"]


def test_outputs_do_not_tell_where_files_lie(tmp_path: Path) -> None:
    text = f"{tmp_path}/book/x.py:1: UserWarning\n/tmp/ipykernel_12/34.py:5: UserWarning"
    cell = nbformat.v4.new_code_cell("", outputs=[nbformat.v4.new_output("stream", name="stderr", text=text)])
    normalize(cell, tmp_path)
    assert cell.outputs[0].text == "book/x.py:1: UserWarning\n<cell>:5: UserWarning"


# Executing and publishing


def test_unchanged_notebooks_are_skipped(course: Path, capsys: pytest.CaptureFixture) -> None:
    (course / "book/ran.txt").unlink()
    replace(course / "book/01_one.md", "Written by", "Rewritten by")
    assert run(course, "execute") == 0
    assert run(course, "publish") == 0
    assert not (course / "book/ran.txt").exists()
    assert "01_one.md: nothing changed" in capsys.readouterr().out
    assert "Rewritten by" in (course / "book/01_one.ipynb").read_text("utf8")
    assert run(course, "check") == 0


def claims(course: Path, file: str = "results/claims.json") -> list[dict]:
    return json.loads((course / file).read_text("utf8"))


def test_claims_are_recorded_but_change_no_key(course: Path) -> None:
    assert claims(course) == [{"id": "answer", "chapter": "01_one", "measured": 41}]
    (course / "book/ran.txt").unlink()
    (course / "results/claims.json").write_text("[]")
    assert run(course, "execute", "01_one") == 0
    assert not (course / "book/ran.txt").exists()


def test_a_page_is_published_alone_with_its_claims(course: Path, capsys: pytest.CaptureFixture) -> None:
    def row(name: str, chapter: str, measured: int) -> dict:
        return {"id": name, "chapter": chapter, "measured": measured}

    old = [row("gone", "01_one", 1), row("kept", "02_two", 2), row("of a page that is gone", "labs/none", 3)]
    new = [row("answer", "01_one", 41), row("kept", "02_two", 4)]
    (course / "results/claims.json").write_text(json.dumps(old))
    (course / "_build/executed/claims.json").write_text(json.dumps(new))
    replace(course / "book/01_one.md", "Written by", "Rewritten by")
    replace(course / "book/02_two.md", "print(2)", "print(3)")  # waits to be executed
    published = (course / "book/02_two.ipynb").read_bytes()
    assert run(course, "execute", "01_one") == 0
    assert run(course, "publish", "01_one") == 0
    assert "Rewritten by" in (course / "book/01_one.ipynb").read_text("utf8")
    assert (course / "book/02_two.ipynb").read_bytes() == published
    assert claims(course) == [new[0], old[1]]
    assert run(course, "publish", "02_two") == 1
    assert "run `make notebooks NAMES=02_two`" in capsys.readouterr().err


def test_a_claim_with_a_new_name_replaces_the_old_one_and_no_other(course: Path) -> None:
    executed = "_build/executed/claims.json"
    other = {"id": "other", "chapter": "02_two", "measured": 2}
    (course / executed).write_text(json.dumps([*claims(course, executed), other]))
    replace(course / "book/01_one.md", '"id": "answer"', '"id": "the answer"')
    assert run(course, "execute", "01_one") == 0
    assert [claim["id"] for claim in claims(course, executed)] == ["other", "the answer"]


@pytest.mark.parametrize(
    ("predicted", "runs"),
    [
        ({"id": "answer", "chapter": "01_one"}, False),
        ({"id": "answer", "chapter": "01_one", "measured": 42}, True),
        ({"id": "answer", "chapter": "01_one", "why": "said later"}, True),
        ({"id": "renamed", "chapter": "01_one"}, True),
    ],
    ids=["as it was", "changed", "longer", "renamed"],
)
def test_a_page_is_executed_again_when_what_its_claims_predicted_changes(
    course: Path, predicted: dict, runs: bool
) -> None:
    (course / "book/ran.txt").unlink()
    others = {"id": "new", "chapter": "02_two", "why": "a prediction of another page"}
    (course / "results/predictions.json").write_text(json.dumps({"rows": [predicted, others]}))
    assert run(course, "publish", "01_one") == runs
    assert run(course, "execute", "01_one") == 0
    assert (course / "book/ran.txt").exists() == runs


@pytest.mark.parametrize("chapter", ["one", "02_two"])
def test_a_claim_of_another_page_is_refused(course: Path, chapter: str, capsys: pytest.CaptureFixture) -> None:
    before = claims(course, "_build/executed/claims.json")
    replace(course / "book/01_one.md", '"chapter": "01_one"', f'"chapter": "{chapter}"')
    assert run(course, "execute", "01_one") == 1
    assert f"book/01_one.md: the claim answer has chapter='{chapter}'" in capsys.readouterr().err
    assert claims(course, "_build/executed/claims.json") == before


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("01_on", "01_one"), ("books/01_one.md", "book/01_one"), ("labs/one", "book/01_one"), (".", "book/")],
)
def test_an_unknown_name_is_told_the_nearest(
    course: Path, name: str, nearest: str, capsys: pytest.CaptureFixture
) -> None:
    assert run(course, "execute", name) == 1
    assert f"no text notebook is called {name}; the nearest names are " in (said := capsys.readouterr().err)
    assert nearest in said


def test_what_was_trained_in_another_precision_is_executed_again(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (course / "book/ran.txt").unlink()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "another")
    assert run(course, "publish") == 1
    assert run(course, "execute", "01_one") == 0
    assert (course / "book/ran.txt").exists()


def test_results_that_a_notebook_does_not_name_change_no_key(course: Path) -> None:
    (course / "book/ran.txt").unlink()
    (course / "results/others.json").write_text("{}")
    assert run(course, "execute", "01_one") == 0
    assert not (course / "book/ran.txt").exists()


@pytest.mark.parametrize("changed", ["hyperfit_course/data.txt", "results/seeds.json", "results/sweeps.json"])
def test_a_changed_input_executes_again(course: Path, changed: str) -> None:
    (course / "book/ran.txt").unlink()
    (course / changed).write_text("changed")
    assert run(course, "publish") == 1
    assert run(course, "execute", "01_one") == 0
    assert (course / "book/ran.txt").exists()


def test_a_failing_cell_is_shown_and_leaves_nothing(course: Path, capsys: pytest.CaptureFixture) -> None:
    replace(course / "hyperfit_course/__init__.py", "return 41", "return 1 / 0")
    before = (course / "_build/executed/book/01_one.ipynb").read_bytes()
    assert run(course, "execute", "01_one") == 1
    message = capsys.readouterr().err
    for part in ("book/01_one.md: code cell 2 failed", "answer()", "ZeroDivisionError"):
        assert part in message
    assert (course / "_build/executed/book/01_one.ipynb").read_bytes() == before
    assert not list(course.rglob("*.unfinished"))


def test_executed_notebooks_hold_nothing_of_the_machine(course: Path) -> None:
    notebook = read(course / "book/01_one.ipynb")
    assert set(notebook.metadata) == {"kernelspec", "language_info", "hyperfit"}
    assert notebook.metadata.language_info == {"name": "python"}
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)


# When a notebook is executed again

WITH_LIBRARY = {
    "book/02_two.md": HEADER + "# Two\n\n```{code-cell}\nfrom hyperfit_course.words import word\n```\n",
    "exercises/01_one.md": HEADER
    + "# Exercises 01\n\n```{code-cell}\nfrom hyperfit_course.checks import chapter_01 as checks\n```\n",
    "hyperfit_course/words.py": '''\
"""Words."""

from hyperfit_course.letters import letter

READ = ("data.csv", "explorer", "tales/first")


def word():
    """unread"""
    return letter()
''',
    "hyperfit_course/letters.py": "def letter():\n    return 'a'\n",
    "hyperfit_course/checks/__init__.py": "",
    "hyperfit_course/checks/chapter_01.py": "def check():\n    return True\n",
    "hyperfit_course/data.csv": "a\n",
    "hyperfit_course/data/explorer.html": "<p>\n",
    "hyperfit_course/data/unread.json": "{}\n",
    "hyperfit_course/data/tales/one.txt": "Once.\n",
}


def keys(course: Path) -> dict[str, str]:
    """The execution key of every text notebook, by name."""
    project = Project(course)
    site = Site(project)
    sources = project.text_notebooks
    return {project.name(source): execution_key(project, generate(site, source), source) for source in sources}


@pytest.mark.parametrize(
    ("changed", "old", "new", "executed"),
    [
        ("words.py", '"""Words."""', '"""Tales, and other words."""', []),
        ("words.py", "    return letter()", "    # A word is a letter.\n\n    return letter()", []),
        ("words.py", "return letter()", "return letter() + letter()", ["book/02_two.md"]),
        ("letters.py", "'a'", "'b'", ["book/02_two.md"]),
        ("labs/stories.py", "", "def story():\n    return 1\n", []),
        ("checks/lab_stories.py", "", "def check():\n    return True\n", []),
        ("checks/chapter_01.py", "True", "False", ["exercises/01_one.md"]),
        ("data.csv", "a", "b", ["book/02_two.md"]),
        ("data/explorer.html", "<p>", "<b>", ["book/02_two.md"]),
        ("data/tales/one.txt", "Once.", "Twice.", ["book/02_two.md"]),
        ("data/tales/two.txt", "", "Twice.", ["book/02_two.md"]),
        ("data/unread.json", "{}", "[]", []),
    ],
)
def test_only_what_a_notebook_imports_and_reads_executes_it(
    course: Path, changed: str, old: str, new: str, executed: list[str]
) -> None:
    for name, text in WITH_LIBRARY.items():
        (course / name).parent.mkdir(parents=True, exist_ok=True)
        (course / name).write_text(text, "utf8")
    before = keys(course)
    path = course / "hyperfit_course" / changed
    if old:
        replace(path, old, new)
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text(new, "utf8")
    assert [name for name, key in keys(course).items() if key != before[name]] == executed


@pytest.mark.parametrize("code", ["%matplotlib inline", "!ls", "x = 1\n%%time"])
def test_code_whose_imports_cannot_be_followed_is_refused(
    course: Path, code: str, capsys: pytest.CaptureFixture
) -> None:
    replace(course / "book/02_two.md", "print(2)\n```", f"print(2)\n```\n\n```{{code-cell}} ipython3\n{code}\n```")
    assert run(course, "execute", "02_two") == 1
    assert "book/02_two.md: code cell 3 is not plain Python" in capsys.readouterr().err


# Labs and exercises

LAB = """# Solutions: stories

Before it: {doc}`one </book/01_one>` and [two](../../book/02_two.md), then {doc}`the lab </book/labs/stories>`.

```{code-cell} ipython3
def story(length: int) -> str:
    # begin solution
    # Repeat a word.
    return "once " * length
    # end solution
```
"""


@pytest.fixture
def lab(course: Path) -> Path:
    """The course with a lab, whose exercises are made from its solutions."""
    for folder in ("book", "solutions"):
        (course / folder / "labs").mkdir(parents=True)
    text = "# Stories\n\nFirst {doc}`../01_one`, and ![all](../figure.svg).\n\n```{code-cell}\nprint(3)\n```\n"
    (course / "book/labs/stories.md").write_text(HEADER + text, "utf8")
    (course / "solutions/labs/stories.md").write_text(HEADER + LAB, "utf8")
    with (course / "_toc.yml").open("a") as contents:
        contents.writelines(f"- file: {folder}/labs/stories\n" for folder in ("book", "exercises", "solutions"))
    write_exercises(Project(course))
    return course


@pytest.mark.parametrize(
    ("name", "folders"),
    [
        ("stories", ["book", "exercises", "solutions"]),
        ("labs/stories", ["book", "exercises", "solutions"]),
        ("exercises/labs/stories.md", ["exercises"]),
        ("book/labs/stories.ipynb", ["book"]),
    ],
)
def test_a_name_is_the_end_of_a_path(lab: Path, name: str, folders: list[str]) -> None:
    assert [path.relative_to(lab).parts[0] for path in notebooks.select(Project(lab), [name])] == folders


def test_a_lab_is_found_and_executed_by_its_name(lab: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(lab, "execute", "stories") == 0
    assert run(lab, "execute") == 0
    assert run(lab, "publish") == 0
    assert run(lab, "check") == 0
    assert "[1/3] book/labs/stories.md: executing" in capsys.readouterr().out
    for folder in ("book", "exercises", "solutions"):
        assert read(lab / folder / "labs/stories.ipynb").cells[1].execution_count == 1


def test_links_of_a_lab_are_right_in_its_folder(lab: Path) -> None:
    site = Site(Project(lab))
    page, exercise = (generate(site, lab / folder / "labs/stories.md") for folder in ("book", "exercises"))
    assert f"First [One: a question](../01_one.ipynb), and ![all]({RAW}/figure.svg)." in page.cells[2].source
    assert (
        "[one](../../book/01_one.ipynb) and [two](../../book/02_two.ipynb), then "
        "[the lab](../../book/labs/stories.ipynb)." in exercise.cells[2].source
    )
    assert exercise.cells[-1].source == "Done? Compare with the [solutions](../../solutions/labs/stories.ipynb)."


def test_exercises_of_labs_are_checked(lab: Path) -> None:
    (lab / "exercises/labs/stories.md").unlink()
    (lab / "exercises/labs/other.md").write_text("# Exercises: other\n", "utf8")
    replace(lab / "solutions/labs/stories.md", "\nBefore it", '\nreturn "once " * length\n\nBefore it')
    assert list(exercise_problems(Project(lab))) == [
        "exercises/labs/stories.md: missing; run `make notebooks`",
        'exercises/labs/stories.md: shows a line of the solution, `return "once " * length`',
        "exercises/labs/other.md: no solution is called that; delete it or write solutions/labs/other.md",
    ]


def test_colab_offers_no_generated_code_in_exercises(lab: Path, capsys: pytest.CaptureFixture) -> None:
    path = lab / "exercises/labs/stories.ipynb"
    assert run(lab, "execute") == 0
    assert run(lab, "publish") == 0
    assert read(path).metadata["colab"] == {"generative_ai_disabled": True}
    assert all("colab" not in read(lab / f"{folder}/labs/stories.ipynb").metadata for folder in ("book", "solutions"))
    notebook = read(path)
    del notebook.metadata["colab"]
    nbformat.write(notebook, path)
    assert run(lab, "check") == 1
    assert "exercises/labs/stories.ipynb: not what stories.md gives now" in capsys.readouterr().err
    assert run(lab, "refresh") == 0
    assert read(path).metadata["colab"] == {"generative_ai_disabled": True}
    assert run(lab, "check") == 0


# Checking


def test_published_notebooks_pass(course: Path) -> None:
    assert run(course, "check") == 0


@pytest.mark.parametrize(("old", "new"), [("answer()\n```", "answer() + 1\n```"), ("Written by", "Rewritten by")])
def test_an_edited_text_fails_until_regenerated(
    course: Path, capsys: pytest.CaptureFixture, old: str, new: str
) -> None:
    replace(course / "book/01_one.md", old, new)
    assert run(course, "check") == 1
    message = capsys.readouterr().err
    assert "book/01_one.ipynb: not what 01_one.md gives now; run `make notebooks`" in message


@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (1, {"outputs": []}, "tagged nbval-check-output but has no output"),
        (1, {"execution_count": None}, "was not executed"),
        (1, {"execution_count": 7}, "was executed as number 7"),
        (
            2,
            {"outputs": [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]},
            "ends in an error",
        ),
    ],
)
def test_damaged_outputs_fail(
    course: Path, capsys: pytest.CaptureFixture, number: int, changes: dict, message: str
) -> None:
    edit_cell(course, number, **changes)
    assert run(course, "check") == 1
    assert f"book/01_one.ipynb: code cell {number + 1} {message}" in capsys.readouterr().err.replace(
        "is tagged", "tagged"
    )


def test_missing_and_orphaned_notebooks_fail(course: Path, capsys: pytest.CaptureFixture) -> None:
    (course / "solutions").mkdir()
    (course / "book/01_one.ipynb").rename(course / "solutions/01_other.ipynb")
    assert run(course, "check") == 1
    message = capsys.readouterr().err
    assert "book/01_one.ipynb: missing" in message
    assert "solutions/01_other.ipynb: no text notebook beside it" in message


def test_a_page_that_no_contents_lead_to_fails(lab: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(lab, "execute") == 0
    assert run(lab, "publish") == 0
    replace(lab / "_toc.yml", "- file: book/labs/stories\n", "")
    assert run(lab, "check") == 1
    said = capsys.readouterr().err
    assert said == "book/labs/stories.md: no page of the book; write `- file: book/labs/stories` into _toc.yml\n"


def test_a_chapter_may_not_grow_without_end(course: Path, capsys: pytest.CaptureFixture) -> None:
    path = course / "book/02_two.ipynb"
    notebook = read(path)
    notebook.cells += [nbformat.v4.new_code_cell("x = '" + "y" * 90_000 + "'") for _ in range(25)]
    nbformat.write(notebook, path)
    assert run(course, "check") == 1
    message = capsys.readouterr().err
    assert "26 code cells, more than 25" in message
    assert "2.3 MB, more than 2 MB" in message


# Together with Jupyter Book and nbval


def command(course: Path, program: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run a program of this environment in a course."""
    line = [str(Path(sys.executable).with_name(program)), *arguments]
    return subprocess.run(line, cwd=course, capture_output=True, text=True, timeout=120)


def test_a_seeded_book_executes_nothing_and_shows_new_outputs(course: Path) -> None:
    (course / "book/ran.txt").unlink()
    for answer in ("41", "4242"):
        edit_cell(
            course,
            1,
            outputs=[nbformat.v4.new_output("execute_result", {"text/plain": answer}, execution_count=2)],
        )
        assert run(course, "seed", "--from", "committed") == 0
        build = command(course, "jupyter-book", "build", ".", "-W", "--keep-going", "-q")
        assert build.returncode == 0, build.stderr
        assert not (course / "book/ran.txt").exists()
        assert f">{answer}\n" in (course / "_build/html/book/01_one.html").read_text("utf8")


def test_seeding_refuses_outputs_of_other_code(course: Path, capsys: pytest.CaptureFixture) -> None:
    replace(course / "book/01_one.md", "answer()\n```", "answer() + 1\n```")
    assert run(course, "seed", "--from", "committed") == 1
    assert "book/01_one.ipynb does not match its text" in capsys.readouterr().err


def test_nbval_notices_a_broken_library(course: Path) -> None:
    nbval = [
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--nbval-lax",
        "--nbval-current-env",
        "book/01_one.ipynb",
    ]
    assert command(course, *nbval).returncode == 0
    replace(course / "hyperfit_course/__init__.py", "return 41", "return 40")
    broken = command(course, *nbval)
    assert broken.returncode == 1
    assert "1 failed" in broken.stdout
