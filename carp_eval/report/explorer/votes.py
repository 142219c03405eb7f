"""What an image's neighbours take it for, itself left out; and which images they take for another class."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from carp_eval.evaluation import knn
from carp_eval.report.explorer.exhibit import Exhibit
from carp_eval.report.explorer.searching import Searcher
from carp_eval.report.parts.neighbours import spread

# Neighbours that vote.
K = 20
# Products of numbers that all votes together may cost: about a minute of two cores.
MOST_PRODUCTS = 4_000_000_000_000
# Rows whose votes are counted together, at most; as many as take so long. What is asked meanwhile waits for that.
CHUNK, SECONDS = 256, 0.4
UNKNOWN = -1


def vote(
    similarities: Float[Tensor, "query neighbour"], labels: Int64[Tensor, "query neighbour"], *, classes: int
) -> tuple[Int64[Tensor, " query"], Float[Tensor, " query"]]:
    """Let neighbours vote, each by exp(similarity / 0.07); those without a class have no vote.

    Returns:
        The class of each query, `UNKNOWN` where no neighbour has one; and its share of the vote.
    """
    if classes == 0 or labels.shape[1] == 0:
        return torch.full((len(labels),), UNKNOWN), torch.zeros(len(labels))
    has = labels >= 0
    shares = knn.vote(
        similarities.masked_fill(~has, -torch.inf).float(), labels.clamp(min=0), num_classes=classes
    )
    best, chosen = shares.max(dim=1)
    none = ~has.any(dim=1)
    return chosen.masked_fill(none, UNKNOWN), best.masked_fill(none, 0.0)


class _GaveWayError(Exception):
    """Something is asked, which goes before."""


class Votes:
    """The votes on a bank's own images, as far as they are counted.

    Attributes:
        rows: Rows that are judged: all with a class, or, of a large bank, some, evenly taken.
        predicted: What each row of the bank is taken for; `UNKNOWN` where that is not counted.
        done: How many are counted.
        stopped: Why no more will be; empty where nothing stands in the way.
    """

    def __init__(self, exhibit: Exhibit, searcher: Searcher, *, most: int, k: int = K) -> None:
        """Count nothing yet.

        Args:
            exhibit: The bank.
            searcher: Searches it.
            most: So many rows at most.
            k: Neighbours that vote.
        """
        self._exhibit, self._searcher, self._k = exhibit, searcher, k
        bank = exhibit.bank
        affordable = max(1, MOST_PRODUCTS // (len(bank) * bank.dim))
        labelled = np.flatnonzero(exhibit.labels >= 0)
        self.rows: list[int] = spread(labelled, min(most, affordable)) if len(bank) > 1 else []
        self.predicted: Int64[np.ndarray, " row"] = np.full(len(bank), UNKNOWN)
        self.done = 0
        self.stopped = ""
        # To read a bank from the disk takes long for a single row, too: that is given up in the middle.
        self._together = CHUNK if searcher.is_streamed else 16

    def steps(self, wanted: Callable[[], bool] = lambda: False) -> Iterator[Callable[[], None]]:
        """Yield pieces of the work, until all is counted.

        Args:
            wanted: Tells whether something else waits; a piece then ends early, and is yielded once more.
        """
        while not self.is_complete:
            yield lambda: self._count(wanted)

    @property
    def is_complete(self) -> bool:
        """Whether all is counted."""
        return self.done == len(self.rows)

    @property
    def wrong(self) -> Int64[np.ndarray, " wrong"]:
        """The rows that are taken for another class than their own."""
        return np.flatnonzero((self.predicted >= 0) & (self.predicted != self._exhibit.labels))

    def _count(self, wanted: Callable[[], bool]) -> None:
        def tell(done: int, of: int) -> None:
            # What is all but finished is finished.
            if done < of and wanted():
                raise _GaveWayError

        rows = self.rows[self.done : self.done + self._together]
        began = time.perf_counter()
        try:
            near = self._searcher.others(rows, k=self._k, progress=tell).near
        except _GaveWayError:
            return
        labels = torch.from_numpy(self._exhibit.labels)[near.indices]
        chosen, _ = vote(near.similarities, labels, classes=len(self._exhibit.class_names))
        self.predicted[rows] = chosen.numpy()
        # The first search of a bank reads it into memory: no other is like it.
        if self.done and not self._searcher.is_streamed:
            self._together = _fitting(self._together, time.perf_counter() - began)
        self.done += len(rows)


def _fitting(count: int, seconds: float) -> int:
    """Return how many rows take as long as a piece may, at most twice as many as took so long."""
    return max(1, min(CHUNK, 2 * count, int(count * SECONDS / max(seconds, 1e-6))))
