"""How much of a step's time goes by waiting for images, and what to do about it."""

import math
import os
import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import torch

from carp_eval.data.training_batches import TrainingBatch

# Workers start with the first steps, and what is compiled or chosen by trial takes its time there.
UNCOUNTED_STEPS = 3
# So many of the last steps are looked at, and so many are enough to judge by.
WINDOW, ENOUGH = 50, 20
TOO_MUCH = 0.2


class _Moment(NamedTuple):
    """A time on this machine's clock, and in a GPU's queue."""

    seconds: float
    event: torch.cuda.Event | None


class Waiting:
    """Watches a training ask for batches.

    Attributes:
        steps: Steps that were counted so far.
    """

    def __init__(self, device: torch.device) -> None:
        """Begin.

        Args:
            device: Where steps are taken. Of a GPU, what counts is the time in which it has nothing to do: it may be
                busy with the last step while this process waits.
        """
        self._device = device
        self._uncounted = UNCOUNTED_STEPS
        self._unread: deque[tuple[_Moment, _Moment, float]] = deque()
        self._taken: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self.steps = 0

    def watch(self, batches: Iterator[TrainingBatch]) -> Iterator[TrainingBatch]:
        """Yield batches, and note how long each was waited for and how long its step took."""
        asked = self._now()
        while (batch := next(batches, None)) is not None:
            had = self._now()
            yield batch
            asked_again = self._now()
            if self._uncounted:
                self._uncounted -= 1
            else:
                self._unread.append((asked, had, asked_again.seconds - asked.seconds))
                self.steps += 1
            asked = asked_again

    @property
    def share(self) -> float:
        """Share of the last steps' time that went by waiting; 0 before the first that counts."""
        lost, whole = self._sums()
        return lost / whole if whole else 0.0

    @property
    def seconds(self) -> tuple[float, float]:
        """Mean time of a step that went by waiting, and of a whole step; 0 before the first that counts."""
        lost, whole = self._sums()
        count = max(1, len(self._taken))
        return lost / count, whole / count

    def _now(self) -> _Moment:
        event = None
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
        return _Moment(time.perf_counter(), event)

    def _sums(self) -> tuple[float, float]:
        while self._unread:
            asked, had, whole = self._unread[0]
            if asked.event is None or had.event is None:
                lost = had.seconds - asked.seconds
            elif had.event.query():
                # The first is reached when all work that was queued before is done, so between them there was none.
                lost = asked.event.elapsed_time(had.event) / 1000
            else:
                break
            self._unread.popleft()
            self._taken.append((min(lost, whole), whole))
        return math.fsum(lost for lost, _ in self._taken), math.fsum(whole for _, whole in self._taken)


def advice(waiting: Waiting, *, batch_size: int, augment: str, num_workers: int) -> str:
    """Say in a line that loading cannot keep up and what to change; nothing where it can.

    Args:
        waiting: What was seen so far.
        batch_size: Images in a step, over all processes.
        augment: Where views are made, as `data.augment` of the recipe says.
        num_workers: Processes that load images for this one.
    """
    if waiting.share < TOO_MUCH:
        return ""
    cores = _cores()
    lost, whole = waiting.seconds
    remedies: list[str] = []
    if num_workers < cores:
        remedies.append(f"more workers (--workers; there are {num_workers}, and {cores} cores)")
    if augment == "per_image":
        remedies.append("data.augment=on_device, which leaves less to the workers")
    remedies.append("images that are stored smaller")
    remedies.append("a machine with more cores")
    fast = f", and could take {batch_size / (whole - lost):.0f}" if whole - lost > 0.01 * whole else ""
    return (
        f"warning: {waiting.share:.0%} of a step's time goes by waiting for images: training takes "
        f"{batch_size / whole:.0f} a second{fast}. What helps: {', or '.join(remedies[:2])}"
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
