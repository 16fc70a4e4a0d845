"""The slides, as a teacher opens them: from disk, with no network."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pytest
import slides
from notebook_pipeline.generate import page_code, read
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
    chapters = {source.stem for source in PROJECT.text_notebooks if source.parent.name == "book"}
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


def test_a_quiz_gives_a_slide_a_question_with_the_reasons_in_the_notes() -> None:
    answer = "<details>\n<summary><b>a) Yes</b></summary>\n\nRight. So it is.\n\n</details>\n"
    made = list(slides.section("## Quiz", f"Open it.\n\n**1. Is it?**\n\n{answer}\n**2. Or not?**\n\n{answer}", []))
    assert len(made) == 2
    for slide in made:
        shown, said = slide.split("``````{revealjs-notes}")
        assert "- a) Yes" in shown
        assert "Right" not in shown
        assert "Right. So it is." in said


def test_a_notebook_of_other_code_gives_no_slides(tmp_path: Path) -> None:
    course = Project(tmp_path)
    shutil.copytree(PROJECT.root / "book", tmp_path / "book")
    for name in ("_config.yml", "_toc.yml", "pyproject.toml", "exercises", "solutions", "results"):
        (tmp_path / name).symlink_to(PROJECT.root / name)
    source = tmp_path / "book" / f"{CHAPTER}.md"
    source.write_text(source.read_text("utf8").replace("seed=0", "seed=1"), "utf8")
    with pytest.raises(PipelineError, match="does not match its text"):
        slides.write_sources(course, tmp_path / "decks", just_executed=False)
