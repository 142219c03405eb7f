"""Splits whose images show several classes, as support vector machines take them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int8

from carp_eval.cards.voc07 import SvmCard
from carp_eval.data.images import Images
from carp_eval.errors import UsageError
from carp_eval.evaluation import kind_of_data, query_set
from carp_eval.evaluation.job import Job
from carp_eval.evaluation.query_set import QuerySet
from carp_eval.features.bank import Bank
from carp_eval.features.rows import plain_rows
from carp_eval.metrics.voc import Difficult
from carp_eval.models.pooling import pooled

# Added to a row's length before the row is divided by it: VISSL's and PCL's.
LENGTH_OFFSET = 1e-5


class Split(NamedTuple):
    """A split's features and what its images show.

    Attributes:
        features: Scaled, in C order.
        targets: 1 for each class an image shows, 0 where that is difficult to tell, -1 for those it does not.
        class_names: Names of the classes.
        notes: What a reader of the scores must know of it.
        counts: What was counted.
        made_of: What tells its rows from all others.
    """

    features: Float64[np.ndarray, "row dim"]
    targets: Int8[np.ndarray, "row class"]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    counts: Mapping[str, int]
    made_of: str


class Banked(NamedTuple):
    """A split's bank.

    Attributes:
        bank: The features as they are stored.
        targets: What each image of the split shows.
        notes: What a reader of the scores must know of it.
        counts: What was counted.
    """

    bank: Bank
    targets: Int8[np.ndarray, "image class"]
    notes: tuple[str, ...]
    counts: Mapping[str, int]


def banks(job: Job) -> tuple[Banked, Banked]:
    """Bank the two splits of a job whose card trains support vector machines. Every process must call this.

    Raises:
        UsageError: If the data set does not tell several classes of an image.
        CarpError: If the data are not there, or cannot be read or stored.
    """
    names = (job.card.bank_split, job.card.query_split)
    # Both, before minutes go into the features of the first.
    told = [targets_of(job, name) for name in names]
    card = job.card
    assert isinstance(card, SvmCard)
    model = (
        pooled(job.model, pooling="places", places=card.places, per_scale_unit=False)
        if card.places > 1
        else None
    )
    train, learnt, asked = job.bank(names[0], model=model), job.images(names[0]), job.images(names[1])
    test = query_set.checked(job, QuerySet(job.bank(names[1], model=model), (), {}), learnt, asked)
    job.judged = test.bank
    notes = [_partial(job.images(name)) for name in names]
    return Banked(train, told[0], notes[0], {}), Banked(
        test.bank, told[1], notes[1] + test.notes, test.counts
    )


def read(banked: Banked) -> Split:
    """Read a split's features into memory.

    Raises:
        BankError: If a shard cannot be read, or a feature is not finite.
    """
    bank = banked.bank
    features = plain_rows(bank.shards()).double()
    features /= torch.linalg.vector_norm(features, dim=1, keepdim=True) + LENGTH_OFFSET
    return Split(
        features.numpy(),
        banked.targets[bank.index.numpy()],
        bank.class_names,
        banked.notes,
        banked.counts,
        # Where near-duplicates were left out, the bank is the same, its rows are not.
        f"{bank.fingerprint.sha256} {len(bank)}",
    )


def targets_of(job: Job, split: str) -> Int8[np.ndarray, "image class"]:
    """Return what the images of a split show.

    Raises:
        UsageError: If each has one class or none, as in most data sets.
        DataError: If the split is not there or is broken.
    """
    targets = kind_of_data.opened(
        job,
        split,
        fits=lambda images: images.targets is not None,
        needed=f"{job.card.kind}@{job.card.variant} is judged on images that show several classes: say -d voc07, or "
        "-d voc07:PATH for a copy elsewhere",
    ).targets
    assert targets is not None
    return targets


def taught(targets: Int8[np.ndarray, "*rows"], difficult: Difficult) -> Int8[np.ndarray, "*rows"]:
    """Return what machines learn: 1 and -1, and 0 for what is left out."""
    return np.where(targets == 0, np.int8(-1), targets) if difficult == "negative" else targets


def judged_classes(
    train: Split, test: Split, *, difficult: Difficult, least: int = 1
) -> tuple[list[int], list[str]]:
    """Choose the classes that can be learnt and scored: on a part of the data set that may not be all.

    Args:
        train: What is learnt from.
        test: What is scored.
        difficult: What becomes of difficult images in training.
        least: Images with the class, and without it, that learning takes.

    Returns:
        The classes, and notes on those left out.

    Raises:
        UsageError: If none is left.
    """
    learnt = taught(train.targets, difficult)
    enough = np.minimum((learnt > 0).sum(axis=0), (learnt < 0).sum(axis=0)) >= least
    judged = enough & (test.targets > 0).any(axis=0)
    out = [train.class_names[number] for number in np.flatnonzero(~judged)]
    if len(out) == len(judged):
        raise UsageError(
            f"no class can be judged: each needs {least} training images that show it or more, as many that do not, "
            f"and a test image that does; there are {len(learnt)} training and {len(test.targets)} test images"
        )
    notes = [
        f"mAP is over {len(judged) - len(out)} of {len(judged)} classes: too few images show {', '.join(out)}"
    ]
    return np.flatnonzero(judged).tolist(), notes if out else []


def _partial(images: Images) -> tuple[str, ...]:
    told = f"{images.partial} are there: its scores do not compare with those of the whole"
    return (told,) if images.partial else ()
