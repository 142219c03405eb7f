"""InfoNCE against a queue of negatives (MoCo: He et al., CVPR 2020, equation 1), and that queue."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from carp_eval.seeds import generator


def info_nce(
    queries: Float[Tensor, "pair image dim"],
    keys: Float[Tensor, "pair image dim"],
    negatives: Float[Tensor, "negative dim"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Tell each query's key from the negatives: the mean over pairs of views and this process's images.

    Averaged over processes it is the whole batch's, the negatives being the same on all.

    Args:
        queries: The student's embeddings, of any length; they alone carry a gradient.
        keys: The teacher's of another view, of any length.
        negatives: Of unit length.
        temperature: tau.
    """
    unit = functional.normalize(queries.float(), dim=-1)
    positive = (unit * functional.normalize(keys.detach().float(), dim=-1)).sum(dim=-1, keepdim=True)
    logits = torch.cat([positive, unit @ negatives.T], dim=-1) / temperature
    return -logits.log_softmax(dim=-1)[..., 0].mean()


class Queue:
    """The last keys of all processes, in a ring; the same on each of them.

    Attributes:
        keys: Of unit length: random directions, until as many were put in.
    """

    def __init__(self, length: int, *, dim: int, seed: int, device: torch.device) -> None:
        """Fill it with random directions, which depend on the seed alone."""
        drawn = torch.randn(length, dim, generator=generator(seed, "queue"))
        self.keys: Float[Tensor, "entry dim"] = functional.normalize(drawn, dim=-1).to(device)

    def put(self, keys: Float[Tensor, "key dim"], *, step: int) -> None:
        """Put the keys of a step where the oldest are.

        Args:
            keys: Of all processes, of unit length, as many in every step.
            step: The step, from 0: it tells where the oldest are.
        """
        places = torch.arange(len(keys), device=self.keys.device) + step * len(keys)
        self.keys[places % len(self.keys)] = keys
