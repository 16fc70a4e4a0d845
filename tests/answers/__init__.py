"""Answers that people give, page by page: wrong ones with the words that name the fault, and other right ones.

A module has the name of the checks' module that its answers are for.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple


class Wrong(NamedTuple):
    """An answer with a mistake, and a part of the message that it should get."""

    answer: Callable[..., Any]
    message: str


PAGES = {found.name: importlib.import_module(f"answers.{found.name}") for found in pkgutil.iter_modules(__path__)}
WRONG = {
    (page, name): [Wrong(*pair) for pair in pairs]
    for page, module in PAGES.items()
    for name, pairs in getattr(module, "WRONG", {}).items()
}
RIGHT: dict[tuple[str, str], Callable[..., Any]] = {
    (page, name): right for page, module in PAGES.items() for name, right in getattr(module, "RIGHT", {}).items()
}
