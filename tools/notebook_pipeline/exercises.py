"""Exercises are solutions with the answers taken out, so that the two cannot differ.

In `solutions/NN_name.md` and `solutions/labs/name.md`, what only the solutions may show stands between two markers:
in code `# begin solution` and `# end solution`, in text the same with `%`. The exercise leaves it out. Of the code the
comments stay, as guidance, and a line that raises NotImplementedError follows. The way to the solutions is its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from notebook_pipeline.project import PipelineError, Project

MARKER = re.compile(r"(?P<indent>\s*)(?P<comment>[#%]) (?P<what>begin|end) solution\s*")
DEFINITION = re.compile(r"\s*(?:def|class) (?P<name>\w+)")
SHORTEST_LEAK = 12  # shorter lines, such as `return total`, stand in many programs


def write_exercises(project: Project) -> None:
    """Make `exercises/` anew from `solutions/`."""
    for source, path in exercise_of(project).items():
        text, _ = exercise(project, source)
        if not path.exists() or path.read_text("utf8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf8")


def exercise_problems(project: Project) -> Iterator[str]:
    """What is wrong with the exercises: out of date, without a solution, or with a solution in them."""
    made = exercise_of(project)
    for source, path in made.items():
        name, (text, hidden) = project.name(path), exercise(project, source)
        if not path.exists():
            yield f"{name}: missing; run `make notebooks`"
        elif path.read_text("utf8") != text:
            yield f"{name}: not what {project.name(source)} gives now; run `make notebooks`"
        shown = {line.strip() for line in text.split("\n")}
        for line in hidden:
            if len(line) >= SHORTEST_LEAK and line in shown:
                yield f"{name}: shows a line of the solution, `{line}`"
    folder = project.root / "exercises"
    for path in sorted([*folder.glob("*.md"), *folder.glob("labs/*.md")]):
        if path not in made.values():
            wanted = f"solutions/{path.relative_to(folder).as_posix()}"
            yield f"{project.name(path)}: no solution is called that; delete it or write {wanted}"


def exercise_of(project: Project) -> dict[Path, Path]:
    """Every text notebook with solutions, chapters first, and where the exercise that is made from it stands."""
    folder = project.root / "solutions"
    sources = [*sorted(folder.glob("[0-9]*.md")), *sorted(folder.glob("labs/*.md"))]
    return {source: project.root / "exercises" / source.relative_to(folder) for source in sources}


def exercise(project: Project, source: Path) -> tuple[str, list[str]]:
    """The text notebook of the exercises, and the lines of code that it may not show."""
    kept: list[str] = []
    hidden: list[str] = []
    defined, after_text = "", False
    for line, inside, marker in marked_lines(project, source):
        defined = found["name"] if (found := DEFINITION.match(line)) and not inside else defined
        if marker and marker["comment"] == "#" and marker["what"] == "end":
            kept.append(f'{marker["indent"]}raise NotImplementedError("{defined} is not implemented yet")')
        elif not marker and (not inside or (inside == "#" and line.strip().startswith("#"))):
            # The blank line after a text that was left out goes with it.
            kept += [line] if line or not after_text else []
        elif not marker and inside == "#":
            hidden.append(line.strip())
        after_text = marker is not None and marker["comment"] == "%"
    text = re.sub(r"^# Solutions", "# Exercises", "\n".join(kept), count=1, flags=re.M)
    text = re.sub(r"^(```\{code-cell\} ipython3\n):tags: \[hide-input\]\n\n?", r"\1", text, flags=re.M)
    way = f"Done? Compare with the {{doc}}`solutions </{project.name(source.with_suffix(''))}>`."
    return f"{text.strip()}\n\n{way}\n", hidden


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
