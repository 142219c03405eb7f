"""k-means: FAISS's, one iteration at a time, or scikit-learn's on small batches; always on the processor.

On GPUs FAISS's is known to collapse (facebookresearch/faiss#3818).
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import faiss
import numpy as np
from jaxtyping import Float32, Int32, Int64
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from carp_eval.errors import UsageError
from carp_eval.evaluation.kmeans_runs import ALIGNED, Runs
from carp_eval.features.extraction.running import Progress
from carp_eval.features.search.streamed import Keeper

# How FAISS sets the seeds of its restarts apart.
BETWEEN_RESTARTS = 15_486_557
# What reading and products take beside points and centres.
BESIDE = 100_000_000
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
    kept: Keeper | None = None,
    name: str = "",
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
        kept: Keeps the state of the runs, from which the same call goes on.
        name: Tells this call from others in what was kept.

    Raises:
        UsageError: If there are fewer points than clusters.
    """
    check(len(features), clusters)
    points = features.numpy()
    chosen = drawn(len(points), clusters=clusters, points_per_centre=points_per_centre, seed=seed)
    if chosen is not None:
        points = points[chosen]
    inner = points if spherical else by_inner_product(points)
    cores = faiss.omp_get_max_threads()  # pyright: ignore[reportAttributeAccessIssue]
    side_by_side = min(restarts, cores)
    starts = [
        starting_rows(len(points), clusters=clusters, restart=restart, seed=seed)
        for restart in range(restarts)
    ]
    runs = Runs(
        np.stack([inner[rows] for rows in starts]),
        dim=points.shape[1],
        iterations=iterations,
        progress=progress,
        kept=kept,
        name=name,
    )

    def run(restart: int) -> None:
        faiss.omp_set_num_threads(cores // side_by_side)  # pyright: ignore[reportAttributeAccessIssue]
        while runs.goes(restart):
            runs.move(restart, *_iterate(inner, runs.centres[restart], spherical=spherical))

    with ThreadPoolExecutor(side_by_side) as threads:
        try:
            list(threads.map(run, range(restarts)))
        finally:
            runs.stop()
    return Clusters(runs.best(), spherical, len(points), int(runs.taken.sum()))


def by_inner_product(points: Float32[np.ndarray, "row dim"]) -> Float32[np.ndarray, "row wider"]:
    """Give each point a coordinate of 1, so that its nearest centre is the one of the largest inner product.

    FAISS's search by distance takes the lengths of all points anew at each iteration, a tenth of its time; this costs a
    copy of the points instead.
    """
    wider = np.zeros((len(points), points.shape[1] + ALIGNED), dtype=np.float32)
    wider[:, : points.shape[1]] = points
    wider[:, points.shape[1]] = 1
    return wider


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


def drawn(
    count: int, *, clusters: int, points_per_centre: int, seed: int
) -> Int32[np.ndarray, " point"] | None:
    """Return the rows that are fitted, in the order in which FAISS draws them; None where all are.

    Args:
        count: How many rows there are.
        clusters: How many centres.
        points_per_centre: At most this many rows per centre; 0 takes all.
        seed: As given to `fit`.
    """
    most = points_per_centre * clusters or count
    return _shuffled(count, seed)[:most] if count > most else None


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
    check(len(features), clusters)
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


def memory_of(points: int, *, dim: int, clusters: int, restarts: int, spherical: bool) -> int:
    """Return the bytes that `fit` takes, points included.

    Args:
        points: How many are fitted.
        dim: Their width.
        clusters: How many centres.
        restarts: Runs from other starting points.
        spherical: Whether points are compared by inner product as they are.
    """
    copied = 0 if spherical else dim + ALIGNED
    # Of each run, its centres, those before, and what FAISS holds of both.
    return 4 * points * (dim + copied) + 20 * restarts * clusters * (dim + ALIGNED) + BESIDE


def check(count: int, clusters: int) -> None:
    """Make sure that there are as many rows as clusters.

    Raises:
        UsageError: If there are fewer.
    """
    if count < clusters:
        raise UsageError(f"{clusters} clusters need as many rows or more, the bank has {count}")
