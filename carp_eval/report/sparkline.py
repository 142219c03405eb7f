"""A curve in a line of text."""

import math
from collections.abc import Sequence
from itertools import pairwise

LEVELS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], *, width: int = 24) -> str:
    """Draw numbers as a line of blocks, the lowest as the lowest block and the highest as the highest.

    Args:
        values: In order. One that is no finite number leaves a gap.
        width: Blocks at most; of more values, each block is the mean of as many as fall to it.

    Returns:
        The line; empty where there is nothing to draw. Numbers that are all alike are drawn half-way up.
    """
    if not values or width < 1:
        return ""
    blocks = min(width, len(values))
    edges = [place * len(values) // blocks for place in range(blocks + 1)]
    means = [_mean(values[start:end]) for start, end in pairwise(edges)]
    known = [mean for mean in means if mean is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    return "".join(" " if mean is None else _block(mean, low, high) for mean in means)


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(value / len(finite) for value in finite) if finite else None


def _block(value: float, low: float, high: float) -> str:
    if low == high:
        return LEVELS[len(LEVELS) // 2]
    # Halves first: the span of the largest numbers is none.
    share = (value / 2 - low / 2) / (high / 2 - low / 2)
    return LEVELS[min(int(share * len(LEVELS)), len(LEVELS) - 1)]
