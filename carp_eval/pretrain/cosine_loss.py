"""Predictions and what they are to meet, as the angle between them (BYOL, section 3.1; SimSiam, section 3)."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def similarity(
    predictions: Float[Tensor, "pair image dim"], targets: Float[Tensor, "pair image dim"]
) -> Float[Tensor, ""]:
    """Return the mean cosine of predictions and targets: 1 where they agree, 0 where they have nothing in common.

    A mean over pairs of views and this process's images; averaged over processes, the whole batch's. Targets carry no
    gradient: that, with the predictor, is what keeps both methods from collapse.

    Args:
        predictions: q of BYOL, p of SimSiam; of any length.
        targets: z' of BYOL, stop-gradient z of SimSiam.
    """
    # In float32: near its end a training changes the cosine by less than half precision tells apart.
    return functional.cosine_similarity(predictions.float(), targets.detach().float(), dim=-1).mean()


def byol_loss(
    predictions: Float[Tensor, "pair image dim"], targets: Float[Tensor, "pair image dim"]
) -> Float[Tensor, ""]:
    """Take the BYOL loss (equation 2, and its sum over both directions): between 0 and 8, 4 where nothing agrees.

    Each of two directions is the squared distance of unit vectors, `2 - 2 cos`. With more pairs than two, twice their
    mean, so that the loss is the paper's at two views; with one alone it is still counted twice.

    Args:
        predictions: What the predictor makes of one view of each pair.
        targets: The teacher's projection of the other view.
    """
    return 2 * (2 - 2 * similarity(predictions, targets))


def simsiam_loss(
    predictions: Float[Tensor, "pair image dim"], targets: Float[Tensor, "pair image dim"]
) -> Float[Tensor, ""]:
    """Take the SimSiam loss (equations 2 and 4): minus the mean cosine over both directions, between -1 and 1.

    Args:
        predictions: What the predictor makes of one view of each pair.
        targets: The projection of the other view.
    """
    return -similarity(predictions, targets)
