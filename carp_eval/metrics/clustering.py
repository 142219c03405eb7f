"""How well clusters agree with classes."""

import numpy as np
from jaxtyping import Int64
from sklearn import metrics

from carp_eval.errors import UsageError


def agreement(
    classes: Int64[np.ndarray, " image"], clusters: Int64[np.ndarray, " image"]
) -> dict[str, float]:
    """Compare two partitions of the same images.

    Returns:
        Scores by name, 1 for the same partition: `nmi` and `ami`, mutual information normalised by the mean entropy,
        the second corrected for chance; `ari`, the Rand index corrected for chance; `fms`, Fowlkes and Mallows;
        `homogeneity`, whether a cluster holds one class; `completeness`, whether a class is in one cluster; `v`, the
        harmonic mean of these two, which equals `nmi`. Those corrected for chance may be below 0.

    Raises:
        UsageError: If there are no images, or one has no class.
    """
    unlabelled = int((classes < 0).sum())
    if unlabelled or not len(classes):
        raise UsageError(f"{unlabelled} of {len(classes)} images have no class to hold their cluster against")
    homogeneity, completeness, v = metrics.homogeneity_completeness_v_measure(classes, clusters)
    return {
        "nmi": float(metrics.normalized_mutual_info_score(classes, clusters)),
        "ami": float(metrics.adjusted_mutual_info_score(classes, clusters)),
        "ari": float(metrics.adjusted_rand_score(classes, clusters)),
        "fms": float(metrics.fowlkes_mallows_score(classes, clusters)),
        "homogeneity": float(homogeneity),
        "completeness": float(completeness),
        "v": float(v),
    }
