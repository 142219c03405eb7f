"""Lloyd's k-means of points that no memory holds: they pass slab by slab, once an iteration for all restarts.

Starts, empty clusters and lengths are as FAISS has them, so that on the same points both find the same centres, but for
float32's rounding: FAISS adds up a cluster's points in float32, this in float64.
"""

import faiss
import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from carp_eval.errors import UsageError
from carp_eval.evaluation import kmeans
from carp_eval.evaluation.kmeans import Clusters
from carp_eval.evaluation.kmeans_runs import ALIGNED, Runs
from carp_eval.evaluation.scaled import ScaledRows, gigabytes
from carp_eval.features.extraction.running import Progress
from carp_eval.features.search.streamed import Keeper
from carp_eval.features.stored import ahead

# More points at once are no faster; with fewer, products wait for the reader.
MOST_SLAB_ROWS = 16384
FEWEST_SLAB_ROWS = 256
# Points whose float32 sums are added up in float64.
SUMMED_ROWS = 4096
# FAISS splits a cluster with this seed, anew at each iteration, and moves its halves apart by this share.
SPLIT_SEED = 1234
SPLIT_SHARE = 1 / 1024


def slab_rows(rows: ScaledRows, *, clusters: int, restarts: int, budget: int) -> int:
    """Return how many points may be held at once.

    Args:
        rows: The points.
        clusters: How many centres.
        restarts: Runs whose centres are held side by side.
        budget: Bytes that may be taken.

    Raises:
        UsageError: If that is too little for centres and the smallest slab.
    """
    # Centres and their sums in float64; the centres before, sums in float32, and what becomes of them.
    of_centres = clusters * (rows.dim + ALIGNED) * (12 * restarts + 24)
    # Three slabs, one of them made wider.
    of_row = 4 * (4 * rows.dim + ALIGNED)
    found = (budget - kmeans.BESIDE - of_centres) // of_row
    if found < FEWEST_SLAB_ROWS:
        least = kmeans.BESIDE + of_centres + FEWEST_SLAB_ROWS * of_row
        raise UsageError(
            f"{gigabytes(budget)} of memory are too little for k-means of {clusters} clusters, {restarts} restarts and "
            f"{rows.dim} dimensions: give {gigabytes(least)} or more with --memory, or fewer restarts"
        )
    return min(found // FEWEST_SLAB_ROWS * FEWEST_SLAB_ROWS, MOST_SLAB_ROWS)


def fit(
    rows: ScaledRows,
    *,
    clusters: int,
    iterations: int,
    restarts: int,
    spherical: bool,
    points_per_centre: int,
    seed: int,
    at_once: int,
    progress: Progress | None = None,
    kept: Keeper | None = None,
    name: str = "",
) -> Clusters:
    """Run Lloyd's k-means, reading the points anew at each iteration.

    Args:
        rows: The points.
        clusters: How many centres.
        iterations: Of each run, at most.
        restarts: Runs from other starting points, of which the one with the best objective is kept.
        spherical: Whether centres are scaled to unit length after each iteration.
        points_per_centre: At most this many points per centre are drawn to fit; 0 takes all.
        seed: Of the draw and the starting points.
        at_once: Points of a slab.
        progress: Is told of iterations done, of all runs together.
        kept: Keeps the state of the runs, from which the same call goes on.
        name: Tells this call from others in what was kept.

    Raises:
        UsageError: If there are fewer points than clusters.
    """
    kmeans.check(len(rows), clusters)
    chosen = kmeans.drawn(len(rows), clusters=clusters, points_per_centre=points_per_centre, seed=seed)
    numbers = torch.arange(len(rows)) if chosen is None else torch.from_numpy(chosen).long()
    count = len(numbers)

    def start(restart: int) -> Float32[np.ndarray, "cluster wide"]:
        first = kmeans.starting_rows(count, clusters=clusters, restart=restart, seed=seed)
        points = rows.take(numbers[torch.from_numpy(first).long()]).numpy()
        return _unit(points) if spherical else kmeans.by_inner_product(points)

    runs = Runs(
        np.stack([start(restart) for restart in range(restarts)]),
        dim=rows.dim,
        iterations=iterations,
        progress=progress,
        kept=kept,
        name=name,
    )
    ascending = None if chosen is None else numbers.sort().values

    def read(start: int, stop: int) -> Float32[Tensor, "point wide"]:
        part = rows.slab(start, stop) if ascending is None else rows.take(ascending[start:stop])
        return part if spherical else torch.from_numpy(kmeans.by_inner_product(part.numpy()))

    while going := runs.going:
        sums = {run: _Sums(clusters, rows.dim) for run in going}
        for _, points in ahead(read, count, at_once=at_once):
            for run in going:
                sums[run].add(points, runs.centres[run])
        for run in going:
            centres = sums[run].means(spherical=spherical)
            wide = np.zeros_like(runs.centres[run])
            wide[:, : rows.dim] = centres
            runs.move(run, wide, sums[run].objective)
    return Clusters(runs.best(), spherical, count, int(runs.taken.sum()))


class _Sums:
    """What an iteration adds up of the points of each cluster.

    Attributes:
        objective: The sum of the points' inner products with their centres.
    """

    def __init__(self, clusters: int, dim: int) -> None:
        self.objective = 0.0
        self._sums: Float64[Tensor, "cluster dim"] = torch.zeros(clusters, dim, dtype=torch.float64)
        self._counts: Int64[Tensor, " cluster"] = torch.zeros(clusters, dtype=torch.int64)

    def add(
        self, points: Float32[Tensor, "point wide"], centres: Float32[np.ndarray, "cluster wide"]
    ) -> None:
        """Assign some points, and add them up."""
        found, nearest = faiss.knn(points.numpy(), centres, 1, metric=faiss.METRIC_INNER_PRODUCT)
        self.objective += float(found.sum(dtype=np.float64))
        assigned = torch.from_numpy(nearest[:, 0])
        clusters, dim = self._sums.shape
        self._counts += torch.bincount(assigned, minlength=clusters)
        part = torch.empty(clusters, dim)
        for some, of in zip(points[:, :dim].split(SUMMED_ROWS), assigned.split(SUMMED_ROWS), strict=True):
            self._sums += part.zero_().index_add_(0, of, some)

    def means(self, *, spherical: bool) -> Float32[np.ndarray, "cluster dim"]:
        """Return the new centres."""
        centres = (self._sums / self._counts.clamp(min=1)[:, None]).float().numpy()
        _split_for_empty(centres, self._counts.numpy().astype(np.float32))
        return _unit(centres) if spherical else centres


def _split_for_empty(
    centres: Float32[np.ndarray, "cluster dim"], counts: Float32[np.ndarray, " cluster"]
) -> None:
    """Give each empty cluster half of another's points, in place: as FAISS does, most likely of a large one."""
    clusters = len(centres)
    spare = np.float32(counts.sum() - clusters)
    chance = faiss.RandomGenerator(SPLIT_SEED)  # pyright: ignore[reportAttributeAccessIssue]
    apart = np.where(np.arange(centres.shape[1]) % 2, -SPLIT_SHARE, SPLIT_SHARE).astype(np.float32)
    for empty in np.flatnonzero(counts == 0):
        other = 0
        while chance.rand_float() >= (counts[other] - 1) / spare:
            other = (other + 1) % clusters
        centres[empty] = centres[other] * (1 + apart)
        centres[other] *= 1 - apart
        counts[empty] = counts[other] / 2
        counts[other] -= counts[empty]


def _unit(centres: Float32[np.ndarray, "cluster dim"]) -> Float32[np.ndarray, "cluster dim"]:
    """Scale centres to length one; zeros stay zero."""
    lengths = np.linalg.norm(centres, axis=1, keepdims=True)
    return centres / np.where(lengths > 0, lengths, 1)
