"""The CARP loss of a few blocks, from their logits: value, signs of collapse, and the logits' gradient.

Consistency is taken from the logits a of the student and b of the teacher: with lse the log of the summed
exponentials, `log <s, t> = lse(a + b) - lse(a) - lse(b)`, whose gradient in a is `softmax(a + b) - s`. The
product of probabilities underflows where two sharp views disagree; the authors' code clamps it there, and such
a pair of views learns nothing.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from carp_eval import distributed
from carp_eval.pretrain.chunks import Workspace


class Weights(NamedTuple):
    """How much one term counts.

    Attributes:
        rows: Rows that a block's mean assignment averages, over all processes.
        pair: Weight of the consistency of one pair of views in one block.
        row: Weight of one row's share in the divergence of one block.
    """

    rows: int
    pair: float
    row: float


def block_terms(
    logits: Float[Tensor, "view image block member"],
    target_logits: Float[Tensor, "target image block member"],
    weights: Weights,
    *,
    room: Workspace,
    with_gradient: bool,
) -> tuple[Float[Tensor, "3"], Float[Tensor, "view image block member"] | None]:
    """Take a few blocks' terms; the logits are overwritten.

    Returns:
        Sums over the blocks: consistency and largest assignment of this process's rows, and divergence of all
        processes'. Then, if it is wanted, the gradient of the loss in the logits.
    """
    # From the largest down: where views agree on it, their sum then has no digits to lose.
    logits -= logits.amax(-1, keepdim=True)
    target_logits -= target_logits.amax(-1, keepdim=True)
    assigned = torch.softmax(logits, -1, out=room("assigned", logits.shape))
    targets = torch.softmax(target_logits, -1, out=room("targets", target_logits.shape))
    largest = assigned.amax(-1, keepdim=True)
    use = distributed.sum_in_place(assigned.sum((0, 1)) + targets.sum((0, 1)))
    # As a multiple of even use: the logarithm of that is near 0 and loses no digits when summed.
    mean, block_size = use / weights.rows, logits.shape[-1]
    # Far below any other weight, a mean may underflow to 0, where p ln p is 0 and so is every s ln p.
    log_ratio = (mean * block_size).clamp_min(torch.finfo(mean.dtype).tiny).log()
    divergence = (mean * log_ratio).sum()

    gradient = None
    if with_gradient:
        gradient = torch.mul(assigned, log_ratio * weights.row, out=room("gradient", logits.shape))
        constants = -gradient.sum(-1, keepdim=True)
        for view in range(len(logits)):
            constants[view] += weights.pair * (len(targets) - (view < len(targets)))
        gradient.addcmul_(assigned, constants)

    # The largest of a softmax is one over the sum of exponentials, taken from the largest logit down.
    log_largest, log_largest_target = largest.squeeze(-1).log(), targets.amax(-1).log()
    consistency = logits.new_zeros(())
    for i, view in enumerate(logits):
        for j, target in enumerate(target_logits):
            if i == j:
                continue
            joint = torch.add(view, target, out=room("joint", view.shape))
            agreed = torch.softmax(joint, -1, out=room("agreed", view.shape))
            overlap = joint.amax(-1) - agreed.amax(-1).log() + log_largest[i] + log_largest_target[j]
            consistency -= overlap.sum()
            if gradient is not None:
                gradient[i].sub_(agreed, alpha=weights.pair)
    return torch.stack([consistency, largest.sum(), divergence]), gradient
