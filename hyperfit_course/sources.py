"""Which code does a result come from? The modules that some code imports, and a hash of what they do.

A kept result is true for the code that gave it and for no other. So its key holds a hash of that code, found by
following imports through the package. Comments, layout and docstrings do nothing, and are not in the hash.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
OUTSIDE_KEYS = ("artifacts", "assets", "metrics", "models", "sources")
"""Modules whose code is in no key of a kept result: what they give is in the key itself (a model's weights), or is
computed anew whenever the result is read (the repetition of kept texts)."""


def modules_of(code: str, package: Path = PACKAGE, leave_out: Collection[str] = ()) -> list[Path]:
    """The modules of a package that some code imports, directly or through one another.

    An import counts wherever it stands, inside a function too.

    Args:
        code: Python, such as ``"import hyperfit_course.training"``.
        package: the folder of the package.
        leave_out: names of modules, without the package's, that are neither listed nor followed.

    Returns:
        Their files, sorted, with the ``__init__.py`` of every package on the way.

    Raises:
        SyntaxError: the code, or a module, is no Python.
    """
    found: set[Path] = set()
    waiting = [ast.parse(code)]
    while waiting:
        for path in _imported(waiting.pop(), package):
            if path not in found and path.relative_to(package).with_suffix("").as_posix() not in leave_out:
                found.add(path)
                waiting.append(_parsed(path))
    return sorted(found)


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _imported(tree: ast.AST, package: Path) -> Iterator[Path]:
    """Files of the package that the import statements in a syntax tree run."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # What is imported from a package may be one of its modules.
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            first, *inside = name.split(".")
            if first == package.name:
                yield from _files(package, inside)


def _files(package: Path, inside: list[str]) -> Iterator[Path]:
    for depth in range(len(inside) + 1):
        place = package.joinpath(*inside[:depth])
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                yield path


def code_digest(paths: Iterable[Path]) -> str:
    """Hash of what the code in some files does, in hexadecimal: of their syntax trees without docstrings."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.stem}: {ast.dump(_WithoutStrings().visit(_parsed(path)))}\n".encode())
    return digest.hexdigest()


def code_behind(module: str) -> str:
    """Hash of the code that a result kept by a module depends on, for its key: of all but :data:`OUTSIDE_KEYS`."""
    return code_digest(modules_of(f"import {module}", leave_out=OUTSIDE_KEYS))


class _WithoutStrings(ast.NodeTransformer):
    """Takes out strings that are statements: docstrings, of modules, functions, classes and values."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """A statement that is an expression alone."""
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node
