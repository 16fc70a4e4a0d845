"""The scorecard: every statement of ``results/claims.json`` with its verdict, as a page shows it.

A build reads the file, so the page cannot say anything else than the chapters have recorded.
"""

from __future__ import annotations

import html
import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from docutils import nodes
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

Row = dict[str, Any]
VERDICTS = {"holds": "#009E73", "direction only": "#56B4E9", "inconclusive": "#999999", "contradicted": "#D55E00"}
"""The four verdicts and their colours in the plot."""
FACT = "fact"
FURTHEST = 4.0  #: Larger effects, in units of the predicted size, are drawn as an arrow here.
OWN = ("not tested", "not known to us")
"""How the field ``paper`` begins where no paper that we know reports on a statement."""
SECOND_MODEL = "Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf"
"""Its file in ``results/models`` has the same effects for another model."""
EARLIER = "seeds 0 to 2, from an earlier recording"
SEEN = {
    "hyperfit-needs-low-loss": "all three seeds",
    **dict.fromkeys(
        ["temperature-sampled-ttr", "temperature-sampled-ttr-news"], "three of the five seeds, from older rows"
    ),
    **dict.fromkeys(["order-under-its-shape", "order-under-base-shape", "sharpening-costs"], "one model, a first look"),
    **dict.fromkeys(
        [
            *(
                f"terminal-expansion-{place}{positions}{centring}"
                for place in ("prenorm", "postnorm")
                for positions in ("", "-all-positions")
                for centring in ("", "-uncentred")
            ),
            "last-block-expands",
        ],
        "one of the five seeds",
    ),
    "expansion-without-late-training": "three of the five seeds",
    **dict.fromkeys(
        [
            "late-stage-ttr",
            "late-stage-vs-full",
            *(f"late-stage-vs-{other}-five{loss}" for other in ("first", "middle") for loss in ("", "-equal-loss")),
            "late-stage-vs-spread-five-equal-loss",
            "middle-five-vs-all-equal-loss",
        ],
        EARLIER,
    ),
    "late-stage-best-rate": "one seed, a first look; the third seed was added when two were known",
    "memory-copied-share": "three of the five seeds",
    "memory-blocked-ttr": "one of the five seeds",
    "domains-3x3": "the gain from tales to news",
    "cause-rotated-damage": "seeds 1 and 2, in chapter 06",
}
"""What was known of the rows that test a statement when its size was written down, as the chapters say it. Of the
statements of chapter 04 it is known for some kinds of runs only, and not for which."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx when the extension is loaded."""
    app.add_directive("claims-counts", ClaimsCounts)
    app.add_directive("claims-table", ClaimsTable)
    app.add_directive("claims-plot", ClaimsPlot)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class FromClaims(SphinxDirective):
    """A directive that is made anew when the claims change."""

    def claims(self) -> list[Row]:
        """All recorded claims, in the order of the predictions."""
        results = Path(self.env.srcdir) / "results"
        for name in ("claims.json", "predictions.json"):
            self.env.note_dependency(str(results / name))
        claims = {row["id"]: row for row in json.loads((results / "claims.json").read_text("utf8"))}
        return [claims[row["id"]] for row in self.predicted() if row["id"] in claims]

    def predicted(self) -> list[Row]:
        """All statements, decided or not."""
        path = Path(self.env.srcdir) / "results" / "predictions.json"
        rows: list[Row] = json.loads(path.read_text("utf8"))["rows"]
        return rows

    def parsed(self, markdown: list[str]) -> list[nodes.Node]:
        """Nodes of some Markdown."""
        return self.parse_text_to_nodes("\n".join(markdown))


class ClaimsCounts(FromClaims):
    """How many statements of each chapter have which verdict."""

    def run(self) -> list[nodes.Node]:
        """A row a chapter, and one for all; then by origin. Without the labs, which are about other papers."""
        rows = of_chapters(self.claims())
        return self.parsed([*counts(rows), "", *origins(rows)])


class ClaimsTable(FromClaims):
    """The statements of one chapter, or of one lab."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A row a statement that is decided; the others stand below."""
        predicted = [row for row in self.predicted() if row["chapter"] == self.arguments[0]]
        if not predicted:
            raise self.error(f"No statement of {self.arguments[0]} is in results/predictions.json.")
        claims = {row["id"]: row for row in self.claims()}
        decided = [claims[row["id"]] for row in predicted if row["id"] in claims]
        study = Path(self.env.srcdir) / "results" / "models" / f"{SECOND_MODEL}.json"
        self.env.note_dependency(str(study))
        second = effects(json.loads(study.read_text("utf8"))["claims"])
        return self.parsed(
            [*table(decided, second), "", *awaited([row for row in predicted if row["id"] not in claims])]
        )


class ClaimsPlot(FromClaims):
    """The effects of all statements of the chapters with their intervals."""

    def run(self) -> list[nodes.Node]:
        """A picture inside the page."""
        return [nodes.raw("", f'<div class="claims-plot">{picture(of_chapters(self.claims()))}</div>', format="html")]


def of_chapters(rows: list[Row]) -> list[Row]:
    """Those that are not of a lab."""
    return [row for row in rows if not row["chapter"].startswith("labs/")]


def counts(rows: list[Row]) -> list[str]:
    """A Markdown table of the verdicts by chapter."""
    names = [*VERDICTS, FACT]
    by_chapter = {chapter: Counter(r["verdict"] for r in rows if r["chapter"] == chapter) for chapter in chapters(rows)}
    lines = [f"| {' | '.join(['chapter', *names])} |", f"| --- {'| --: ' * len(names)}|"]
    for chapter, found in by_chapter.items():
        lines.append(f"| {{doc}}`/book/{chapter}` | {' | '.join(str(found[name]) for name in names)} |")
    total = Counter(row["verdict"] for row in rows)
    return [*lines, f"| **all** | {' | '.join(f'**{total[name]}**' for name in names)} |"]


def origins(rows: list[Row]) -> list[str]:
    """A Markdown table of the verdicts by where the statements come from."""
    names = [*VERDICTS, FACT]
    lines = [f"| {' | '.join(['statement', *names])} |", f"| --- {'| --: ' * len(names)}|"]
    for own, title in ((False, "a paper reports on it"), (True, "our own question")):
        found = Counter(row["verdict"] for row in rows if row["paper"].startswith(OWN) == own)
        lines.append(f"| {title} | {' | '.join(str(found[name]) for name in names)} |")
    return lines


def chapters(rows: list[Row]) -> list[str]:
    """The pages that have statements, in the order of the book."""
    return list(dict.fromkeys(row["chapter"] for row in rows))


def awaited(rows: list[Row]) -> list[str]:
    """A Markdown list of some statements that have no verdict yet."""
    return ["Awaited, since not all of their rows are recorded:", "", *map(undecided, rows)] if rows else []


def undecided(row: Row) -> str:
    """A statement without a verdict."""
    return f"- `{row['id']}`: {plain(row['claim'])}"


def plain(text: str) -> str:
    """Text in which two dollar signs are no formula."""
    return text.replace("$", r"\$")


def effects(claims: list[Row]) -> dict[str, str]:
    """What a study of one model says of each statement that it has measured, by the statement's id."""
    return {claim["id"]: f"{claim['measured']} ({claim['verdict']})" for claim in claims if claim["measured"]}


def table(rows: list[Row], second: Mapping[str, str]) -> list[str]:
    """A Markdown table of some statements; nothing for none.

    Args:
        second: the effects of the second model. If it has none of these statements, there is no column for it.
    """
    if not rows:
        return []
    columns = ["statement", "verdict", "asked for", "paper", "here", "what differs"]
    both = any(row["id"] in second for row in rows)
    if both:
        columns.insert(5, "second model, same effect")
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for row in rows:
        cells = [
            f"{row['claim']} (`{row['id']}`)",
            f"**{row['verdict']}**" + (f" (seen before: {SEEN[row['id']]})" if row["id"] in SEEN else ""),
            asked(row),
            row["paper"],
            measured(row),
            *([second.get(row["id"], "not measured")] if both else []),
            row["differs"],
        ]
        escaped = [plain(cell).replace("|", r"\|") for cell in cells]
        lines.append(f"| {' | '.join(escaped)} |")
    return lines


def asked(row: Row) -> str:
    """The size that was predicted: the mean has to reach it; nothing for a fact."""
    if row["estimate"] is None:
        return ""
    return f"{row['threshold']:.3g}" if row["threshold"] else "any above 0"


def measured(row: Row) -> str:
    """What was measured: the numbers, and the effect with its interval and unit."""
    found = row["estimate"]
    if found is None:
        return str(row["measured"])
    effect = f"{found['mean']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}] over {found['n']} {units(row)}"
    missed = f"; {found['smallest']:.3f} would have been found" if row["verdict"] == "inconclusive" else ""
    return f"{row['measured']}. *{row['effect']}*: {effect}{missed}"


def units(row: Row) -> str:
    """What an interval is over: training seeds, or what one model was given."""
    over = str(row["over"])
    return over if over == "seeds" else f"{over} of one model"


def picture(rows: list[Row]) -> str:
    """A forest plot as SVG. Statements with a predicted size are drawn in units of it, the others as they are."""
    tested = [row for row in rows if row["estimate"]]
    groups = {
        "effect / size from which on the statement holds": [row for row in tested if row["threshold"]],
        "effect, each in its own unit (any above 0 counts)": [row for row in tested if not row["threshold"]],
    }
    heights = [len(group) for group in groups.values()]
    with matplotlib.rc_context({"svg.hashsalt": "claims", "svg.fonttype": "path", "font.size": 9}):
        figure = Figure(figsize=(8, 1.6 + 0.22 * sum(heights)), layout="constrained")
        panels = figure.subplots(2, 1, gridspec_kw={"height_ratios": heights})
        for axes, (label, group) in zip(panels, groups.items(), strict=True):
            forest(axes, group[::-1], label)
        handles = [
            matplotlib.lines.Line2D([], [], color=c, marker="o", linestyle="-", label=name)
            for name, c in VERDICTS.items()
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    svg = stream.getvalue()
    told = html.escape(described(tested), quote=True)
    return svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{told}"', 1)


def forest(axes: Axes, rows: list[Row], label: str) -> None:
    """One panel: a dot and its interval for each statement."""
    for place, row in enumerate(rows):
        low, mean, high = (row["estimate"][name] / (row["threshold"] or 1) for name in ("low", "mean", "high"))
        colour = VERDICTS[row["verdict"]]
        axes.plot([min(low, FURTHEST), min(high, FURTHEST)], [place, place], "-", color=colour)
        axes.plot(min(mean, FURTHEST), place, ">" if mean > FURTHEST else "o", color=colour, markersize=4)
    axes.set_yticks(range(len(rows)), [row["id"] for row in rows])
    axes.set(xlabel=label, ylim=(-0.7, len(rows) - 0.3))
    axes.axvline(0, color="#555555", linewidth=0.8)
    if rows and rows[0]["threshold"]:
        axes.axvline(1, color="#555555", linewidth=0.8, linestyle=":")


def described(tested: list[Row]) -> str:
    """The plot in words."""
    total = Counter(row["verdict"] for row in tested)
    parts = ", ".join(f"{total[name]} {name}" for name in VERDICTS if total[name])
    against = ", ".join(row["id"] for row in tested if row["verdict"] == "contradicted") or "none"
    return (
        f"Effects of {len(tested)} tested statements with 95 % intervals, by verdict: {parts}. "
        f"Contradicted: {against}. The tables below have every number."
    )
