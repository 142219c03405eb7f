"""k-means from several starting points: how far each run is, and what is kept of it."""

import threading
import time

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64

from carp_eval.features.extraction.running import Progress
from carp_eval.features.search.streamed import Keeper

# Added to a row that is compared by distance, so that rows still begin where a cache line does.
ALIGNED = 16
SECONDS_BETWEEN_SAVES = 60.0


class Runs:
    """Runs of k-means, which may go on side by side.

    Points and centres are compared by inner product. Where the distance counts, points have a coordinate of 1 more, and
    centres one that meets it: x c - |c|^2 / 2 is largest where |x - c|^2 is smallest.

    Attributes:
        centres: Of each run.
        objectives: The sum of the points' inner products with the centres before.
        taken: Iterations done.
        rested: Whether the last iteration moved no centre: all others would give the same.
    """

    def __init__(
        self,
        centres: Float32[np.ndarray, "run cluster wide"],
        *,
        dim: int,
        iterations: int,
        progress: Progress | None = None,
        kept: Keeper | None = None,
        name: str = "",
    ) -> None:
        """Begin, or go on with runs of the same name that were stopped.

        Args:
            centres: Starting points.
            dim: Width of a point, without what was added.
            iterations: Of each run, at most.
            progress: Is told of iterations done, of all runs together.
            kept: Keeps the state; None keeps nothing.
            name: Tells these runs from others in what was kept.
        """
        count = len(centres)
        self.centres = centres
        self.objectives: Float64[np.ndarray, " run"] = np.full(count, -np.inf)
        self.taken: Int64[np.ndarray, " run"] = np.zeros(count, dtype=np.int64)
        self.rested: Bool[np.ndarray, " run"] = np.zeros(count, dtype=bool)
        self._dim, self._iterations = dim, iterations
        self._progress, self._kept, self._name = progress, kept, name
        self._lock, self._stopped, self._saved = threading.Lock(), False, time.monotonic()
        state = None if kept is None else kept.load()
        if state is not None and state.get("name") == name:
            for field in ("centres", "objectives", "taken", "rested"):
                getattr(self, field)[:] = state[field].numpy()
        else:
            self._meet_by_length(slice(None))
        self._tell()

    @property
    def going(self) -> list[int]:
        """Numbers of the runs that have not ended."""
        return [run for run in range(len(self.taken)) if self.goes(run)]

    def goes(self, run: int) -> bool:
        """Whether a run has not ended."""
        return bool(self.taken[run] < self._iterations and not self.rested[run]) and not self._stopped

    def stop(self) -> None:
        """End all runs, as whoever waits for them is interrupted."""
        self._stopped = True

    def move(self, run: int, centres: Float32[np.ndarray, "cluster wide"], objective: float) -> None:
        """Take up what an iteration of a run has found; runs may call this side by side.

        Args:
            run: Number of the run.
            centres: Its new centres; what was added to their width is not looked at.
            objective: The sum of the points' inner products with the old.
        """
        with self._lock:
            before = self.centres[run].copy()
            self.centres[run] = centres
            self._meet_by_length(run)
            self.objectives[run] = objective
            self.taken[run] += 1
            self.rested[run] = np.array_equal(self.centres[run], before)
            if self._kept is not None and time.monotonic() - self._saved >= SECONDS_BETWEEN_SAVES:
                fields = ("centres", "objectives", "taken", "rested")
                state = {field: torch.from_numpy(getattr(self, field)) for field in fields}
                self._kept.save({"name": self._name, **state})
                self._saved = time.monotonic()
            self._tell()

    def best(self) -> Float32[np.ndarray, "cluster dim"]:
        """Return the centres of the run with the best objective; of equals the first."""
        return self.centres[int(self.objectives.argmax()), :, : self._dim]

    def _meet_by_length(self, runs: int | slice) -> None:
        if self.centres.shape[-1] > self._dim:
            centres = self.centres[runs, :, : self._dim]
            self.centres[runs, :, self._dim] = np.einsum("...kd,...kd->...k", centres, centres) / -2

    def _tell(self) -> None:
        if self._progress is not None:
            done = np.where(self.rested, self._iterations, self.taken).sum()
            self._progress(int(done), len(self.taken) * self._iterations)
