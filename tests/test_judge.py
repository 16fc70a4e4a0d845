"""The page "Judge for yourself": its texts are those that were recorded, and its result is what was chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import judge_pairs
import pytest
from playwright.sync_api import Browser, Locator, Page
from scipy.stats import binomtest

JUDGE = "book/judge.html"


@pytest.fixture(scope="module")
def pairs() -> dict[str, Any]:
    """Those that the page holds."""
    lines = judge_pairs.TARGET.read_text(encoding="utf-8").splitlines()
    return dict(json.loads(lines[1]))


@pytest.fixture
def judging(html: Path, page: Page) -> Page:
    page.goto((html / JUDGE).as_uri())
    return page


def part(page: Page, name: str) -> Locator:
    return page.locator(f'[data-judge="{name}"]')


def shown_pair(page: Page) -> tuple[str, str, str]:
    """The prompt and both texts."""
    prompt, a, b = (part(page, name).text_content() or "" for name in ("prompt", "a", "b"))
    return prompt, a, b


def comparison_of(page: Page, pairs: dict[str, Any]) -> tuple[int, str]:
    """Which comparison is shown, and the side of the hyperfitted text."""
    prompt, a, b = shown_pair(page)
    number = pairs["prompts"].index(prompt)
    for index, comparison in enumerate(pairs["comparisons"]):
        of, over = (pairs["texts"][comparison[kind]][number] for kind in ("of", "over"))
        if over is not None and {a, b} == {of.strip(), over.strip()}:
            return index, "a" if a == of.strip() else "b"
    raise AssertionError("the page shows texts that are no pair")


def result(page: Page) -> list[list[str]]:
    """The cells of the table, a row a comparison."""
    part(page, "show").click()
    return [row.locator("th, td").all_text_contents() for row in part(page, "table").locator("tr").all()]


def test_page_holds_what_was_recorded() -> None:
    assert judge_pairs.TARGET.read_text(encoding="utf-8") == judge_pairs.page_part(), "run tools/judge_pairs.py"


def test_each_comparison_has_two_texts_that_differ(pairs: dict[str, Any]) -> None:
    for comparison in pairs["comparisons"]:
        both = [pairs["texts"][comparison[kind]] for kind in ("of", "over")]
        told_apart = [one != other for one, other in zip(*both, strict=True) if None not in (one, other)]
        assert len(told_apart) in (judge_pairs.SHOWN, 2 * judge_pairs.SHOWN)
        assert all(told_apart), comparison["name"]
    assert len(set(pairs["prompts"])) == 2 * judge_pairs.SHOWN


def test_result_counts_what_was_chosen_for_whichever_side_it_stood_on(judging: Page, pairs: dict[str, Any]) -> None:
    wins, losses, ties = [0] * 4, [0] * 4, [0] * 4
    sides = set()
    for turn in range(20):
        comparison, side = comparison_of(judging, pairs)
        sides.add(side)
        if turn % 5 == 4:
            part(judging, "choose-neither").click()
            ties[comparison] += 1
        elif comparison in (0, 3) or turn % 2:
            part(judging, f"choose-{side}").click()
            wins[comparison] += 1
        else:
            part(judging, f"choose-{'b' if side == 'a' else 'a'}").click()
            losses[comparison] += 1
    assert sides == {"a", "b"}, "the hyperfitted text always stands on one side"
    for index, row in enumerate(result(judging)):
        assert row[0] == pairs["comparisons"][index]["name"]
        assert row[1:4] == [str(count[index]) for count in (wins, losses, ties)]
        assert sum(count[index] for count in (wins, losses, ties)) == 5, "the comparisons do not come equally often"
        decided = wins[index] + losses[index]
        interval = binomtest(wins[index], decided).proportion_ci(method="wilson")
        assert row[4] == f"{wins[index] / decided:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
        prefers = "you prefer the hyperfitted text" if interval.low > 0.5 else "not decided"
        assert row[5] == prefers


def test_judgements_stay_until_they_are_forgotten(judging: Page) -> None:
    for _ in range(3):
        part(judging, "choose-a").click()
    judging.reload()
    assert part(judging, "message").text_content() == "Pair 4 of 105"
    judging.on("dialog", lambda dialog: dialog.accept())
    part(judging, "forget").click()
    assert part(judging, "message").text_content() == "Pair 1 of 105"
    judging.reload()
    assert part(judging, "message").text_content() == "Pair 1 of 105"


def test_no_pair_comes_twice_and_the_last_one_ends_with_the_result(judging: Page) -> None:
    seen = set()
    for _ in range(105):
        seen.add(shown_pair(judging)[0] + "".join(sorted(shown_pair(judging)[1:])))
        part(judging, "choose-neither").click()
    assert len(seen) == 105
    assert part(judging, "message").text_content() == "You have judged every pair."
    assert part(judging, "pair").is_hidden()
    assert part(judging, "results").is_visible()
    assert [row[3] for row in result(judging)] == ["30", "30", "15", "30"]


def test_saved_file_names_the_texts(judging: Page, pairs: dict[str, Any]) -> None:
    prompt = shown_pair(judging)[0]
    comparison, side = comparison_of(judging, pairs)
    part(judging, f"choose-{side}").click()
    part(judging, "choose-neither").click()
    with judging.expect_download() as download:
        part(judging, "save").click()
    first, second = json.loads(download.value.path().read_text(encoding="utf-8"))
    of, over = (pairs["comparisons"][comparison][kind] for kind in ("of", "over"))
    assert first == {"of": of, "over": over, "prompt": prompt, "preferred": of}
    assert second["preferred"] is None


@pytest.mark.parametrize("kept", ["{", "null", '[{"comparison": 9, "prompt": 0, "choice": "of"}]', '"text"'])
def test_what_cannot_be_judgements_is_left_aside(html: Path, page: Page, kept: str) -> None:
    page.goto((html / JUDGE).as_uri())
    page.evaluate("kept => localStorage.setItem('hyperfit-judgements', kept)", kept)
    page.reload()
    assert part(page, "message").text_content() == "Pair 1 of 105"


def test_a_browser_that_keeps_nothing_judges_all_the_same(html: Path, browser: Browser) -> None:
    context = browser.new_context()
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new Error('forbidden'); } })"
    )
    page = context.new_page()
    page.goto((html / JUDGE).as_uri())
    part(page, "choose-b").click()
    assert part(page, "message").text_content() == "Pair 2 of 105"
    context.close()
