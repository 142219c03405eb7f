"""Where the seconds of preparing images go, by stage, in the process that prepares them."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Spent(NamedTuple):
    """Time that a stage took.

    Attributes:
        wall: Seconds that went by.
        core: Seconds that a core worked for it.
        queued: Seconds that it waited for a core, as far as the system tells; the rest was waiting for a disk.
    """

    wall: float = 0.0
    core: float = 0.0
    queued: float = 0.0

    def plus(self, other: "Spent") -> "Spent":
        """Return the sum of both."""
        return Spent(self.wall + other.wall, self.core + other.core, self.queued + other.queued)

    def minus(self, other: "Spent") -> "Spent":
        """Return what is left without the other."""
        return self.plus(Spent(-other.wall, -other.core, -other.queued))


Laps = dict[str, Spent]

# Of the process, not of a loader: the decoder that is timed knows of no loader.
_running: list[Laps] = []


def is_running() -> bool:
    """Tell whether anybody asked for the time."""
    return bool(_running)


@contextmanager
def running() -> Generator[Laps]:
    """Take the time of the block's laps, by name."""
    laps: Laps = {}
    _running.append(laps)
    try:
        yield laps
    finally:
        # By what it is: what another has counted may be equal.
        _running[:] = [others for others in _running if others is not laps]


@contextmanager
def lap(stage: str) -> Generator[None]:
    """Add the block's time to a stage, where anybody asked for it."""
    if not _running:
        yield
        return
    started = _now()
    try:
        yield
    finally:
        spent = _now().minus(started)
        for laps in _running:
            laps[stage] = laps.get(stage, Spent()).plus(spent)


def _now() -> Spent:
    try:
        # Linux tells it of every thread, in nanoseconds; others do not.
        queued = int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        queued = 0.0
    return Spent(time.perf_counter(), time.thread_time(), queued)
