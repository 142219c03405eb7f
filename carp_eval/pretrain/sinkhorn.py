"""Even assignment of a batch to prototypes, by Sinkhorn and Knopp's algorithm (SwAV, A.1)."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from carp_eval import distributed


def sinkhorn(
    scores: Float[Tensor, "image prototype"],
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
    hard: bool = False,
) -> Float[Tensor, "image prototype"]:
    """Assign images to prototypes such that all prototypes are given as much, over the images of all processes.

    Args:
        scores: Inner products of embeddings and prototypes of unit length.
        epsilon: The smaller, the sharper the assignment.
        iterations: How often prototypes and images are evened out, in turn; images come last.
        hard: Whether each image is given wholly to its largest share (SwAV, Table 9).

    Returns:
        The shares, without gradient; an image's sum to one.

    Raises:
        ValueError: If epsilon is not positive, or there is no iteration.
    """
    if not epsilon > 0 or iterations < 1:
        raise ValueError(
            f"epsilon is positive and there is at least one iteration, got {epsilon} and {iterations}"
        )
    log_shares = scores.detach().float() / epsilon
    # Only quotients matter: with the largest at 1, none overflows. The same in all processes.
    shares = (log_shares - _largest(log_shares)).exp()
    for _ in range(iterations):
        shares = shares / distributed.sum_in_place(shares.sum(dim=0)).clamp(
            min=torch.finfo(torch.float32).tiny
        )
        shares = shares / shares.sum(dim=1, keepdim=True)
    if hard:
        return torch.zeros_like(shares).scatter_(1, shares.argmax(dim=1, keepdim=True), 1.0)
    return shares


def _largest(values: Tensor) -> Tensor:
    largest = values.max()
    if distributed.world_size() > 1:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest
