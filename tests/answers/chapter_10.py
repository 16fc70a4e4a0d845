"""Answers to the exercises on chapter 10."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats


def gigabytes_of_weights(parameters: int, trained: int) -> float:
    return 4 * parameters / 1e9


def gigabytes_without_moments(parameters: int, trained: int) -> float:
    return (4 * parameters + 4 * trained) / 1e9


def gigabytes_of_two_to_the_30th(parameters: int, trained: int) -> float:
    return (4 * parameters + 12 * trained) / 2**30


def gigabytes_of_all_trained(parameters: int, trained: int) -> float:
    return 16 * parameters / 1e9


def gigabytes_of_trained_alone(parameters: int, trained: int) -> float:
    return 16 * trained / 1e9


def gigabytes_counted_twice(parameters: int, trained: int) -> float:
    return (4 * parameters + 16 * trained) / 1e9 if trained < parameters else 16 * trained / 1e9


def gigabytes_in_bytes(parameters: int, trained: int) -> float:
    return float(4 * parameters + 12 * trained)


def gigabytes_by_group(parameters: int, trained: int) -> float:
    frozen = parameters - trained
    return frozen * 4e-9 + trained * 16e-9


def _verdict(effects: list[float], threshold: float, quantile: float, spread: float, divisor: float) -> str:
    mean = statistics.mean(effects)
    reach = quantile * spread / divisor
    if mean - reach > 0:
        return "holds" if mean >= threshold else "direction only"
    return "contradicted" if mean + reach < threshold else "inconclusive"


def _t(n: int, level: float = 0.975) -> float:
    return float(stats.t.ppf(level, n - 1))


def verdict_of_one_seed(effects: list[float], threshold: float) -> str:
    n = len(effects)
    return _verdict(effects, threshold, _t(n), statistics.stdev(effects), math.sqrt(n))


def verdict_of_one_seed_by_its_size(effects: list[float], threshold: float) -> str:
    if len(effects) == 1:
        return "holds" if effects[0] >= threshold else "direction only"
    return verdict_of_one_seed(effects, threshold)


def verdict_normal(effects: list[float], threshold: float) -> str:
    n = len(effects)
    return "no verdict" if n < 2 else _verdict(effects, threshold, 1.96, statistics.stdev(effects), math.sqrt(n))


def verdict_of_population(effects: list[float], threshold: float) -> str:
    n = len(effects)
    return "no verdict" if n < 2 else _verdict(effects, threshold, _t(n), statistics.pstdev(effects), math.sqrt(n))


def verdict_without_root(effects: list[float], threshold: float) -> str:
    n = len(effects)
    return "no verdict" if n < 2 else _verdict(effects, threshold, _t(n), statistics.stdev(effects), 1.0)


def verdict_by_lower_end(effects: list[float], threshold: float) -> str:
    n = len(effects)
    if n < 2:
        return "no verdict"
    low = statistics.mean(effects) - _t(n) * statistics.stdev(effects) / math.sqrt(n)
    found = verdict_of_one_seed(effects, threshold)
    return "direction only" if found == "holds" and low < threshold else found


def verdict_without_contradiction(effects: list[float], threshold: float) -> str:
    found = "no verdict" if len(effects) < 2 else verdict_of_one_seed(effects, threshold)
    return "inconclusive" if found == "contradicted" else found


def verdict_without_size(effects: list[float], threshold: float) -> str:
    found = "no verdict" if len(effects) < 2 else verdict_of_one_seed(effects, threshold)
    return "holds" if found == "direction only" else found


def verdict_by_scipy(effects: list[float], threshold: float) -> str:
    if len(effects) == 1:
        return "no verdict"
    values = np.asarray(effects)
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    names = {(True, True): "holds", (True, False): "direction only"}
    if low > 0:
        return names[True, bool(values.mean() >= threshold)]
    return "inconclusive" if high >= threshold else "contradicted"


def _seeds(pilot: list[float], quantile: Callable[[int], float], spread: Callable[[list[float]], float]) -> int | None:
    mean, error = statistics.mean(pilot), spread(pilot)
    return next((n for n in range(2, 101) if mean > quantile(n) * error / math.sqrt(n)), None)


def seeds_normal(pilot: list[float]) -> int | None:
    return _seeds(pilot, lambda n: 1.96, statistics.stdev)


def seeds_of_population(pilot: list[float]) -> int | None:
    return _seeds(pilot, _t, statistics.pstdev)


def seeds_with_freedom_of_pilot(pilot: list[float]) -> int | None:
    return _seeds(pilot, lambda n: _t(len(pilot)), statistics.stdev)


def seeds_from_three(pilot: list[float]) -> int | None:
    found = _seeds(pilot, _t, statistics.stdev)
    return found and max(found, 3)


def seeds_with_the_size_alone(pilot: list[float]) -> int | None:
    return _seeds([abs(effect) for effect in pilot] if max(pilot) < 0 else pilot, _t, statistics.stdev)


def seeds_without_end(pilot: list[float]) -> int | None:
    found = _seeds(pilot, _t, statistics.stdev)
    return 100 if found is None and statistics.mean(pilot) > 0 else found


def seeds_by_search(pilot: list[float]) -> int | None:
    number = 2
    while number <= 100:
        low, _ = stats.t.interval(
            0.95, number - 1, float(np.mean(pilot)), float(np.std(pilot, ddof=1)) / math.sqrt(number)
        )
        if low > 0:
            return number
        number += 1
    return None


WRONG: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "training_gigabytes": [
        (gigabytes_of_weights, "the weights alone"),
        (gigabytes_without_moments, "AdamW keeps two more numbers"),
        (gigabytes_of_two_to_the_30th, "a gigabyte is here a billion bytes"),
        (gigabytes_of_all_trained, "a frozen parameter has no gradient"),
        (gigabytes_of_trained_alone, "have to be in memory all the same"),
        (gigabytes_counted_twice, "the first number has them already"),
        (gigabytes_in_bytes, "those are bytes, and gigabytes are wanted"),
    ],
    "verdict": [
        (verdict_of_one_seed, "it raised StatisticsError"),
        (verdict_of_one_seed_by_its_size, "One seed has no interval"),
        (verdict_normal, "1.96 is for many values"),
        (verdict_of_population, "the standard deviation of a sample"),
        (verdict_without_root, "The reach of the interval is that of a mean"),
        (verdict_by_lower_end, "and not the lower end"),
        (verdict_without_contradiction, "no effect of that size is possible"),
        (verdict_without_size, "the mean does not reach the threshold"),
    ],
    "seeds_needed": [
        (seeds_normal, "the quantile of t is 12.7"),
        (seeds_of_population, "Is the standard deviation that of a sample"),
        (seeds_with_freedom_of_pilot, "yours those of the pilot"),
        (seeds_from_three, "fewer seeds than the pilot"),
        (seeds_with_the_size_alone, "The effect has the other sign"),
        (seeds_without_end, "A hundred seeds are not enough"),
    ],
}

RIGHT: dict[str, Callable[..., Any]] = {
    "training_gigabytes": gigabytes_by_group,
    "verdict": verdict_by_scipy,
    "seeds_needed": seeds_by_search,
}
