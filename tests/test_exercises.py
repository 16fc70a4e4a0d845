"""Exercises are made from solutions and never show them."""

from __future__ import annotations

from pathlib import Path

import pytest
from notebook_pipeline.exercises import exercise_problems, write_exercises
from notebook_pipeline.project import PipelineError, Project

SOLUTION = '''\
# Solutions 01: counting

Text.

```{code-cell} ipython3
:tags: [hide-input]

given = 1


def count(items: list[int]) -> int:
    """How many."""
    total = 0
    # begin solution
    # Add one for each.
    for item in items:
        total += 1 if item else 1
    # end solution
```

% begin solution
An explanation.
% end solution

The end.
'''


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "solutions").mkdir()
    (tmp_path / "solutions" / "01_counting.md").write_text(SOLUTION, "utf8")
    return Project(tmp_path)


def edit(project: Project, old: str, new: str, folder: str = "solutions") -> None:
    path = project.root / folder / "01_counting.md"
    text = path.read_text("utf8")
    assert old in text
    path.write_text(text.replace(old, new), "utf8")


def test_an_exercise_keeps_what_is_given_and_stops_where_the_solution_was(project: Project) -> None:
    write_exercises(project)
    assert (
        (project.root / "exercises" / "01_counting.md").read_text("utf8")
        == '''\
# Exercises 01: counting

Text.

```{code-cell} ipython3
given = 1


def count(items: list[int]) -> int:
    """How many."""
    total = 0
    # Add one for each.
    raise NotImplementedError("count is not implemented yet")
```

The end.

Done? Compare with the {doc}`solutions </solutions/01_counting>`.
'''
    )
    assert list(exercise_problems(project)) == []


def test_a_solution_that_changed_makes_its_exercise_stale(project: Project) -> None:
    assert list(exercise_problems(project)) == ["exercises/01_counting.md: missing; run `make notebooks`"]
    write_exercises(project)
    edit(project, "Text.", "Other text.")
    assert list(exercise_problems(project)) == [
        "exercises/01_counting.md: not what solutions/01_counting.md gives now; run `make notebooks`"
    ]


def test_an_exercise_that_was_edited_by_hand_is_stale(project: Project) -> None:
    write_exercises(project)
    edit(project, "    raise", "    return len(items)\n    raise", folder="exercises")
    assert "not what solutions/01_counting.md gives" in next(exercise_problems(project))


def test_a_line_of_the_solution_outside_its_markers_is_found(project: Project) -> None:
    edit(project, "The end.", "```python\ntotal += 1 if item else 1\n```")
    write_exercises(project)
    assert list(exercise_problems(project)) == [
        "exercises/01_counting.md: shows a line of the solution, `total += 1 if item else 1`"
    ]


def test_an_exercise_without_a_solution_is_found(project: Project) -> None:
    write_exercises(project)
    (project.root / "exercises" / "02_other.md").write_text("# Exercises 02", "utf8")
    assert list(exercise_problems(project)) == [
        "exercises/02_other.md: no solution is called that; delete it or write solutions/02_other.md"
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    # end solution\n", "", "`% begin solution` has no counterpart"),
        ("% end solution\n", "", "this solution does not end"),
        ("% begin solution\n", "", "`% end solution` has no counterpart"),
        ("    # end solution", "% end solution", "`% end solution` has no counterpart"),
    ],
)
def test_markers_without_a_counterpart_are_refused(project: Project, old: str, new: str, message: str) -> None:
    edit(project, old, new)
    with pytest.raises(PipelineError, match=message):
        write_exercises(project)
