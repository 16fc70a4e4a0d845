"""Is my answer right, and if not, why? One function for each exercise.

A check takes the function that you wrote, tries it on several inputs, and says which property failed or that all is
well. :func:`progress` shows what is solved.
"""

import pandas as pd

from hyperfit_course.checks.chapter_01 import find_loop, ngram_repetition, type_token_ratio
from hyperfit_course.checks.chapter_03 import entropy, keeps_order, match_temperature
from hyperfit_course.checks.chapter_04 import deep_tail_share, static_bias, token_ranks
from hyperfit_course.checks.record import progress_table

EXERCISES = {
    "01": ["type_token_ratio", "ngram_repetition", "find_loop"],
    "03": ["entropy", "match_temperature", "keeps_order"],
    "04": ["token_ranks", "deep_tail_share", "static_bias"],
}


def progress() -> pd.DataFrame:
    """Your exercises: one row each, with the number of attempts and the day on which it was solved."""
    return progress_table(EXERCISES)


__all__ = [
    "deep_tail_share",
    "entropy",
    "find_loop",
    "keeps_order",
    "match_temperature",
    "ngram_repetition",
    "progress",
    "static_bias",
    "token_ranks",
    "type_token_ratio",
]
