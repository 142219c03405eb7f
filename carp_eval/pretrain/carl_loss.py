"""The CARL loss (Silva and Ramírez Rivera, SAC 2022, section 3): consistent assignment to all prototypes at once."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from carp_eval.pretrain import together


class CarlLoss(NamedTuple):
    """The loss and its parts, over all processes. Only `total` carries a gradient.

    Attributes:
        total: `consistency` plus the weight times `kl`.
        consistency: Mean over images and pairs of views of `-log <p^a, p^b>` (equation 4); ln K where views are given
            evenly to all prototypes, 0 where each is given to one and the two agree.
        kl: `ln K - H(p)` of the mean assignment p (equation 5): 0 where all prototypes are used evenly, ln K where one
            takes all.
    """

    total: Float[Tensor, ""]
    consistency: Float[Tensor, ""]
    kl: Float[Tensor, ""]


def carl_loss(logits: Float[Tensor, "view image prototype"], *, kl_weight: float) -> CarlLoss:
    """Take the CARL loss of a batch (equation 7), with gradients through both views of each pair.

    With more than two views, each pair counts alike; the paper has two. The mean assignment is that of all views of all
    processes' images.

    Args:
        logits: Inner products of embeddings and prototypes (equation 2), of views of the same images.
        kl_weight: lambda_e of this epoch.

    Raises:
        ValueError: If there are not two views.
    """
    num_views, _, num_prototypes = logits.shape
    if num_views < 2:
        raise ValueError(f"at least two views of an image are compared, got {num_views}")
    log_shares = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
    first, second = torch.triu_indices(num_views, num_views, offset=1, device=logits.device)
    # In log space: the inner product of two sharp assignments that disagree underflows, and would teach nothing.
    agreement = (log_shares[first] + log_shares[second]).logsumexp(dim=-1)
    consistency = together.mean(-agreement.mean())
    share = together.mean(log_shares.exp().mean(dim=(0, 1)))
    # A share may underflow to 0, where the logarithm has no gradient.
    kl = math.log(num_prototypes) + (share * share.clamp(min=torch.finfo(share.dtype).tiny).log()).sum()
    return CarlLoss(consistency + kl_weight * kl, consistency.detach(), kl.detach())


def kl_weight(epoch: float, *, start: float, end: float, epochs: float) -> float:
    """Return lambda_e: from `start` linearly down to `end` over the first epochs, then `end` (equation 8).

    Args:
        epoch: Epochs done.
        start: b of the equation.
        end: a of the equation.
        epochs: E of the equation.
    """
    return end if epoch > epochs else start - (start - end) / epochs * epoch
