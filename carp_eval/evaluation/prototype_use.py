"""How a data set's images use the prototypes: how many, how evenly, and whether each gathers one class."""

import numpy as np
from jaxtyping import Bool, Float32, Int64

from carp_eval import seeds
from carp_eval.cards.frozen import Frozen


class Use(Frozen):
    """How prototypes are used.

    Attributes:
        prototypes: How many there are.
        images: Images that were assigned.
        used: Prototypes that have an image.
        empty: Those that have none.
        largest: Images of the one that has most.
        entropy: Of the shares of the images, in nats; ln of the number of prototypes where all are used alike.
        perplexity: The exponential of that: so many prototypes, used alike, would have the same entropy.
        confidence: Mean confidence of the assignments.
        labelled: Images that have a label.
        purity: Share of those whose class is the commonest of their prototype; None where there are none.
        purity_by_chance: The same with the labels shuffled once: small prototypes are pure by chance.
    """

    prototypes: int
    images: int
    used: int
    empty: int
    largest: int
    entropy: float
    perplexity: float
    confidence: float
    labelled: int
    purity: float | None
    purity_by_chance: float | None


def use(
    assigned: Int64[np.ndarray, " image"],
    confidences: Float32[np.ndarray, " image"],
    labels: Int64[np.ndarray, " image"],
    *,
    count: int,
    seed: int = 0,
) -> Use:
    """Sum up how prototypes are used.

    Args:
        assigned: The prototype of each image.
        confidences: How surely.
        labels: Class of each image; -1 where there is none.
        count: How many prototypes there are.
        seed: Of the shuffle for the purity by chance.
    """
    sizes = np.bincount(assigned, minlength=count)
    shares = sizes[sizes > 0] / len(assigned)
    # Adding 0 turns the -0 of a single prototype into 0.
    entropy = float(-(shares * np.log(shares)).sum()) + 0.0
    known = labels >= 0
    shuffled = np.random.default_rng(seeds.derive(seed, "purity")).permutation(labels[known])
    return Use(
        prototypes=count,
        images=len(assigned),
        used=len(shares),
        empty=count - len(shares),
        largest=int(sizes.max()),
        entropy=entropy,
        perplexity=float(np.exp(entropy)),
        confidence=float(confidences.mean(dtype=np.float64)),
        labelled=int(known.sum()),
        purity=_purity(assigned[known], labels[known]),
        purity_by_chance=_purity(assigned[known], shuffled),
    )


def each(
    assigned: Int64[np.ndarray, " image"],
    confidences: Float32[np.ndarray, " image"],
    labels: Int64[np.ndarray, " image"],
    *,
    count: int,
) -> dict[str, np.ndarray]:
    """Describe every prototype, in columns: `prototype`, `images`, `share`, `confidence`, `purity`, `label`.

    `confidence` is the mean over its images, `purity` the share of its labelled images that are of its commonest class,
    `label` that class, the one of the lower number where two are as common; NaN and -1 where there is none.
    """
    sizes = np.bincount(assigned, minlength=count)
    sums = np.bincount(assigned, weights=confidences, minlength=count)
    known = labels >= 0
    pairs, held = np.unique(np.stack([assigned[known], labels[known]]), axis=1, return_counts=True)
    commonest, label, labelled = np.zeros(count, np.int64), np.full(count, -1), np.zeros(count, np.int64)
    np.add.at(labelled, pairs[0], held)
    for prototype, name, images in zip(*pairs.tolist(), held.tolist(), strict=True):
        if images > commonest[prototype]:
            commonest[prototype], label[prototype] = images, name
    with np.errstate(invalid="ignore"):
        return {
            "prototype": np.arange(count),
            "images": sizes,
            "share": sizes / len(assigned),
            "confidence": sums / sizes,
            "purity": commonest / labelled,
            "label": label,
        }


def most_used(sizes: Int64[np.ndarray, " prototype"], most: int) -> list[int]:
    """Return the prototypes of most images, those without left out; of equals the lower number first."""
    order = np.argsort(-sizes, kind="stable")[:most]
    return [int(number) for number in order if sizes[number]]


def surest(
    of: Bool[np.ndarray, " image"], confidences: Float32[np.ndarray, " image"], most: int
) -> list[int]:
    """Return the numbers of some images, those of the highest confidence first.

    Args:
        of: Which images to choose from.
        confidences: Of each image.
        most: How many at most.
    """
    rows = np.flatnonzero(of)
    return rows[np.argsort(-confidences[rows], kind="stable")[:most]].tolist()


def sizes_in_bins(sizes: Int64[np.ndarray, " prototype"]) -> dict[str, int]:
    """Count prototypes by how many images they have, each bin twice as wide as the one before: 0, 1, 2-3, 4-7."""
    top = int(sizes.max()) if len(sizes) else 0
    found = {"0": int((sizes == 0).sum())}
    low = 1
    while low <= top:
        high = 2 * low - 1
        found[str(low) if low == high else f"{low}-{high}"] = int(((sizes >= low) & (sizes <= high)).sum())
        low *= 2
    return found


def _purity(assigned: Int64[np.ndarray, " image"], labels: Int64[np.ndarray, " image"]) -> float | None:
    if not len(labels):
        return None
    pairs, held = np.unique(np.stack([assigned, labels]), axis=1, return_counts=True)
    best = np.zeros(int(assigned.max()) + 1, np.int64)
    np.maximum.at(best, pairs[0], held)
    return float(best.sum() / len(labels))
