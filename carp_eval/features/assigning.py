"""To which prototypes images belong, and how surely.

The logit of an image and a prototype is the inner product of embedding and prototype, divided by a temperature. A
confidence is the softmax of an image's logits over all prototypes. No training by blocks (CARP) or by even shares
(SwAV) takes it: blocks exist only inside a step, and even shares only inside a batch.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

# Logits that are held at once: 256 MiB of them.
MOST_LOGITS = 2**26


class Assigned(NamedTuple):
    """The prototypes of each image, the nearest first.

    Attributes:
        prototypes: Their numbers.
        confidences: Their shares of the softmax over all prototypes.
    """

    prototypes: Int64[Tensor, "image place"]
    confidences: Float[Tensor, "image place"]


def assign(
    embeddings: Float[Tensor, "image dim"],
    prototypes: Float[Tensor, "prototype dim"],
    *,
    temperature: float = 1.0,
    unit_embeddings: bool = False,
    places: int = 1,
    most_logits: int = MOST_LOGITS,
) -> Assigned:
    """Find the prototypes of the highest logits.

    Args:
        embeddings: What the projection head makes of images.
        prototypes: As they are compared: of unit length where the method has them so.
        temperature: What inner products are divided by.
        unit_embeddings: Whether embeddings are scaled to unit length first.
        places: How many prototypes of each image.
        most_logits: Logits to hold at once.

    Raises:
        ValueError: If there are fewer prototypes than places.
    """
    if not 1 <= places <= len(prototypes):
        raise ValueError(f"there are {len(prototypes)} prototypes, and {places} of each image were asked for")
    numbers: list[Tensor] = []
    shares: list[Tensor] = []
    for part in embeddings.split(max(1, most_logits // len(prototypes))):
        rows = part.float()
        logits = (torch.nn.functional.normalize(rows) if unit_embeddings else rows) @ prototypes.T
        logits /= temperature
        highest = logits.topk(places, dim=1)
        numbers.append(highest.indices)
        shares.append((highest.values - logits.logsumexp(dim=1, keepdim=True)).exp())
    return Assigned(torch.cat(numbers), torch.cat(shares))
