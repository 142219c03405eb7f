"""k-means on one split's features, the other split's images held against their classes."""

from typing import NamedTuple

import faiss
import numpy as np
from jaxtyping import Float32, Int64
from torch import Tensor

from carp_eval.cards.cluster import ClusterCard
from carp_eval.errors import UsageError
from carp_eval.evaluation.outcome import Outcome
from carp_eval.features.bank import Bank
from carp_eval.features.rows import plain_rows, standardise
from carp_eval.metrics import clustering
from carp_eval.results import Score

# FAISS warns below so many points per centre, into the terminal; here it is a note of the result.
FEW_POINTS = 39


class Clusters(NamedTuple):
    """What k-means found.

    Attributes:
        centres: The clusters' centres; of unit length where k-means is spherical.
        spherical: Whether a point belongs to the centre of the largest inner product, not of the smallest distance.
        points: How many points were fitted.
    """

    centres: Float32[np.ndarray, "cluster dim"]
    spherical: bool
    points: int


def fit(
    features: Float32[Tensor, "row dim"],
    *,
    clusters: int,
    iterations: int,
    restarts: int,
    spherical: bool,
    points_per_centre: int,
    seed: int,
) -> Clusters:
    """Run k-means with FAISS, on the processor: on GPUs it is known to collapse (facebookresearch/faiss#3818).

    Args:
        features: The points.
        clusters: How many centres.
        iterations: Of each run.
        restarts: Runs from other starting points, of which the one with the best objective is kept.
        spherical: Whether centres are scaled to unit length after each iteration.
        points_per_centre: At most this many points per centre are drawn to fit; 0 takes all.
        seed: Of the draw and the starting points.

    Raises:
        UsageError: If there are fewer points than clusters.
    """
    if len(features) < clusters:
        raise UsageError(f"{clusters} clusters need as many rows or more, the bank has {len(features)}")
    most = points_per_centre or len(features)
    means = faiss.Kmeans(
        features.shape[1],
        clusters,
        niter=iterations,
        nredo=restarts,
        spherical=spherical,
        seed=seed,
        max_points_per_centroid=most,
        min_points_per_centroid=1,
    )
    means.train(features.numpy())
    return Clusters(np.asarray(means.centroids), spherical, min(len(features), most * clusters))


def assign(features: Float32[Tensor, "row dim"], clusters: Clusters) -> Int64[np.ndarray, " row"]:
    """Return the cluster each point belongs to."""
    metric = faiss.METRIC_INNER_PRODUCT if clusters.spherical else faiss.METRIC_L2
    return faiss.knn(features.numpy(), clusters.centres, 1, metric=metric)[1][:, 0]


def run(card: ClusterCard, bank: Bank, queries: Bank, seed: int) -> Outcome:
    """Fit k-means on one bank, assign the images of another, and compare with their classes.

    Args:
        card: The protocol.
        bank: The images that are clustered; their labels play no part.
        queries: The images that are scored.
        seed: Of k-means.

    Raises:
        UsageError: If there are fewer rows than clusters, or images to score lack labels.
        BankError: If the banks are of different models or settings, or a feature is not finite.
    """
    bank.check_comparable(queries)
    points, scored = plain_rows(bank.shards()), plain_rows(queries.shards())
    if card.standardise:
        points, scored = standardise(points, scored)
    clusters = fit(
        points,
        clusters=card.clusters or len(bank.class_names),
        iterations=card.iterations,
        restarts=card.restarts,
        spherical=card.spherical,
        points_per_centre=card.points_per_centre,
        seed=seed,
    )
    assigned = assign(scored, clusters)
    agreement = clustering.agreement(queries.labels.numpy(), assigned)
    count = len(clusters.centres)
    return Outcome(
        scores=tuple(Score(metric=metric, value=value * 100) for metric, value in agreement.items()),
        predictions={"cluster": assigned},
        notes=tuple(_notes(clusters, rows=len(bank))),
        counts={"clusters": count, "fitted": clusters.points, "clusters_met": len(np.unique(assigned))},
    )


def _notes(clusters: Clusters, *, rows: int) -> list[str]:
    count = len(clusters.centres)
    notes: list[str] = []
    if clusters.points < rows:
        notes.append(f"k-means was fitted on {clusters.points} of {rows} images, drawn at random")
    if clusters.points < FEW_POINTS * count:
        notes.append(
            f"{clusters.points} images for {count} clusters are few: below {FEW_POINTS} for each, k-means is unsteady"
        )
    return notes
