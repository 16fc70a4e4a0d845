"""The command ``hyperfit``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hyperfit_course.artifacts import CacheError, atomic_path
from hyperfit_course.grading import LIMITS, GradingError, grade_folder, summary, table


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
        The exit status: 0 if every notebook could be graded, 1 if one could not, 2 for a wrong command.
    """
    parser = argparse.ArgumentParser(prog="hyperfit", description="Tools of the Hyperfitting course.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    grade = commands.add_parser(
        "grade",
        help="run submitted exercise notebooks and write a table of points",
        description=f"Run every notebook below a folder, and check its exercises. {LIMITS}",
    )
    grade.add_argument("submissions", type=Path, help="folder of notebooks: student/NN_name.ipynb or student.ipynb")
    grade.add_argument("--out", type=Path, default=Path("grades.csv"), help="the table (default: grades.csv)")
    grade.set_defaults(command=_grade)
    options = parser.parse_args(arguments)
    try:
        return options.command(options)
    except (GradingError, CacheError) as error:
        print(error, file=sys.stderr)
        return 2


def _grade(options: argparse.Namespace) -> int:
    if not options.out.parent.is_dir():
        raise GradingError(f"There is no folder {options.out.parent} to write {options.out.name} to: make it first.")
    grades = []
    for rows in grade_folder(options.submissions):
        grades += rows
        points, possible = (sum(getattr(row, name) for row in rows) for name in ("points", "possible"))
        print(f"{rows[0].file}: {points} of {possible} points", flush=True)
    found = table(grades)
    with atomic_path(options.out) as temporary:
        found.to_csv(temporary, index=False)
    print(f"\n{summary(found).to_string()}\n\n{len(found)} rows are in {options.out}")
    return 1 if (found["exercise"] == "").any() else 0


if __name__ == "__main__":
    sys.exit(main())
