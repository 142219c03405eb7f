"""Whether embeddings point in all directions or in one: the sign of collapse of methods that compare angles."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from carp_eval.pretrain.signs import few_directions

# SimSiam's figure 2 stays near 1 where training goes well, and falls to 0 without its stop-gradient.
LEAST = 0.2


@torch.no_grad()
def spread(embeddings: Float[Tensor, "*rows dim"]) -> Float[Tensor, ""]:
    """Return how far unit embeddings scatter: 1 where they point evenly everywhere, 0 where all point the same way.

    It is the deviation of each dimension of z / |z|, averaged, times the root of their number (SimSiam, figure 2).
    """
    unit = functional.normalize(embeddings.float(), dim=-1).flatten(0, -2)
    return unit.std(dim=0, correction=0).mean() * unit.shape[-1] ** 0.5


def warnings(seen: Mapping[str, float], *, advice: str) -> dict[str, str]:
    """Say in words that embeddings or features have collapsed, by the sign that shows it.

    Args:
        seen: `spread` and `effective_rank`; either may be missing.
        advice: What to change, as the end of a sentence.
    """
    said: dict[str, str] = {}
    if seen.get("spread", 1.0) < LEAST:
        said["spread"] = (
            f"Embeddings point nearly the same way: spread {seen['spread']:.2f}, where 1 is evenly everywhere and 0 is "
            f"collapse. {advice}."
        )
    return said | few_directions(seen, advice=advice)
