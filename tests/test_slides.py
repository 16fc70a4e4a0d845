"""The slides, as a teacher opens them: from disk, with no network."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest
import slides
from nbformat.v4 import new_output
from notebook_pipeline.generate import generate, page_code, read, write
from notebook_pipeline.markdown import Site
from notebook_pipeline.project import PipelineError, Project
from playwright.sync_api import Page

PROJECT = Project(Path(__file__).resolve().parent.parent)
CHAPTER = "02_hyperfitting"


@pytest.fixture(scope="module")
def decks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    assert slides.main(["--out", str(folder)]) == 0
    return folder


def test_every_chapter_has_a_deck(decks: Path) -> None:
    chapters = {source.stem for source in PROJECT.text_notebooks if source.is_relative_to(PROJECT.root / "book")}
    assert chapters <= {path.stem for path in decks.glob("*.html")}


def test_a_deck_shows_the_figures_of_its_executed_notebook_offline(decks: Path, page: Page) -> None:
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto((decks / f"{CHAPTER}.html").as_uri())
    page.wait_for_function("() => window.Reveal && Reveal.isReady()")
    shown = page.locator(".slides img").evaluate_all("images => images.map(each => each.dataset.src || each.src)")
    notebook = read(PROJECT.root / "book" / f"{CHAPTER}.ipynb")
    expected = [base64.b64decode(data) for cell in page_code(notebook) for data in slides.images(cell)]
    assert len(expected) >= 4
    assert [(decks / "_images" / address.split("/")[-1]).read_bytes() for address in shown] == expected
    assert page.locator(".slides img").evaluate_all("images => images.every(each => each.alt)")
    first = page.locator(".slides section.present h1").text_content()
    page.keyboard.press("ArrowRight")
    assert page.locator(".slides section.present > section.present, .slides > section.present").count()
    assert page.evaluate("Reveal.getIndices().h + Reveal.getIndices().v") > 0
    assert first
    assert page.locator(".slides aside.notes").count() > 10
    assert not errors


def test_a_list_is_shortened_to_what_is_bold_and_the_notes_keep_it_all() -> None:
    text = "Before.\n\n- **One thing.** And why\n  it is so.\n- **Another.** More.\n"
    (slide,) = slides.section("## Title", text, [])
    shown, said = slide.split("``````{revealjs-notes}")
    assert shown.split("\n\n")[1] == "- **One thing.**\n- **Another.**"
    assert "Before." in said
    assert "And why" in said


def test_links_to_the_live_page_stay_with_their_settings_and_others_become_text() -> None:
    text = (
        "> **Try it live**\n>\n> [Write](https://x.github.io/y/book/live.html#arm=last&sample=1) and "
        "[read](03_temperature.ipynb)."
    )
    (slide,) = slides.section("## Title", text, [])
    shown = slide.split("``````{revealjs-notes}")[0]
    assert '<a href="../book/live.html#arm=last&amp;sample=1">Write</a> and read.' in shown


@pytest.mark.parametrize(
    ("chapter", "settings"),
    [("01_degeneration", "strength=1"), ("03_temperature", "temperature=0.6"), ("06_late_stage_lora", "arm=last")],
)
def test_a_deck_leads_to_the_live_page_with_its_settings(decks: Path, page: Page, chapter: str, settings: str) -> None:
    page.goto((decks / f"{chapter}.html").as_uri())
    links = page.locator(".slides a[href*='book/live.html']:not(aside a)")
    found = links.evaluate_all("links => links.map(each => each.getAttribute('href'))")
    assert [link for link in found if link.startswith("../book/live.html#") and settings in link]


def test_a_quiz_gives_a_slide_a_question_with_the_reasons_in_the_notes() -> None:
    answer = "<details>\n<summary><b>a) Yes</b></summary>\n\nRight. So it is.\n\n</details>\n"
    made = list(slides.section("## Quiz", f"Open it.\n\n**1. Is it?**\n\n{answer}\n**2. Or not?**\n\n{answer}", []))
    assert len(made) == 2
    for slide in made:
        shown, said = slide.split("``````{revealjs-notes}")
        assert "- a) Yes" in shown
        assert "Right" not in shown
        assert "Right. So it is." in said


LAB = """\
---
kernelspec: {display_name: Python 3, language: python, name: python3}
---

# Stories

```{code-cell} ipython3
:tags: [no-slide]

table
```

```{code-cell} ipython3
:tags: [claims]

print(record_claims(table))
```

```{code-cell} ipython3
other_table
```
"""


@pytest.fixture
def course(tmp_path: Path) -> Project:
    """A course of one lab, which has been executed and has recorded three claims."""
    for name in ("_config.yml", "pyproject.toml"):
        (tmp_path / name).symlink_to(PROJECT.root / name)
    claim = {"claim": "It is so", "paper": "yes", "measured": "1.0", "chapter": "labs/stories", "verdict": "holds"}
    claims = [claim | {"id": "a-second", "claim": "Also that"}, claim | {"id": "b-first"}, claim | {"id": "c-other"}]
    files = {
        "_toc.yml": "format: jb-book\nroot: book/labs/stories\n",
        "book/labs/stories.md": LAB,
        "book/references.bib": "",
        "results/claims.json": json.dumps(claims),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf8")
    project = Project(tmp_path)
    (source,) = project.text_notebooks
    notebook = generate(Site(project), source)
    tables = [new_output("display_data", {"text/html": f'<table class="dataframe">{name}'}) for name in "LR"]
    printed = new_output("stream", name="stdout", text="b-first: holds\na-second: holds\n")
    for cell, output in zip(page_code(notebook), [tables[0], printed, tables[1]], strict=True):
        cell.outputs = [output]
    write(notebook, source.with_suffix(".ipynb"))
    return project


def test_tags_say_which_claims_a_deck_shows_and_which_outputs_it_leaves_out(course: Project) -> None:
    slides.write_sources(course, course.root / "decks", just_executed=False)
    deck = (course.root / "decks" / "stories.md").read_text("utf8")
    assert "| It is so | yes | 1.0 | holds |\n| Also that | yes | 1.0 | holds |\n\n" in deck
    assert '"dataframe">R' in deck
    assert '"dataframe">L' not in deck


def test_a_claim_that_was_not_recorded_is_named(course: Project) -> None:
    (course.root / "results" / "claims.json").write_text("[]", "utf8")
    with pytest.raises(PipelineError, match="has no claim 'b-first'"):
        slides.write_sources(course, course.root / "decks", just_executed=False)


def test_a_notebook_of_other_code_gives_no_slides(tmp_path: Path) -> None:
    course = Project(tmp_path)
    shutil.copytree(PROJECT.root / "book", tmp_path / "book")
    for name in ("_config.yml", "_toc.yml", "pyproject.toml", "exercises", "solutions", "results"):
        (tmp_path / name).symlink_to(PROJECT.root / name)
    source = tmp_path / "book" / f"{CHAPTER}.md"
    source.write_text(source.read_text("utf8").replace("seed=0", "seed=1"), "utf8")
    with pytest.raises(PipelineError, match="does not match its text"):
        slides.write_sources(course, tmp_path / "decks", just_executed=False)
