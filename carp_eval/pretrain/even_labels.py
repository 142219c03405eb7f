"""Labels for a whole data set such that all prototypes get as many: Sinkhorn's algorithm in parts (SwAV, D.2)."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from carp_eval.pretrain import together


@torch.no_grad()
def even_labels(
    features: Float[Tensor, "image dim"],
    prototypes: Float[Tensor, "prototype dim"],
    *,
    epsilon: float,
    iterations: int,
    chunk: int = 8192,
) -> Int64[Tensor, " image"]:
    """Assign images to prototypes evenly over the images of all processes, and give each its largest share.

    From one iteration of A.1's algorithm to the next, no more is kept than a factor for each prototype; scores are
    taken anew. Of ImageNet and 3,000 prototypes, the whole matrix would be 15 GB.

    Args:
        features: This process's, of unit length, anywhere.
        prototypes: Of unit length; where they are, it is computed.
        epsilon: The smaller, the sharper the assignment.
        iterations: How often prototypes and images are evened out, in turn.
        chunk: Images at once.

    Returns:
        The prototype of each of this process's images, in main memory.
    """
    # Logarithms: features that gather have factors of exp(2 / epsilon) and more between prototypes.
    factors = prototypes.new_zeros(len(prototypes))
    for iteration in range(iterations):
        totals = torch.full_like(factors, -torch.inf)
        for part in features.split(chunk):
            scores = _scores(part, prototypes, epsilon)
            if iteration > 0:
                scores = scores - (scores + factors).logsumexp(dim=1, keepdim=True)
            totals = totals.logaddexp(scores.logsumexp(dim=0))
        factors = -together.gather_plain(totals[None]).logsumexp(dim=0)
    labels = [
        (_scores(part, prototypes, epsilon) + factors).argmax(dim=1).cpu() for part in features.split(chunk)
    ]
    return torch.cat(labels)


def _scores(
    features: Float[Tensor, "image dim"], prototypes: Float[Tensor, "prototype dim"], epsilon: float
) -> Float[Tensor, "image prototype"]:
    return features.to(prototypes.device) @ prototypes.T / epsilon
