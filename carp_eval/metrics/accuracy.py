"""How often a ranking of classes names the right one."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from carp_eval.errors import UsageError

# Classes named for an image, where as many are to be had: what top-5 looks at.
PLACES = 5


def rank_classes(scores: Float[Tensor, "image class"], *, places: int) -> Int64[Tensor, "image place"]:
    """Name the classes of the highest scores, the highest first; of equals the one with the lower number.

    Args:
        scores: What each class has: votes, or logits.
        places: How many to name.
    """
    left = scores.clone()
    named: list[Tensor] = []
    for _ in range(places):
        # argmax returns the first of equals, which neither topk nor sort promises to put first at this price.
        named.append(left.argmax(dim=1, keepdim=True))
        left.scatter_(1, named[-1], -torch.inf)
    return torch.cat(named, dim=1)


def hits(
    ranking: Int64[np.ndarray, "image place"], labels: Int64[np.ndarray, " image"], *, among: int
) -> Bool[np.ndarray, " image"]:
    """Tell for each image whether its class is among the first few that were named.

    With fewer places than `among`, all count: with 5 classes or fewer the top-5 accuracy is 100 %.

    Args:
        ranking: Classes, the likeliest first.
        labels: The right class of each image.
        among: How many of the first count: 1 for top-1.

    Raises:
        UsageError: If an image has no label, or there is no image.
    """
    _check(labels)
    return (ranking[:, :among] == labels[:, None]).any(axis=1)


def per_class(
    predicted: Int64[np.ndarray, " image"], labels: Int64[np.ndarray, " image"], *, num_classes: int
) -> Float64[np.ndarray, " class"]:
    """Return the share of each class's images that were named right; NaN for a class without images.

    Raises:
        UsageError: If an image has no label, or there is no image.
    """
    table = confusion(predicted, labels, num_classes=num_classes)
    counts = table.sum(axis=1)
    return np.divide(table.diagonal(), counts, out=np.full(num_classes, np.nan), where=counts > 0)


def mean_per_class(
    predicted: Int64[np.ndarray, " image"], labels: Int64[np.ndarray, " image"], *, num_classes: int
) -> float:
    """Return the mean over classes of the share named right; classes without images do not count.

    Raises:
        UsageError: If an image has no label, or there is no image.
    """
    return float(np.nanmean(per_class(predicted, labels, num_classes=num_classes)))


def confusion(
    predicted: Int64[np.ndarray, " image"], labels: Int64[np.ndarray, " image"], *, num_classes: int
) -> Int64[np.ndarray, "class class"]:
    """Count the images of each class (row) that were taken for each class (column).

    Raises:
        UsageError: If an image has no label, or there is no image.
    """
    _check(labels)
    cells = labels * num_classes + predicted
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def _check(labels: Int64[np.ndarray, " image"]) -> None:
    if not len(labels):
        raise UsageError("there is no image to score")
    without = int((labels < 0).sum())
    if without:
        raise UsageError(
            f"{without} of {len(labels)} images have no label: only labelled images can be scored"
        )
