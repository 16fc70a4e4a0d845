"""The house has its rooms: small modules, imports that run downwards, and one name a thing."""

from __future__ import annotations

import ast
import functools
import graphlib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hyperfit_course"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(path for folder in ("tools", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py"))

BESIDE_THE_CORE = {"checks", "labs", "study", "commands", "grading", "plots", "display", "live", "colab", "cli"}
BESIDE_THE_CORE |= {"own_texts", "optimizers", "processes"}
"""What a student need not read to know how it works."""
CORE_LINES = 3000
ROOMS_BELOW = {
    "core": {"core"},
    "plots": {"core"},
    "display": {"core"},
    "live": {"core"},
    "study": {"core", "plots", "study"},  # a report has pictures
    "labs": {"core", "study", "labs"},
    "checks": {"core", "checks"},
    "grading": {"core", "checks", "grading"},
    "colab": {"core"},
    "commands": {"core", "study", "commands", "grading"},
    "cli": {"core", "commands"},
}
"""What each room may import. The labs are each a room of their own: a lab imports no other, but what they share."""
SHARED_BY_LABS = {"hyperfit_course.labs", "hyperfit_course.labs.tiny", "hyperfit_course.labs.tiny_training"}


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """The names of all modules that a file may import, wherever the statement stands: types and functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: name the package in the import, so that it can be followed"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def module_name(path: Path) -> str:
    """The name by which other files import one."""
    folder = next((ROOT / name for name in ("tools", "benchmarks", "tests") if (ROOT / name) in path.parents), ROOT)
    return ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")


def graph(paths: list[Path]) -> dict[str, set[str]]:
    """For each module those of the others that it imports."""
    known = {module_name(path) for path in paths}
    return {module_name(path): (imports(path) & known) - {module_name(path)} for path in paths}


def room(name: str) -> str:
    """The room of a module of the package."""
    first = [*name.split("."), ""][1]
    return first if first in ROOMS_BELOW else "core"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_has_at_most_300_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, "split it by concepts"


def test_the_core_can_be_read_in_an_evening() -> None:
    core = [path for path in MODULES if not BESIDE_THE_CORE & set(path.relative_to(PACKAGE).with_suffix("").parts)]
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in core) <= CORE_LINES


def test_no_imports_go_round_in_a_circle() -> None:
    everything = graph([*MODULES, *SCRIPTS])
    assert everything["hyperfit_course.training"] > {"hyperfit_course.losses"}, "the imports were not found"
    list(graphlib.TopologicalSorter(everything).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_downwards(path: Path) -> None:
    name = module_name(path)
    for other in graph(MODULES)[name] - {"hyperfit_course"}:
        assert room(other) in ROOMS_BELOW[room(name)], f"{name} imports {other}"
        assert room(other) != "labs" or (room(name) == "labs" and other in SHARED_BY_LABS), (
            f"{name} imports {other}: a lab imports no other, and nothing imports a lab"
        )


@pytest.mark.parametrize(
    ("module", "line", "message"),
    [
        ("labs/first.py", "from hyperfit_course.labs import second", "imports hyperfit_course.labs.second"),
        ("training.py", "def f():\n    import hyperfit_course.labs.second", "imports hyperfit_course.labs"),
        ("training.py", "from hyperfit_course.study.arms import Arm", "imports hyperfit_course.study"),
        ("study/arms.py", "from hyperfit_course import checks", "imports hyperfit_course.checks"),
    ],
)
def test_an_import_upwards_would_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, line: str, message: str
) -> None:
    package = tmp_path / "hyperfit_course"
    for name in (
        module,
        "labs/__init__.py",
        "labs/second.py",
        "study/__init__.py",
        "study/arms.py",
        "checks/__init__.py",
    ):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("", encoding="utf-8")
    (package / module).write_text(line, encoding="utf-8")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "MODULES", sorted(package.rglob("*.py")))
    with pytest.raises(AssertionError, match=message):
        test_imports_run_downwards(package / module)


def test_no_two_modules_or_scripts_have_one_name() -> None:
    scripts = [path for path in [*MODULES, *SCRIPTS] if path.stem != "__init__" and "answers" not in path.parts]
    names = Counter(path.stem for path in scripts)
    # `results` is the folder of recorded numbers.
    assert {name for name, count in names.items() if count > 1 or name == "results"} == set()
