"""The swapped prediction of SwAV (Caron et al., NeurIPS 2020, supplement A.1 and A.6)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from carp_eval.pretrain.sinkhorn import sinkhorn


def swapped_prediction(
    scores: Float[Tensor, "view image prototype"],
    *,
    num_assigned: int,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    hard: bool = False,
    queued: Sequence[Float[Tensor, "queued prototype"]] = (),
) -> Float[Tensor, ""]:
    """Predict the assignment of each global view from all other views of its image.

    Assignments are even over the images of all processes; the rest is this process's mean, whose gradients
    DistributedDataParallel averages to those of the whole batch.

    Args:
        scores: Inner products of embeddings and prototypes, both of unit length; global views first.
        num_assigned: How many views are global: those that are assigned.
        temperature: tau of the softmax.
        epsilon: Of Sinkhorn's algorithm.
        iterations: Likewise.
        hard: Whether assignments are rounded.
        queued: Scores of earlier batches' embeddings for each global view, which are assigned along with this batch and
            then left out (A.6); nothing where there is no queue.

    Returns:
        The cross-entropy, mean over global views and the other views of each; ln K where all shares are even.

    Raises:
        ValueError: If views do not fit together, or the temperature is not positive.
    """
    num_views, num_images, _ = scores.shape
    if not 1 <= num_assigned <= num_views or num_views < 2 or len(queued) not in (0, num_assigned):
        raise ValueError(
            f"{num_assigned} of {num_views} views are assigned, with {len(queued)} queues: expected two views or more, "
            "and a queue for each view that is assigned, or none"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    scores = scores.float()
    log_predicted = (scores / temperature).log_softmax(dim=-1)
    losses: list[Tensor] = []
    for view in range(num_assigned):
        together = torch.cat([scores[view].detach(), *(rows.float() for rows in queued[view : view + 1])])
        assigned = sinkhorn(together, epsilon=epsilon, iterations=iterations, hard=hard)[:num_images]
        crossed = -(assigned * log_predicted).sum(dim=-1).mean(dim=1)
        losses.append((crossed.sum() - crossed[view]) / (num_views - 1))
    return torch.stack(losses).mean()
