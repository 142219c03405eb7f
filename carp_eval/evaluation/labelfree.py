"""Choosing a checkpoint without labels: RankMe, uniformity and alignment."""

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from carp_eval import distributed
from carp_eval.cards.labelfree import LabelFreeCard
from carp_eval.data.preprocessing import Preprocessing
from carp_eval.data.subset import Subset, draw
from carp_eval.data.viewed import ViewedImages
from carp_eval.evaluation.job import Job
from carp_eval.evaluation.outcome import Outcome
from carp_eval.features.bank import Bank
from carp_eval.features.rows import plain_rows
from carp_eval.metrics import label_free
from carp_eval.results import Score

VIEWS = ("view-1", "view-2")


def run(job: Job) -> Outcome:
    """Look at the features of one split, and at those of two views of some of its images.

    None of the numbers is a percentage: RankMe counts directions, uniformity is a logarithm, alignment a distance.

    Args:
        job: The evaluation; its card is a `LabelFreeCard`.

    Raises:
        UsageError: If there are fewer than two images.
        BankError: If a feature is not finite.
    """
    card = job.card
    assert isinstance(card, LabelFreeCard)
    images, given = job.images(card.bank_split), job.model.input
    count = min(card.images or len(images), len(images))
    # In the split's order: sums then do not depend on the order of the draw.
    drawn = np.sort(draw(count, of=len(images), seed=job.seed, what="labelfree"))
    looked_at = images if count == len(images) else Subset(images, drawn, split=images.split)
    bank = job.bank(card.bank_split, images=looked_at)
    pairs = min(card.pairs, len(images))
    seen = Subset(images, draw(pairs, of=len(images), seed=job.seed, what="alignment"), split="aligned")
    # Views are made at the model's size, and need no more.
    size = given.native_size
    as_it_is = Preprocessing(size, size, card.preprocessing.interpolation, given.mean, given.std)
    kind = card.view.model_copy(update={"size": size})
    one, other = (
        job.bank(
            name,
            images=ViewedImages(seen, kind, channels=given.channels, seed=job.seed, name=name),
            preprocessing=as_it_is,
        )
        for name in VIEWS
    )
    return distributed.on_main(lambda: judge(card, bank, one, other, of=len(images)))


def judge(card: LabelFreeCard, bank: Bank, one: Bank, other: Bank, *, of: int) -> Outcome:
    """Score banked features.

    Args:
        card: The protocol.
        bank: The images whose features are looked at.
        one: A view of each of some images.
        other: Another view of the same.
        of: Images in the split that the bank's were drawn from.

    Raises:
        UsageError: If there are fewer than two images.
        BankError: If a feature is not finite.
    """
    features = plain_rows(bank.shards())
    first, second = _paired(one, other)
    return Outcome(
        scores=(
            Score(metric="rankme", value=label_free.rank_me(features, epsilon=card.epsilon)),
            Score(metric="uniformity", value=label_free.uniformity(features, t=card.t)),
            Score(metric="alignment", value=label_free.alignment(first, second, alpha=card.alpha)),
        ),
        predictions={},
        notes=tuple(_notes(len(bank), features.shape[1], of=of, pairs=len(first))),
        counts={"looked_at": len(bank), "pairs": len(first), "dim": features.shape[1]},
    )


def _paired(one: Bank, other: Bank) -> tuple[Float32[Tensor, "image dim"], Float32[Tensor, "image dim"]]:
    """Return the features of the images that both banks have: one may have skipped what the other could read."""
    both = one.index[torch.isin(one.index, other.index)]
    first, second = (plain_rows(bank.shards())[torch.isin(bank.index, both)] for bank in (one, other))
    return first, second


def _notes(count: int, dim: int, *, of: int, pairs: int) -> list[str]:
    notes = [
        f"rankme counts directions, of {min(count, dim)} at most; uniformity is a logarithm and alignment the squared "
        f"distance of two views of {pairs} images, both the lower the better; none is a percentage, and all compare "
        "runs of one method, not methods",
    ]
    if count < of:
        notes.append(f"{count} of {of} images, drawn at random, were looked at")
    return notes
