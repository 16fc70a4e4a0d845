"""The scorecard shows all that the chapters recorded, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scorecard
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
CLAIMS = json.loads((ROOT / "results/claims.json").read_text(encoding="utf-8"))
PREDICTED = json.loads((ROOT / "results/predictions.json").read_text(encoding="utf-8"))["rows"]


def row(mean: float, low: float, high: float, threshold: float | None, verdict: str = "holds") -> dict[str, Any]:
    estimate = {"mean": mean, "low": low, "high": high, "n": 5, "smallest": 0.25}
    about = {"id": "a", "chapter": "01_one", "claim": "One | two.", "effect": "TTR", "over": "seeds", "paper": "-"}
    return about | {
        "differs": "",
        "measured": "0.2 to 0.5",
        "threshold": threshold,
        "estimate": estimate,
        "verdict": verdict,
    }


def test_page_shows_every_claim_and_every_verdict(html: Path) -> None:
    page = (html / "book/scorecard.html").read_text(encoding="utf-8")
    tables = page[page.index('id="degeneration"') :]
    assert sorted(re.findall(r"<code[^>]*><span class=\"pre\">([\w-]+)</span></code>\)", tables)) == sorted(
        claim["id"] for claim in CLAIMS
    )
    for name in [*scorecard.VERDICTS, scorecard.FACT]:
        found = tables.count(f"<td><p><strong>{name}</strong>")
        assert found == sum(claim["verdict"] == name for claim in CLAIMS), name


def test_page_names_what_is_not_decided_yet(html: Path) -> None:
    page = (html / "book/scorecard.html").read_text(encoding="utf-8")
    named = re.findall(r"<li><p><code[^>]*><span class=\"pre\">([\w-]+)</span></code>:", page)
    assert set(named) == {row["id"] for row in PREDICTED} - {row["id"] for row in CLAIMS}


def test_text_of_the_page_has_a_table_for_every_page_with_statements() -> None:
    text = (ROOT / "book/scorecard.md").read_text(encoding="utf-8")
    tables = re.findall(r"^```\{claims-table\} (.+)$", text, re.MULTILINE)
    assert sorted(tables) == sorted({row["chapter"] for row in PREDICTED}), "scorecard.md: the claims-table of a page"


def test_a_statement_without_a_verdict_stands_in_a_list_and_in_no_table() -> None:
    assert scorecard.table([], {}) == []
    assert scorecard.awaited([]) == []
    assert scorecard.awaited([row(0.3, 0.2, 0.4, 0.1)])[-1] == "- `a`: One | two."


def test_second_model_has_a_column_where_it_measured_a_statement() -> None:
    rows = [row(0.3, 0.2, 0.4, 0.1), row(0.3, 0.2, 0.4, 0.1) | {"id": "b"}]
    measured = {"id": "a", "measured": "+0.233", "verdict": "one seed: no verdict"}
    second = scorecard.effects([measured, {"id": "b", "measured": "", "verdict": "not measured"}])
    heading, _, first, other = scorecard.table(rows, second)
    assert "second model" in heading
    assert "| +0.233 (one seed: no verdict) |" in first
    assert "| not measured |" in other
    assert "second model" not in scorecard.table(rows, {"another": "+1"})[0]


def test_counts_add_up_without_the_labs() -> None:
    rows = scorecard.of_chapters(CLAIMS)
    labs = {row["chapter"] for row in CLAIMS} - {row["chapter"] for row in rows}
    assert labs == {f"labs/{path.stem}" for path in (ROOT / "book/labs").glob("*.md")}
    lines = scorecard.counts(rows)[2:]
    columns = [[int(cell.strip(" *")) for cell in line.split("|")[2:-1]] for line in lines]
    assert [sum(column) for column in zip(*columns[:-1], strict=True)] == columns[-1]
    assert sum(columns[-1]) == len(rows)


@pytest.mark.parametrize(
    ("threshold", "drawn", "marker"), [(0.1, (2, 3, 4), "o"), (None, (0.2, 0.3, 0.4), "o"), (0.02, (4, 4, 4), ">")]
)
def test_effects_are_drawn_in_units_of_the_predicted_size(
    threshold: float | None, drawn: tuple[float, ...], marker: str
) -> None:
    axes = Figure().subplots()
    scorecard.forest(axes, [row(0.3, 0.2, 0.4, threshold)], "effect")
    interval, dot = axes.lines[:2]
    values = np.concatenate([np.asarray(line.get_xdata()) for line in (interval, dot)])
    assert sorted(values) == pytest.approx(drawn)
    assert dot.get_marker() == marker


def test_what_would_have_been_found_is_told_only_where_nothing_was() -> None:
    assert "would have been found" not in scorecard.measured(row(0.3, 0.2, 0.4, 0.1))
    assert "0.250 would have been found" in scorecard.measured(row(0.1, -0.2, 0.4, 0.3, "inconclusive"))


def test_a_bar_in_a_sentence_does_not_split_its_cell() -> None:
    assert scorecard.table([row(0.3, 0.2, 0.4, 0.1)], {})[2].count(" | ") == 5


def test_prices_are_no_formula() -> None:
    shown = scorecard.table([row(0.3, 0.2, 0.4, 0.1) | {"paper": "$8 and $0.10"}], {})[2]
    assert r"\$8 and \$0.10" in shown


def test_every_tested_statement_shows_the_size_that_was_asked_for() -> None:
    assert scorecard.asked(row(0.3, 0.2, 0.4, 0.142)) == "0.142"
    assert scorecard.asked(row(0.3, 0.2, 0.4, 0)) == "any above 0"
    assert scorecard.asked(row(0.3, 0.2, 0.4, None, "fact") | {"estimate": None}) == ""


def test_what_had_been_seen_is_marked() -> None:
    assert set(scorecard.SEEN) <= {each["id"] for each in PREDICTED}, "SEEN names a statement that there is not"
    seen = row(0.3, 0.2, 0.4, 0.1) | {"id": "hyperfit-needs-low-loss"}
    assert "| **holds** (seen before: all three seeds) |" in scorecard.table([seen], {})[2]
    assert "| **holds** |" in scorecard.table([row(0.3, 0.2, 0.4, 0.1)], {})[2]


def test_statements_of_papers_and_our_own_are_all_statements() -> None:
    rows = scorecard.of_chapters(CLAIMS)
    papers, own = ([int(cell) for cell in line.split("|")[2:-1]] for line in scorecard.origins(rows)[2:])
    assert min(sum(papers), sum(own)) > 0
    assert [sum(pair) for pair in zip(papers, own, strict=True)] == [
        sum(claim["verdict"] == name for claim in rows) for name in [*scorecard.VERDICTS, scorecard.FACT]
    ]


def test_statements_about_one_model_are_named_below_the_verdicts() -> None:
    text = (ROOT / "book/scorecard.md").read_text(encoding="utf-8")
    alone = [each["id"] for each in PREDICTED if each["over"] in ("prompts", "texts")]
    later = [name for name in alone if not name.startswith(("degeneration-", "linear-", "law-"))]
    assert all(f"`{name}`" in text for name in later), "scorecard.md: statements about one trained model"
    shown = scorecard.measured(row(0.3, 0.2, 0.4, 0.1) | {"over": "prompts"})
    assert shown.endswith("over 5 prompts of one model")
