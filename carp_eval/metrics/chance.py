"""The mutual information that two partitions share by chance, for many pairs of partitions at once.

Chance means: class and cluster sizes stay, which images they hold is drawn at random (Vinh et al., JMLR 2010, equation
24a). It is a sum over pairs of a class and a cluster, and a pair's term depends on its two sizes alone: sizes recur
from one drawn test set to the next, so each pair of sizes is worked out once.
"""

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import gammaln

CHUNK_TERMS = 2**20
# Beyond so many standard deviations, and so many images, the hypergeometric distribution has no mass that counts.
FARTHEST = 10


def expected_mutual_information(
    classes: Int64[np.ndarray, "table class"], clusters: Int64[np.ndarray, "table cluster"], *, images: int
) -> Float64[np.ndarray, " table"]:
    """Return the mutual information to expect by chance, in nats, for each table of classes and clusters.

    Args:
        classes: Images of each class, which may be 0; a row sums to `images`.
        clusters: Images in each cluster, likewise.
        images: Images in a table.
    """
    tables = len(classes)
    log_factorial = gammaln(np.arange(images + 1) + 1.0)
    sizes, of_class = np.unique(classes, return_inverse=True)
    others, of_cluster = np.unique(clusters, return_inverse=True)
    if len(sizes) * len(others) <= classes.size * clusters.shape[1]:
        pairs = np.meshgrid(sizes, others, indexing="ij")
        terms = _terms(pairs[0].ravel(), pairs[1].ravel(), log_factorial).reshape(len(sizes), len(others))
        owner = np.arange(tables)[:, None] * len(sizes)
        often = np.bincount((owner + of_class.reshape(classes.shape)).ravel(), minlength=tables * len(sizes))
        by_size = often.reshape(tables, len(sizes)) @ terms
        return np.take_along_axis(by_size, of_cluster.reshape(clusters.shape), axis=1).sum(axis=1)
    pairs = np.broadcast_arrays(classes[:, :, None], clusters[:, None, :])
    terms = _terms(pairs[0].ravel(), pairs[1].ravel(), log_factorial)
    return terms.reshape(tables, -1).sum(axis=1)


def _terms(
    sizes: Int64[np.ndarray, " pair"],
    others: Int64[np.ndarray, " pair"],
    log_factorial: Float64[np.ndarray, " number"],
) -> Float64[np.ndarray, " pair"]:
    """Return what each pair of a class and a cluster adds: the mean of n/N log(N n / (a b)), n hypergeometric."""
    images = len(log_factorial) - 1
    mean = sizes * (others / images)
    spread = np.sqrt(mean * ((images - sizes) / images) * ((images - others) / max(images - 1, 1)))
    reach = FARTHEST * (spread + 1)
    lowest = np.maximum(np.maximum(1, sizes + others - images), np.floor(mean - reach).astype(np.int64))
    highest = np.minimum(np.minimum(sizes, others), np.ceil(mean + reach).astype(np.int64))
    width = np.maximum(highest - lowest + 1, 0)
    found = np.zeros(len(sizes))
    # Pairs of about the same width side by side, so that little is worked out only to be masked.
    order = np.argsort(width, kind="stable")
    start = int(np.searchsorted(width[order], 1))
    while start < len(order):
        # The last pair of a chunk is its widest; doubling the first's width bounds both.
        limit = 2 * int(width[order[start]])
        stop = min(
            int(np.searchsorted(width[order], limit, side="right")), start + max(1, CHUNK_TERMS // limit)
        )
        chunk = order[start:stop]
        n = lowest[chunk, None] + np.arange(int(width[chunk[-1]]))
        there = n <= highest[chunk, None]
        n = np.where(there, n, lowest[chunk, None])
        a, b = sizes[chunk, None], others[chunk, None]
        chance = np.exp(
            (log_factorial[a] + log_factorial[b] + log_factorial[images - a] + log_factorial[images - b])
            - log_factorial[images]
            - log_factorial[n]
            - log_factorial[a - n]
            - log_factorial[b - n]
            - log_factorial[images - a - b + n]
        )
        gain = n / images * (np.log(n / a) + np.log(images / b))
        found[chunk] = np.where(there, gain * chance, 0).sum(axis=1)
        start = stop
    return found
