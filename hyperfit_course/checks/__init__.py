"""Is my answer right, and if not, why? One function for each exercise.

A check takes the function that you wrote, tries it on several inputs, and says which property failed or that all is
well. :func:`progress` shows what is solved.
"""

import pandas as pd

from hyperfit_course.checks.chapter_01 import find_loop, ngram_repetition, type_token_ratio
from hyperfit_course.checks.chapter_02 import bootstrap_interval, train
from hyperfit_course.checks.chapter_03 import entropy, keeps_order, match_temperature
from hyperfit_course.checks.chapter_04 import deep_tail_share, static_bias, token_ranks
from hyperfit_course.checks.chapter_05 import outlier_dimensions, participation_ratio, participation_ratio_by_traces
from hyperfit_course.checks.chapter_06 import (
    binomial_p,
    layers_that_explain,
    lora_forward,
    states_before,
    trained_blocks,
)
from hyperfit_course.checks.record import progress_table

EXERCISES = {
    "01": {"type_token_ratio": 1, "ngram_repetition": 2, "find_loop": 3},
    "02": {"train": 3, "bootstrap_interval": 2},
    "03": {"entropy": 2, "match_temperature": 2, "keeps_order": 1},
    "04": {"token_ranks": 2, "deep_tail_share": 1, "static_bias": 3},
    "05": {"participation_ratio": 2, "participation_ratio_by_traces": 2, "outlier_dimensions": 2},
    "06": {"trained_blocks": 1, "lora_forward": 2, "states_before": 3, "layers_that_explain": 1, "binomial_p": 2},
}
"""The exercises of each chapter, in their order, and the points of each."""


def progress() -> pd.DataFrame:
    """Your exercises: one row each, with the number of attempts and the day on which it was solved."""
    return progress_table({chapter: list(names) for chapter, names in EXERCISES.items()})


__all__ = [
    "binomial_p",
    "bootstrap_interval",
    "deep_tail_share",
    "entropy",
    "find_loop",
    "keeps_order",
    "layers_that_explain",
    "lora_forward",
    "match_temperature",
    "ngram_repetition",
    "outlier_dimensions",
    "participation_ratio",
    "participation_ratio_by_traces",
    "progress",
    "states_before",
    "static_bias",
    "token_ranks",
    "train",
    "trained_blocks",
    "type_token_ratio",
]
