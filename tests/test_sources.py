from __future__ import annotations

import functools
from pathlib import Path

import pytest

from hyperfit_course import sources
from hyperfit_course.sources import code_behind, code_digest, modules_of

ONE = """
class Counter:
    step = 2

    def count(self, start: int) -> int:
        return start + self.step


LIMIT = 3
"""
SAME = {
    "docstring of the module": '"""What this is for."""\n' + ONE,
    "docstring of a class": ONE.replace("    step = 2", '    """Counts."""\n\n    step = 2'),
    "docstring of a function": ONE.replace("        return", '        """The next one."""\n        return'),
    "docstring of a value": ONE + '"""The largest number."""\n',
    "docstring of a field": ONE.replace("    step = 2", '    step = 2\n    """Of each count."""'),
    "comments": ONE.replace("LIMIT = 3", "# why\nLIMIT = 3  # because"),
    "layout": ONE.replace("LIMIT = 3", "LIMIT = (\n\n    3\n)\n\n\n"),
}
OTHER = {
    "a value": ONE.replace("LIMIT = 3", "LIMIT = 4"),
    "an operation": ONE.replace("start +", "start -"),
    "a name": ONE.replace("LIMIT", "MOST"),
    "a text that is used": ONE.replace("LIMIT = 3", 'LIMIT = "3"'),
    "one statement more": ONE + "print(LIMIT)\n",
    "the order of statements": "LIMIT = 3\n" + ONE.replace("LIMIT = 3\n", ""),
}


def digest(tmp_path: Path, code: str, name: str = "module.py") -> str:
    path = tmp_path / name
    path.write_text(code, encoding="utf-8")
    return code_digest([path])


@pytest.mark.parametrize("code", SAME.values(), ids=SAME)
def test_docstrings_comments_and_layout_do_not_change_the_digest(code: str, tmp_path: Path) -> None:
    assert code != ONE
    assert digest(tmp_path, code) == digest(tmp_path, ONE)


@pytest.mark.parametrize("code", OTHER.values(), ids=OTHER)
def test_code_changes_the_digest(code: str, tmp_path: Path) -> None:
    assert code != ONE
    assert digest(tmp_path, code) != digest(tmp_path, ONE)


def test_docstring_that_is_a_whole_body_does_not_change_the_digest(tmp_path: Path) -> None:
    codes = [f'class Failure(Exception):\n    """{why}"""\n' for why in ("It failed.", "The run failed.")]
    assert digest(tmp_path, codes[0]) == digest(tmp_path, codes[1])


def test_code_digest_sees_code_and_not_comments(tmp_path: Path) -> None:
    codes = ["x = 1 + 2\n", "# why\nx = (1 +\n     2)  # because\n", "x = 1 + 3\n"]
    digests = [digest(tmp_path, code) for code in codes]
    assert digests[0] == digests[1] != digests[2]


def test_digest_is_of_all_files_and_their_names(tmp_path: Path) -> None:
    paths = [tmp_path / "a.py", tmp_path / "b.py"]
    for path in paths:
        path.write_text(ONE, encoding="utf-8")
    assert len({code_digest(files) for files in (paths, paths[:1], paths[1:], [])}) == 4
    before = code_digest(paths)
    paths[1].write_text(OTHER["a value"], encoding="utf-8")
    assert code_digest(paths) != before


def test_code_that_moves_from_file_to_file_changes_the_digest(tmp_path: Path) -> None:
    paths = [tmp_path / "a.py", tmp_path / "b.py"]
    digests = []
    for codes in (("x = 1\n", "y = 2\n"), ("x = 1\ny = 2\n", ""), ("y = 2\n", "x = 1\n")):
        for path, code in zip(paths, codes, strict=True):
            path.write_text(code, encoding="utf-8")
        digests.append(code_digest(paths))
    assert len(set(digests)) == 3


# Imports

FILES = {
    "__init__.py": "",
    "base.py": "import math\nimport numpy.linalg\n",
    "middle.py": "from course.base import something\n",
    "top.py": "import course.middle\nfrom collections import Counter\n",
    "lazy.py": "def late():\n    if True:\n        from course.base import something\n    return something\n",
    "ring_a.py": "import course.ring_b\n",
    "ring_b.py": "import course.ring_a\n",
    "lonely.py": "",
    "unused.py": "import course.lonely\n",
    "bare.py": "import course\n",
    "other.py": "import courses.base\nfrom cours import base\nimport base, middle\n",
    "inside/__init__.py": "from course.inside.first import thing\n",
    "inside/first.py": "thing = 1\n",
    "inside/second.py": "import course.base\n",
    "plain/__init__.py": "",
    "plain/one.py": "",
    "plain/two.py": "",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package ``course`` of small modules."""
    for name, code in FILES.items():
        path = tmp_path / "course" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, encoding="utf-8")
    return tmp_path / "course"


def names(paths: list[Path], package: Path) -> set[str]:
    assert paths == sorted(set(paths)), "the files are not sorted, or one is there twice"
    assert package / "__init__.py" in paths or not paths
    return {path.relative_to(package).as_posix() for path in paths} - {"__init__.py"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import course.base", {"base.py"}),
        ("import course.top", {"top.py", "middle.py", "base.py"}),
        ("import course.top as t, course.lonely", {"top.py", "middle.py", "base.py", "lonely.py"}),
        ("from course.middle import something", {"middle.py", "base.py"}),
        ("from course import base, lonely", {"base.py", "lonely.py"}),
        ("from course import base as b", {"base.py"}),
        ("from course.lazy import late", {"lazy.py", "base.py"}),
        ("def f():\n    import course.middle", {"middle.py", "base.py"}),
        ("class C:\n    def f(self):\n        from course import middle", {"middle.py", "base.py"}),
        ("try:\n    import course.base\nexcept ImportError:\n    import course.lonely", {"base.py", "lonely.py"}),
        ("import course.ring_a", {"ring_a.py", "ring_b.py"}),
        ("from course.plain import one", {"plain/__init__.py", "plain/one.py"}),
        ("import course.plain.two", {"plain/__init__.py", "plain/two.py"}),
        ("import course.inside.second", {"inside/__init__.py", "inside/first.py", "inside/second.py", "base.py"}),
        ("from course.inside import thing", {"inside/__init__.py", "inside/first.py"}),
        ("import course.bare", {"bare.py"}),
        ("import course", set()),
        ("from course import nothing", set()),
    ],
)
def test_modules_are_those_that_run_when_the_code_runs(code: str, expected: set[str], package: Path) -> None:
    assert names(modules_of(code, package), package) == expected


@pytest.mark.parametrize(
    "code",
    [
        "import math\nfrom collections import Counter",
        "import base, middle",
        "import courses.base\nfrom courses import base",
        "import numpy.course.base",
        '"import course.base"\n# import course.base',
        "",
    ],
)
def test_names_outside_the_package_are_ignored(code: str, package: Path) -> None:
    assert modules_of(code, package) == []


def test_module_that_imports_from_elsewhere_brings_nothing_of_the_package(package: Path) -> None:
    assert names(modules_of("import course.other", package), package) == {"other.py"}


@pytest.mark.parametrize(
    ("code", "left_out", "expected"),
    [
        ("import course.top", ["middle"], {"top.py"}),  # base is behind it, and nothing else leads there
        ("import course.top, course.base", ["middle"], {"top.py", "base.py"}),
        ("import course.top", ["base", "lonely"], {"top.py", "middle.py"}),
        ("import course.top", ["top"], set()),
        ("import course.top", ["mid", "iddle", "course.middle"], {"top.py", "middle.py", "base.py"}),
        ("import course.inside.second", ["inside/first"], {"inside/__init__.py", "inside/second.py", "base.py"}),
    ],
)
def test_modules_that_are_named_are_neither_listed_nor_followed(
    code: str, left_out: list[str], expected: set[str], package: Path
) -> None:
    assert names(modules_of(code, package, leave_out=left_out), package) == expected


def test_module_that_is_no_python_is_reported(package: Path) -> None:
    (package / "base.py").write_text("def broken(:\n", encoding="utf-8")
    with pytest.raises(SyntaxError):
        modules_of("import course.top", package)


def test_every_module_that_training_needs_is_behind_it_and_no_metric() -> None:
    found = {path.stem for path in modules_of("import hyperfit_course.training", leave_out=sources.OUTSIDE_KEYS)}
    assert {"training", "evaluation", "checkpoints", "frozen", "losses", "decoding", "temperature"} <= found
    assert not found & {*sources.OUTSIDE_KEYS, "plots", "display", "geometry", "claims"}


def test_modules_that_are_left_out_of_keys_exist() -> None:
    assert all((sources.PACKAGE / f"{name}.py").is_file() for name in sources.OUTSIDE_KEYS)


def test_code_behind_a_module_changes_with_what_it_imports_and_with_nothing_else(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(name: str) -> str:
        path = package / name
        path.write_text(path.read_text(encoding="utf-8") + "changed = True\n", encoding="utf-8")
        return code_behind("course.top")

    monkeypatch.setattr(sources, "OUTSIDE_KEYS", ("left_out",))
    monkeypatch.setattr(sources, "modules_of", functools.partial(modules_of, package=package))
    (package / "left_out.py").write_text("", encoding="utf-8")
    (package / "top.py").write_text(FILES["top.py"] + "import course.left_out\n", encoding="utf-8")
    before = code_behind("course.top")
    assert changed("lonely.py") == changed("left_out.py") == before
    deeper = changed("base.py")
    assert deeper != before
    assert changed("top.py") not in (before, deeper)
