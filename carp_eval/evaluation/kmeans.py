"""k-means: FAISS's, one iteration at a time, or scikit-learn's on small batches; always on the processor.

On GPUs FAISS's is known to collapse (facebookresearch/faiss#3818).
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import faiss
import numpy as np
from jaxtyping import Float32, Int32, Int64
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from carp_eval.errors import UsageError
from carp_eval.features.extraction import Progress

# How FAISS sets the seeds of its restarts apart.
BETWEEN_RESTARTS = 15_486_557
# Added to a row, so that rows still begin where a cache line does.
_ALIGNED = 16
# scikit-learn's seeds have 32 bits.
SEEDS = 2**32


class Clusters(NamedTuple):
    """What k-means found.

    Attributes:
        centres: The clusters' centres; of unit length where k-means is spherical.
        spherical: Whether a point belongs to the centre of the largest inner product, not of the smallest distance.
        points: How many points were fitted.
        iterations: How many it took, of all restarts together.
    """

    centres: Float32[np.ndarray, "cluster dim"]
    spherical: bool
    points: int
    iterations: int


def fit(
    features: Float32[Tensor, "row dim"],
    *,
    clusters: int,
    iterations: int,
    restarts: int,
    spherical: bool,
    points_per_centre: int,
    seed: int,
    progress: Progress | None = None,
) -> Clusters:
    """Run Lloyd's k-means with FAISS.

    FAISS draws, starts and restarts are those of one call of `faiss.Kmeans`. It is asked for one iteration at a time,
    which costs nothing that could be measured, shows how far it is, and lets a run end that has come to rest: from
    centres that an iteration does not move, all others would give the same. Restarts run side by side, each on its
    share of the cores: products on several cores wait for each other, and at times take half as long again.

    Args:
        features: The points.
        clusters: How many centres.
        iterations: Of each run, at most.
        restarts: Runs from other starting points, of which the one with the best objective is kept.
        spherical: Whether centres are scaled to unit length after each iteration.
        points_per_centre: At most this many points per centre are drawn to fit; 0 takes all.
        seed: Of the draw and the starting points.
        progress: Is told of iterations done.

    Raises:
        UsageError: If there are fewer points than clusters.
    """
    _check(features, clusters)
    points = features.numpy()
    most = points_per_centre * clusters or len(points)
    if len(points) > most:
        points = points[_shuffled(len(points), seed)[:most]]
    inner = points if spherical else _by_inner_product(points)
    cores = faiss.omp_get_max_threads()  # pyright: ignore[reportAttributeAccessIssue]
    side_by_side = min(restarts, cores)
    watch = _Watch(progress, total=restarts * iterations)

    def run(restart: int) -> _Run:
        faiss.omp_set_num_threads(cores // side_by_side)  # pyright: ignore[reportAttributeAccessIssue]
        rows = starting_rows(len(points), clusters=clusters, restart=restart, seed=seed)
        return _run(
            inner, inner[rows], dim=points.shape[1], iterations=iterations, spherical=spherical, watch=watch
        )

    with ThreadPoolExecutor(side_by_side) as threads, watch:
        runs = list(threads.map(run, range(restarts)))
    best = max(runs, key=lambda run: run.objective)
    return Clusters(
        best.centres[:, : points.shape[1]], spherical, len(points), sum(run.taken for run in runs)
    )


class _Run(NamedTuple):
    centres: Float32[np.ndarray, "cluster wider"]
    objective: float
    taken: int


class _Watch:
    """Adds up the iterations of runs side by side, and ends the runs when whoever waits for them is interrupted."""

    def __init__(self, progress: Progress | None, *, total: int) -> None:
        self.stopped = threading.Event()
        self._progress, self._total, self._done, self._lock = progress, total, 0, threading.Lock()

    def __enter__(self) -> None:
        self.add(0)

    def __exit__(self, *_: object) -> None:
        self.stopped.set()

    def add(self, iterations: int) -> None:
        with self._lock:
            self._done += iterations
            if self._progress is not None:
                self._progress(self._done, self._total)


def _run(
    inner: Float32[np.ndarray, "row wider"],
    centres: Float32[np.ndarray, "cluster wider"],
    *,
    dim: int,
    iterations: int,
    spherical: bool,
    watch: _Watch,
) -> _Run:
    """Iterate from the centres given until they rest, `iterations` times at most."""
    objective, taken = -np.inf, 0
    if not spherical:
        _lower_by_length(centres, dim=dim)
    while taken < iterations and not watch.stopped.is_set():
        before = centres
        centres, objective = _iterate(inner, before, spherical=spherical)
        if not spherical:
            _lower_by_length(centres, dim=dim)
        taken += 1
        resting = np.array_equal(centres, before)
        watch.add(iterations - taken + 1 if resting else 1)
        if resting:
            break
    return _Run(centres, objective, taken)


def _by_inner_product(points: Float32[np.ndarray, "row dim"]) -> Float32[np.ndarray, "row wider"]:
    """Give each point a coordinate of 1, so that its nearest centre is the one of the largest inner product.

    x c - |c|^2 / 2 is largest where |x - c|^2 is smallest. FAISS's search by distance takes the lengths of all points
    anew at each iteration, a tenth of its time; this costs a copy of the points instead.
    """
    wider = np.zeros((len(points), points.shape[1] + _ALIGNED), dtype=np.float32)
    wider[:, : points.shape[1]] = points
    wider[:, points.shape[1]] = 1
    return wider


def _lower_by_length(centres: Float32[np.ndarray, "cluster wider"], *, dim: int) -> None:
    """Set the coordinate of centres that meets the points' 1."""
    centres[:, dim] = np.einsum("kd,kd->k", centres[:, :dim], centres[:, :dim]) / -2


def _iterate(
    points: Float32[np.ndarray, "row dim"], centres: Float32[np.ndarray, "cluster dim"], *, spherical: bool
) -> tuple[Float32[np.ndarray, "cluster dim"], float]:
    """Assign all points, and return the new centres and the sum of the points' inner products with the old."""
    settings = faiss.ClusteringParameters()
    settings.niter, settings.spherical = 1, spherical
    settings.max_points_per_centroid, settings.min_points_per_centroid = len(points), 1
    # Features were checked as they were read; to check at each iteration would take a tenth of its time.
    settings.check_input_data_for_NaNs = False
    clusters, dim = centres.shape
    means = faiss.Clustering(dim, clusters, settings)
    faiss.copy_array_to_vector(centres.ravel(), means.centroids)
    means.train(points, faiss.IndexFlatIP(dim))  # pyright: ignore[reportCallIssue]
    moved = faiss.vector_float_to_array(means.centroids).reshape(clusters, dim)
    return moved, float(means.iteration_stats.at(0).obj)  # pyright: ignore[reportAttributeAccessIssue]


def starting_rows(count: int, *, clusters: int, restart: int, seed: int) -> Int32[np.ndarray, " cluster"]:
    """Return the rows that are the first centres of a restart: those that FAISS draws.

    Args:
        count: How many points are fitted.
        clusters: How many centres.
        restart: Number of the restart.
        seed: As given to `fit`.
    """
    return _shuffled(count, seed + 1 + restart * BETWEEN_RESTARTS)[:clusters]


def fit_in_batches(
    features: Float32[Tensor, "row dim"],
    *,
    clusters: int,
    batch_size: int,
    max_epochs: int,
    restarts: int,
    seed: int,
    progress: Progress | None = None,
) -> Clusters:
    """Run scikit-learn's k-means on small batches.

    Args:
        features: The points.
        clusters: How many centres.
        batch_size: Points in a step.
        max_epochs: Passes over the points at most.
        restarts: Starts by k-means++ that are tried, of which the best is run.
        seed: Of starts and batches.
        progress: Is told when it begins and ends; in between, scikit-learn tells nothing.

    Raises:
        UsageError: If there are fewer points than clusters.
    """
    _check(features, clusters)
    if progress is not None:
        progress(0, 1)
    means = MiniBatchKMeans(
        clusters,
        batch_size=batch_size,
        max_iter=max_epochs,
        n_init=restarts,  # pyright: ignore[reportArgumentType]
        compute_labels=False,
        random_state=seed % SEEDS,
    ).fit(features.numpy())
    if progress is not None:
        progress(1, 1)
    centres = np.asarray(means.cluster_centers_, dtype=np.float32)
    return Clusters(centres, False, len(features), int(means.n_steps_))


def assign(features: Float32[Tensor, "row dim"], clusters: Clusters) -> Int64[np.ndarray, " row"]:
    """Return the cluster each point belongs to."""
    metric = faiss.METRIC_INNER_PRODUCT if clusters.spherical else faiss.METRIC_L2
    return faiss.knn(features.numpy(), clusters.centres, 1, metric=metric)[1][:, 0]


def _shuffled(count: int, seed: int) -> Int32[np.ndarray, " row"]:
    order = np.empty(count, dtype=np.int32)
    faiss.rand_perm(faiss.swig_ptr(order), count, seed)  # pyright: ignore[reportAttributeAccessIssue]
    return order


def _check(features: Tensor, clusters: int) -> None:
    if len(features) < clusters:
        raise UsageError(f"{clusters} clusters need as many rows or more, the bank has {len(features)}")
