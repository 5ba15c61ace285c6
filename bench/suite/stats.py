"""Medians, percentiles and ratios of interleaved rounds. Pure functions."""

import math
import random
import statistics
from collections.abc import Iterable, Sequence


def median(values: Iterable[float]) -> float:
    """nan when there is none."""
    found = [v for v in values if not math.isnan(v)]
    return statistics.median(found) if found else math.nan


def quantiles(samples: Sequence[float], wanted: Sequence[float] = (50, 99, 99.9)) -> dict[str, float]:
    """Nearest rank: {"p50": …, "p99": …, "p99.9": …}; nan without samples."""
    ordered = sorted(samples)
    if not ordered:
        return {f"p{q:g}": math.nan for q in wanted}
    return {f"p{q:g}": ordered[min(len(ordered) - 1, max(0, math.ceil(q / 100 * len(ordered)) - 1))] for q in wanted}


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Smallest and largest; nan when there is none."""
    found = [v for v in values if not math.isnan(v)]
    return (min(found), max(found)) if found else (math.nan, math.nan)


def ratio(above: dict[int, float], below: dict[int, float]) -> float:
    """Median over the rounds that both have of above/below: figures of one moment are compared, then the moments are summed up.

    A busy neighbour slows both sides of one round, so this is steadier than the ratio of two medians.
    """
    rounds = [r for r in above if r in below and below[r] > 0 and not math.isnan(above[r])]
    return median(above[r] / below[r] for r in rounds)


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Times of a Poisson process from 0 up to `seconds`: what an open loop starts its calls at."""
    if rate <= 0:
        raise ValueError(f"not a rate: {rate}")
    rng = random.Random(seed)
    times, now = [], rng.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += rng.expovariate(rate)
    return times
