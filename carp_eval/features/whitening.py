"""PCA whitening: features turned so that no direction of the data they are learnt on counts more than another."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64
from sklearn.decomposition import PCA
from torch import Tensor

from carp_eval.errors import UsageError

# Of the largest variance. What a bank's float16 adds by rounding is about this much: to whiten it is to shout noise.
NEGLIGIBLE = 1e-9


class Whitening(NamedTuple):
    """What was learnt.

    Attributes:
        mean: Of the features.
        projection: Onto the principal axes, the one of the largest variance first, each divided by its deviation.
        learnt_on: How many features it was learnt on.
    """

    mean: Float64[Tensor, " dim"]
    projection: Float64[Tensor, "dim component"]
    learnt_on: int


def learn(features: Float32[Tensor, "row dim"], *, components: int | None = None) -> Whitening:
    """Find the principal axes of features, and how far these spread along each (Jégou and Chum, ECCV 2012).

    The covariance is that of the centred features. (DINO's Copydays script takes that of the features as they are, and
    still subtracts the mean from what it whitens.) Axes along which nothing spreads are left out.

    Args:
        features: What is learnt on; of unit length, if what is whitened is.
        components: Axes to keep; None keeps all that there are.

    Raises:
        UsageError: If there are fewer than two features, all are the same, or more axes are asked for than there are.
    """
    if len(features) < 2:
        raise UsageError(f"whitening is learnt on two images or more, got {len(features)}")
    # By the covariance where there are more images than dimensions: a tenth of the time, and precise enough here.
    solver = "covariance_eigh" if len(features) >= features.shape[1] else "full"
    # Where nothing spreads, scikit-learn divides by it on the way to a share that nobody asked for.
    with np.errstate(invalid="ignore"):
        found = PCA(svd_solver=solver).fit(features.double().numpy())
    axes, variances = np.asarray(found.components_), np.asarray(found.explained_variance_)
    count = int((variances > max(NEGLIGIBLE * variances[0], np.finfo(np.float32).tiny)).sum())
    if not count or (components or 0) > count:
        raise UsageError(
            f"{len(features)} features of {features.shape[1]} dimensions spread along {count} directions; whitening "
            f"to {components or 'any'} needs more: learn it on more images, or on others"
        )
    kept = components or count
    projection = axes[:kept].T / np.sqrt(variances[:kept])
    return Whitening(torch.from_numpy(np.asarray(found.mean_)), torch.from_numpy(projection), len(features))


def whiten(features: Float32[Tensor, "row dim"], whitening: Whitening) -> Float32[Tensor, "row component"]:
    """Whiten features, and bring each to unit length.

    A feature that is the mean of those it was learnt on has no direction left, and becomes zero.
    """
    turned = (features.double() - whitening.mean) @ whitening.projection
    return torch.nn.functional.normalize(turned, dim=1).float()
