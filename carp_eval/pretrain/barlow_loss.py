"""The Barlow Twins loss (Zbontar et al., ICML 2021, section 2)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from carp_eval.pretrain import together

# What BatchNorm adds to a variance, with which the authors' code brings embeddings to one scale.
EPSILON = 1e-5


class BarlowLoss(NamedTuple):
    """The loss and its parts, over all processes. Only `total` carries a gradient.

    Attributes:
        total: `invariance` plus lambda times `redundancy`.
        invariance: Sum over dimensions of `(1 - C_ii)^2`: 0 where views agree in each.
        redundancy: Sum over pairs of dimensions of `C_ij^2`: 0 where no two tell the same.
    """

    total: Float[Tensor, ""]
    invariance: Float[Tensor, ""]
    redundancy: Float[Tensor, ""]


def barlow_loss(embeddings: Float[Tensor, "view image dim"], *, redundancy_weight: float) -> BarlowLoss:
    """Bring the cross-correlation of two views near the identity (equations 1 and 2).

    C_ij is the correlation, over the whole batch of all processes, of dimension i of one view and j of the other; its
    means and deviations are of the whole batch too. With more than two views, the mean over their pairs.

    Args:
        embeddings: Of views of this process's images.
        redundancy_weight: lambda.

    Raises:
        ValueError: If there are not two views.
    """
    num_views, num_images, dim = embeddings.shape
    if num_views < 2:
        raise ValueError(f"at least two views of an image are compared, got {num_views}")
    embeddings = embeddings.float()
    # All is made of means over images, so that each process adds the gradient of its own alone (see `together`).
    # A shift changes no covariance, and without it `E[x y] - E[x] E[y]` would lose what a large mean hides.
    shifted = embeddings - together.mean(embeddings.detach().mean(dim=1))[:, None]
    means = together.mean(shifted.mean(dim=1))
    variances = together.mean(shifted.square().mean(dim=1)) - means.square()
    deviations = (variances + EPSILON).sqrt()
    on_diagonal, beside = embeddings.new_zeros(()), embeddings.new_zeros(())
    pairs = [(a, b) for a in range(num_views) for b in range(a + 1, num_views)]
    for a, b in pairs:
        products = together.mean(shifted[a].T @ shifted[b] / num_images)
        correlation = (products - torch.outer(means[a], means[b])) / torch.outer(deviations[a], deviations[b])
        diagonal = correlation.diagonal()
        on_diagonal = on_diagonal + (1 - diagonal).square().sum() / len(pairs)
        off = ~torch.eye(dim, dtype=torch.bool, device=correlation.device)
        beside = beside + correlation.masked_select(off).square().sum() / len(pairs)
    return BarlowLoss(on_diagonal + redundancy_weight * beside, on_diagonal.detach(), beside.detach())
