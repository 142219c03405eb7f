"""Choosing settings on a part of train that the candidates have not seen."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from carp_eval import seeds
from carp_eval.errors import UsageError


class Parts(NamedTuple):
    """Rows of a bank, in their order, each in one part.

    Attributes:
        fitted: What candidates are trained on.
        held_out: What they are compared on.
    """

    fitted: Int64[Tensor, " fitted"]
    held_out: Int64[Tensor, " held_out"]


class Judged(NamedTuple):
    """How candidates did on the held-out part.

    Attributes:
        top1: Share named right.
        loss: Mean cross-entropy; not finite for a candidate that diverged.
    """

    top1: Float[Tensor, " candidate"]
    loss: Float[Tensor, " candidate"]


def split(labels: Int64[Tensor, " row"], *, share: float, class_names: Sequence[str], seed: int) -> Parts:
    """Draw the same share of every class, rounded, but one row at least, and leave one at least.

    Args:
        labels: Class of each row.
        share: Share to hold out, in (0, 1).
        class_names: Names of the classes, by number.
        seed: Of the draw.

    Raises:
        UsageError: If there are fewer than two classes, a class has fewer than two rows, or a row has no label.
    """
    if len(class_names) < 2:
        raise UsageError(
            f"a probe tells classes apart and needs two or more, the bank has {len(class_names)}"
        )
    unlabelled = int((labels < 0).sum())
    if unlabelled:
        raise UsageError(f"{unlabelled} of {len(labels)} rows of the bank have no label: nothing to train on")
    counts = torch.bincount(labels, minlength=len(class_names))
    few = [
        f"{class_names[number]} ({counts[number]})" for number in (counts < 2).nonzero().flatten().tolist()
    ]
    if few:
        shown = ", ".join(few[:5]) + (", ..." if len(few) > 5 else "")
        raise UsageError(
            f"every class needs two images to train on or more, one of them to hold out; {len(few)} of "
            f"{len(class_names)} classes have fewer: {shown}"
        )
    quota = (counts * share).round().long().clamp(min=1).minimum(counts - 1)
    shuffled = torch.randperm(len(labels), generator=seeds.generator(seed, "held out"))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    place = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    held = place < quota.repeat_interleave(counts)
    return Parts(by_class[~held].sort().values, by_class[held].sort().values)


def best(judged: Judged) -> int:
    """Return the candidate with the most right; of equals that of the lowest loss, then the first.

    Raises:
        UsageError: If every candidate diverged.
    """
    top1, loss = judged.top1.tolist(), judged.loss.tolist()
    finite = judged.loss.isfinite().nonzero().flatten().tolist()
    if not finite:
        raise UsageError(f"all {len(loss)} candidates diverged: give lower learning rates or weight decays")
    return min(finite, key=lambda number: (-top1[number], loss[number]))
