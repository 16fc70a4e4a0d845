"""The book on paper."""

from __future__ import annotations

import io
from pathlib import Path

import pdf
import pytest
from notebook_pipeline.project import PipelineError, Project
from playwright.sync_api import Browser
from pypdf import PdfReader

PROJECT = Project(Path(__file__).resolve().parent.parent)


def test_pages_are_printed_with_figures_formulas_and_open_answers(html: Path, browser: Browser, tmp_path: Path) -> None:
    short = Project(PROJECT.root)
    short.__dict__["toc"] = [PROJECT.root / "book" / name for name in ("intro.md", "02_hyperfitting.md")]
    pdf.print_pages(short, browser, html, tmp_path / "book.pdf")
    printed = PdfReader(io.BytesIO((tmp_path / "book.pdf").read_bytes()))
    text = "\n".join(sheet.extract_text() for sheet in printed.pages)
    assert "Right. The textbook wants a good predictor." in " ".join(text.split())
    assert "\\sum" not in text
    assert sum(len(sheet.images) for sheet in printed.pages) >= 4
    assert len(printed.outline) == 2


def test_missing_pages_are_named(browser: Browser, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"intro\.html is missing: run `make html` first"):
        pdf.print_pages(PROJECT, browser, tmp_path, tmp_path / "book.pdf")
