"""Exercises are solutions with the answers taken out, so that the two cannot differ.

In `solutions/NN_name.md`, what only the solutions may show stands between two markers: in code `# begin solution`
and `# end solution`, in text `% begin solution` and `% end solution`. In the exercise the text is left out; of the
code the comments stay, as guidance, and a line that raises NotImplementedError follows. The exercise ends with the way
to the solutions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from notebook_pipeline.project import PipelineError, Project

MARKER = re.compile(r"(?P<indent>\s*)(?P<comment>[#%]) (?P<what>begin|end) solution\s*")
DEFINITION = re.compile(r"\s*(?:def|class) (?P<name>\w+)")
SHORTEST_LEAK = 12
"""Shorter lines, such as `return total`, stand in many programs."""


def exercise_of(source: Path) -> Path:
    """Where the exercise that is made from a solution stands."""
    return source.parent.parent / "exercises" / source.name


def write_exercises(project: Project) -> None:
    """Make `exercises/*.md` anew from `solutions/*.md`."""
    for source in solutions(project):
        path, text = exercise_of(source), exercise_text(project, source)
        if not path.exists() or path.read_text("utf8") != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf8")


def exercise_problems(project: Project) -> Iterator[str]:
    """What is wrong with the exercises: out of date, without a solution, or with a solution in them."""
    made = set()
    for source in solutions(project):
        path, text = exercise_of(source), exercise_text(project, source)
        made.add(path)
        name = project.name(path)
        if not path.exists():
            yield f"{name}: missing; run `make notebooks`"
        elif path.read_text("utf8") != text:
            yield f"{name}: not what {project.name(source)} gives now; run `make notebooks`"
        shown = {line.strip() for line in text.split("\n")}
        for line in hidden_code(project, source):
            if len(line) >= SHORTEST_LEAK and line in shown:
                yield f"{name}: shows a line of the solution, `{line}`"
    for path in sorted((project.root / "exercises").glob("*.md")):
        if path not in made:
            yield f"{project.name(path)}: no solution is called that; delete it or write solutions/{path.name}"


def solutions(project: Project) -> list[Path]:
    """Every text notebook with solutions."""
    return sorted((project.root / "solutions").glob("[0-9]*.md"))


def exercise_text(project: Project, source: Path) -> str:
    """The text notebook of the exercises."""
    kept: list[str] = []
    defined, after_text = "", False
    for line, inside, marker in marked_lines(project, source):
        defined = found["name"] if (found := DEFINITION.match(line)) and not inside else defined
        if marker and marker["comment"] == "#" and marker["what"] == "end":
            kept.append(f'{marker["indent"]}raise NotImplementedError("{defined} is not implemented yet")')
        elif not marker and (not inside or (inside == "#" and line.strip().startswith("#"))):
            # The blank line after a text that was left out goes with it.
            kept += [line] if line or not after_text else []
        after_text = marker is not None and marker["comment"] == "%"
    text = "\n".join(kept)
    text = re.sub(r"^# Solutions", "# Exercises", text, count=1, flags=re.M)
    text = re.sub(r"^(```\{code-cell\} ipython3\n):tags: \[hide-input\]\n\n?", r"\1", text, flags=re.M)
    return f"{text.strip()}\n\nDone? Compare with the {{doc}}`solutions </solutions/{source.stem}>`.\n"


def hidden_code(project: Project, source: Path) -> list[str]:
    """The lines of code that no exercise may show."""
    lines = [line.strip() for line, inside, marker in marked_lines(project, source) if inside == "#" and not marker]
    return [line for line in lines if line and not line.startswith("#")]


def marked_lines(project: Project, source: Path) -> Iterator[tuple[str, str, re.Match[str] | None]]:
    """Every line, the kind of solution that it is in (`#`, `%` or none), and its marker if it is one."""
    inside, opened = "", 0
    for number, line in enumerate(source.read_text("utf8").split("\n"), 1):
        marker = MARKER.fullmatch(line)
        if marker:
            closes = marker["what"] == "end"
            if closes != bool(inside) or (closes and marker["comment"] != inside):
                raise PipelineError(f"{project.name(source)}:{number}: `{line.strip()}` has no counterpart")
            inside, opened = ("" if closes else marker["comment"]), number
        yield line, inside, marker
    if inside:
        raise PipelineError(f"{project.name(source)}:{opened}: this solution does not end")
