"""Is my answer right, and if not, why? One module for each page with exercises, one function for each exercise.

A check takes the function that you wrote, tries it on several inputs, and says which property failed or that all is
well. :func:`progress` shows what is solved.

No module of a page is imported here, so that a notebook depends on the checks of its own page only.
"""

import importlib
import pkgutil

import pandas as pd

from hyperfit_course.checks.record import EXERCISES, progress_table

PAGES = ("chapter_", "lab_")  #: How the names of the pages' modules begin.


def exercises() -> dict[str, dict[str, int]]:
    """The exercises of every page, in their order, and the points of each: chapters by their number, then labs."""
    pages = [module.name for module in pkgutil.iter_modules(__path__) if module.name.startswith(PAGES)]
    for page in pages:
        importlib.import_module(f"{__name__}.{page}")
    return {page: dict(EXERCISES[page]) for page in pages}


def progress() -> pd.DataFrame:
    """Your exercises: one row each, with the number of attempts and the day on which it was solved."""
    return progress_table({page: list(names) for page, names in exercises().items()})
