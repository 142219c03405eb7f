"""What features tell of themselves, without a label: how many directions they span, how evenly they spread."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from carp_eval.errors import UsageError

# The authors' epsilon, meant for float32.
EPSILON = 1e-7
CHUNK_VALUES = 2**23


def rank_me(features: Float[Tensor, "image dim"], *, epsilon: float = EPSILON) -> float:
    """Return how many directions features span: RankMe (Garrido et al., ICML 2023, equation 1).

    exp(- sum_k p_k log p_k) with p_k = sigma_k / sum_j sigma_j + epsilon, where sigma_k is the k-th singular value:
    from 1, when all features lie on one line, to min(image, dim). Features are not centred. The epsilon adds some
    1e-6 for each direction that is missing; with 0 the rank is exact, as 0 log 0 = 0 in float64.

    Raises:
        UsageError: If there are no features, or one is not finite.
    """
    _check(features)
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp_min(torch.finfo(torch.float64).tiny) + epsilon
    return math.exp(torch.special.entr(shares).sum().item())


def alignment(
    one: Float[Tensor, "image dim"], other: Float[Tensor, "image dim"], *, alpha: float = 2.0
) -> float:
    """Return how far two views of an image lie apart (Wang and Isola, ICML 2020, section 4.1): lower is better.

    The mean of |x - y|^alpha over the images, of features brought to unit length.

    Raises:
        UsageError: If there are no features, or one is not finite.
    """
    _check(one)
    _check(other)
    distances = torch.linalg.vector_norm(_unit(one) - _unit(other), dim=1)
    return float((distances**alpha).mean())


def uniformity(features: Float[Tensor, "image dim"], *, t: float = 2.0, chunk: int | None = None) -> float:
    """Return how evenly features spread on the sphere (Wang and Isola, ICML 2020, section 4.1): lower is better.

    log of the mean of exp(-t |x - y|^2) over all pairs of different images, of features brought to unit length:
    0 where all are the same; -2t, or a little less where there are few, where they spread evenly in many dimensions.

    Args:
        features: Of one view of each image.
        t: How fast a pair stops to count with its distance.
        chunk: Images compared with all others at a time; None is from the memory that takes. It moves the value by
            no more than float64's rounding.

    Raises:
        UsageError: If there are fewer than two images, or a feature is not finite.
    """
    _check(features)
    count = len(features)
    if count < 2:
        raise UsageError("uniformity compares pairs of images: it needs two or more, got 1")
    unit = _unit(features)
    # Zeros have no direction: equal to each other, and 1 from all else. A dead network is not to look even.
    squared = unit.square().sum(dim=1)
    total = 0.0
    step = chunk or max(1, CHUNK_VALUES // count)
    for start in range(0, count, step):
        part = unit[start : start + step]
        squares = torch.addmm(squared[start:], part, unit[start:].T, alpha=-2)
        squares = squares.add_(squared[start : start + step, None]).clamp_(min=0)
        # Pairs within the chunk would come twice, and each image with itself: count those above the diagonal.
        total += squares.mul_(-t).exp_().triu_(diagonal=1).sum().item()
    return math.log(total / (count * (count - 1) / 2))


def _check(features: Float[Tensor, "image dim"]) -> None:
    if not len(features):
        raise UsageError("there are no features to look at")
    bad = int((~features.isfinite().all(dim=1)).sum())
    if bad:
        raise UsageError(f"{bad} of {len(features)} images have features that are NaN or infinite")


def _unit(features: Float[Tensor, "image dim"]) -> Float[Tensor, "image dim"]:
    return torch.nn.functional.normalize(features.double(), eps=torch.finfo(torch.float64).tiny)
