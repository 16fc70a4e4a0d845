"""The report of a study in a browser: from disk, with no network, for everybody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from hyperfit_course.study.records import save_results
from hyperfit_course.study.report import write_report

AXE = {"resultTypes": ["violations"]}
ARMS = ("base", "hyperfitted", "last 5")


def rows_of(part: str, arm: str) -> list[dict[str, Any]]:
    number = ARMS.index(arm)
    row: dict[str, Any] = {"arm": arm, "seed": 0, "cost": {"seconds": 1.0, "peak_gigabytes": 1.0}, "configuration": {}}
    if part == "training":
        return [row | {"running_losses": [3.0, 1.0], "train_loss": (0, 0.9, 0.1)[number], "epochs": 2}]
    if part == "writing":
        texts = {"prompt_texts": ["Once & <b>upon</b>"], "written": ["a time " * 40]}
        return [row | texts | {"ttr": (0.9, 0.25, 0.6)[number], "ttr_of_prompts": [0.2, 0.3]}]
    if part == "penalty":
        return [row | {"way": "repetition penalty 1.2", "ttr": 0.7}]
    values = {"value": [1.0, 2.0, 3.0], "low": [0.9, 1.8, 2.7], "high": [1.1, 2.2, 3.3]}
    return [row | values | {"measure": "participation ratio"}]


@pytest.fixture
def report(tmp_path: Path) -> str:
    """The address of a report: three arms, three parts, one of which failed and one of which is not there."""
    parts = [("penalty", "base")]
    parts += [
        (part, arm) for arm in ARMS for part in ("training", "writing", "layers") if part != "training" or arm != "base"
    ]
    named = [{"file": f"{part}_{arm}", "name": part, "arm": arm, "seed": 0} for part, arm in parts]
    model = {
        "name": "some/model",
        "class": "SomeModel",
        "parameters": 10,
        "vocabulary": 5,
        "begin_rule": "Without one.",
    }
    about = {
        "identity": {
            "config": {
                "corpus": "tales",
                "preset": "quick",
                "train_texts": 4,
                "length": 128,
                "batch_size": 4,
                "prompts": 5,
                "seeds": [0],
            },
            "weights": "0" * 64,
            "texts": "0" * 64,
            "code": "x",
        },
        "model": model,
        "checks": [{"name": "loss", "passed": True, "says": "both agree", "stops": []}],
        "parts": named,
    }
    (tmp_path / "rows").mkdir()
    (tmp_path / "about.json").write_text(json.dumps(about), encoding="utf-8")
    for part, arm in parts[:-1]:
        rows = rows_of(part, arm) if (part, arm) != ("layers", "hyperfitted") else [{"failed": "out of memory"}]
        save_results(tmp_path / "rows" / f"{part}_{arm}.json", rows)
    write_report(tmp_path)
    return (tmp_path / "report.html").as_uri()


def cells(page: Page, caption: str, column: int) -> list[str]:
    table = page.locator("table", has=page.locator("caption", has_text=caption))
    return table.locator(f"tbody td:nth-child({column})").all_text_contents()


def test_report_says_what_is_missing_and_why_and_shows_what_models_wrote(report: str, page: Page) -> None:
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(report)
    missing = page.locator("#open + ul li").all_text_contents()
    assert [text.strip() for text in missing] == [
        "layers of hyperfitted, seed 0: out of memory",
        "layers of last 5, seed 0: not measured yet; the same command goes on",
    ]
    unfinished = page.locator("#loss ~ ul").first.locator("li").all_text_contents()
    assert unfinished == ["hyperfitted, seed 0: 0.900 nats after 2 epochs"], "a model that learned little is named"
    assert page.locator("#loss").text_content() == "Training loss not near zero: hyperfitted"
    assert page.get_by_text("Below 0.3 nats are: last 5, seed 0 (0.100).").count() == 1, "and so are the others"
    assert cells(page, "means over seeds", 1) == ["base", "hyperfitted", "last 5", "base, repetition penalty 1.2"]
    assert cells(page, "means over seeds", 3) == ["", "0.900", "0.100", ""]
    assert cells(page, "means over seeds", 4) == ["0.900", "0.250", "0.600", "0.700"]
    assert page.locator("summary").first.text_content() == "Once & <b>upon</b>"
    assert page.locator("img").count() == 3
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 100)")
    assert faults == []
    changed = page.locator("#changes ~ div table", has=page.locator("caption", has_text="penalty"))
    assert changed.locator("tbody td").all_text_contents()[:4] == ["base", "0", "repetition penalty 1.2", "0.700"]
    assert page.locator("#changes ~ p", has_text="greedy text of the base model under a repetition").count() == 1


def test_tables_are_sorted_by_number_with_the_keyboard(report: str, page: Page) -> None:
    page.goto(report)
    table = page.locator("table", has=page.locator("caption", has_text="writing"))
    button = table.locator("th button", has_text="type-token ratio")
    button.focus()
    page.keyboard.press("Enter")
    assert cells(page, "writing", 3) == ["0.250", "0.600", "0.900"]
    assert table.locator("th[aria-sort=ascending]").count() == 1
    page.keyboard.press("Enter")
    assert cells(page, "writing", 3) == ["0.900", "0.600", "0.250"]
    assert cells(page, "writing", 1) == ["base", "last 5", "hyperfitted"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 360])
def test_report_is_for_everybody(report: str, page: Page, scheme: Any, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 740})
    page.goto(report)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
    assert [found["id"] for found in Axe().run(page, options=AXE).response["violations"]] == []
