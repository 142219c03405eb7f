"""Even assignment of a batch to prototypes, by Sinkhorn and Knopp's algorithm (SwAV, A.1)."""

import torch
from jaxtyping import Float
from torch import Tensor

from carp_eval.pretrain import together


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
    # Logarithms: shares span exp(2 / epsilon), more than float32 holds where epsilon is below 0.023.
    shares = scores.detach().float() / epsilon
    for _ in range(iterations):
        shares = shares - together.gather_plain(shares.logsumexp(dim=0)[None]).logsumexp(dim=0)
        shares = shares.log_softmax(dim=1)
    shares = shares.exp()
    if hard:
        return torch.zeros_like(shares).scatter_(1, shares.argmax(dim=1, keepdim=True), 1.0)
    return shares
