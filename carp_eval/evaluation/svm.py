"""Many linear support vector machines at once: every core trains one, and all read one copy of the features."""

import math
import os
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from jaxtyping import Bool, Float64, Int8

from carp_eval.cards.voc07 import SvmCard
from carp_eval.evaluation import liblinear, scaled
from carp_eval.evaluation.liblinear import Machine, Solver
from carp_eval.evaluation.unfinished import Unfinished
from carp_eval.features.extraction.running import Progress

# LIBLINEAR holds a number and its column for each value.
BYTES_PER_VALUE = 16
SECONDS_BETWEEN_SAVES = 10.0


class Task(NamedTuple):
    """One machine to train, and what to ask of it.

    Attributes:
        features: In C order; many tasks share them.
        targets: 1 or -1; rows of 0 are left out.
        cost: LIBLINEAR's C.
        judge: What is kept of the machine: as many numbers as of every other in the list.
    """

    features: Float64[np.ndarray, "row dim"]
    targets: Int8[np.ndarray, " row"]
    cost: float
    judge: Callable[[Machine], Float64[np.ndarray, " value"]]


class Judged(NamedTuple):
    """What was kept of each machine, in the order of the tasks.

    Attributes:
        values: What its judge said.
        unconverged: Whether training stopped at the most iterations there may be.
    """

    values: Float64[np.ndarray, "task value"]
    unconverged: Bool[np.ndarray, " task"]


class Kept:
    """What was judged so far, by the name of its list; a run that was stopped begins with what it had.

    Attributes:
        made_of: What tells the features from all others: their banks' fingerprints.
    """

    def __init__(self, made_of: str, unfinished: Unfinished | None = None) -> None:
        """Take up what a stopped run has left.

        Args:
            made_of: What tells the features from all others.
            unfinished: Where a run keeps what stopping it would lose; None keeps nothing.
        """
        self.made_of = made_of
        self._unfinished = unfinished
        left: dict[str, Any] = (unfinished.load() if unfinished is not None else None) or {}
        self._lists: dict[str, torch.Tensor] = left["lists"] if left.get("made_of") == made_of else {}

    def rows(self, name: str, shape: tuple[int, int]) -> Float64[np.ndarray, "task value"]:
        """Return a list's rows, to be filled in place; of NaN where a task is not done."""
        if name not in self._lists or tuple(self._lists[name].shape) != shape:
            self._lists[name] = torch.full(shape, torch.nan, dtype=torch.float64)
        return self._lists[name].numpy()

    def save(self) -> None:
        """Write down what is there.

        Raises:
            StorageError: If the disk is full, read-only or closed to us.
        """
        if self._unfinished is not None:
            self._unfinished.save({"made_of": self.made_of, "lists": self._lists})


def train(
    tasks: Sequence[Task],
    *,
    width: int,
    solver: Solver,
    kept: Kept,
    name: str,
    progress: Progress,
    threads: int | None = None,
) -> Judged:
    """Train and judge machines on all cores; each comes out as it would alone, whatever runs beside it.

    Args:
        tasks: What to train; those that cost most are begun first.
        width: How many numbers a judge gives.
        solver: How all are trained.
        kept: What a stopped run has left, and where this one keeps what it has.
        name: What the list is called there.
        progress: Is told of machines done.
        threads: At most so many at once; None is as many as there are cores and memory for LIBLINEAR's copies.

    Raises:
        UsageError: If there is not the memory for one machine's copy of the features.
        StorageError: If the disk refuses what is kept.
    """
    rows = kept.rows(name, (len(tasks), 1 + width))
    left = [number for number in range(len(tasks)) if np.isnan(rows[number, 0])]
    done = len(tasks) - len(left)
    if done:
        progress(done, len(tasks))
    if left:
        images, dim = max((task.features.shape for task in tasks), key=math.prod)
        scaled.check_in_memory(
            images * dim * BYTES_PER_VALUE,
            memory=None,
            what=f"LIBLINEAR's copy of {images:,} images of {dim} dimensions",
            instead="train on fewer images, or where there is more",
        )
        libraries: queue.SimpleQueue[liblinear.Liblinear] = queue.SimpleQueue()
        copies = liblinear.copies(min(threads or _threads(tasks), len(left)))
        for library in copies:
            libraries.put(library)

        def work(number: int) -> None:
            task = tasks[number]
            library = libraries.get()
            try:
                machine = library.train(task.features, task.targets, cost=task.cost, solver=solver)
            finally:
                libraries.put(library)
            rows[number, 1:] = task.judge(machine)
            # Last: a row whose first number is there is whole.
            rows[number, 0] = machine.iterations

        pool = ThreadPoolExecutor(max_workers=len(copies))
        saved = time.monotonic()
        try:
            # A large C takes longest: left to the end, one core would work alone.
            running = [pool.submit(work, number) for number in sorted(left, key=lambda n: -tasks[n].cost)]
            for finished in as_completed(running):
                finished.result()
                done += 1
                progress(done, len(tasks))
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    kept.save()
                    saved = time.monotonic()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            kept.save()
    return Judged(rows[:, 1:], rows[:, 0] >= solver.max_iter)


def solver_of(card: SvmCard) -> Solver:
    """Return how a card's machines are trained."""
    return Solver(positive_weight=card.positive_weight, tolerance=card.tolerance, max_iter=card.max_iter)


def unconverged_note(count: int, of: int, *, solver: Solver) -> list[str]:
    """Say how many machines were stopped before they were done; nothing if none was."""
    return [f"{count} of {of} machines were not done after {solver.max_iter} iterations"] if count else []


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads(tasks: Sequence[Task]) -> int:
    """Return as many threads as there are cores, but no more than half of the free memory holds copies for."""
    largest = max(task.features.size for task in tasks) * BYTES_PER_VALUE
    return max(1, min(cores(), psutil.virtual_memory().available // 2 // max(1, largest)))
