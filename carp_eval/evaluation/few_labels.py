"""Which of a split's images a protocol on few labels trains on, and how a score says so."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from carp_eval.cards.finetune import FinetuneCard
from carp_eval.data import subsets
from carp_eval.data.images import Images
from carp_eval.data.subset import Subset
from carp_eval.evaluation.job import Job
from carp_eval.results import Setting

# Under this name the images that were chosen stand in the record.
CHOSEN = "chosen to train on"


def choose(card: FinetuneCard, job: Job, whole: Images) -> tuple[Images, list[str]]:
    """Choose the images that the card trains on.

    Args:
        card: The protocol.
        job: Its data set and seed.
        whole: The labelled split.

    Returns:
        The images, and what is to be said of the choice.

    Raises:
        DataError: If a list is missing, is not the one that the field uses, or does not fit the data.
    """
    found = listed(job, whole, card.fraction, image_list=card.image_list)
    if found is not None:
        return _subset(job, whole, found[0]), [f"trained on {found[1]}"]
    if card.images_per_class is not None:
        return some_of_each(job, whole, card.images_per_class)
    assert card.fraction is not None
    if card.fraction == 1:
        return whole, []
    numbers = subsets.share_of_each_class(whole.labels, card.fraction, seed=job.seed)
    note = f"{len(numbers):,} of {len(whole):,} images, {card.fraction:.4g} of each class, were drawn with the seed"
    return _subset(job, whole, numbers), [note]


def listed(
    job: Job, whole: Images, fraction: float | None, *, image_list: str | None = None
) -> tuple[Int64[np.ndarray, " chosen"], str] | None:
    """Find the images of a list: the one named or, without it, the one that the field uses.

    Args:
        job: Its data set, and where data sets are.
        whole: The split.
        fraction: Share of the split that is wanted.
        image_list: A file that names images.

    Returns:
        The images' numbers, and which list it was, in words; None where no list is named and the field uses none.

    Raises:
        DataError: If the list is missing, is not the one that the field uses, or does not fit the data.
    """
    known = subsets.known_list(job.dataset, fraction)
    if known is None and image_list is None:
        return None
    path = None if image_list is None else Path(image_list)
    read = subsets.read_list(path, known, data_root=job.settings.data_root)
    numbers = subsets.listed(whole, read.names)
    which = "SimCLR's list" if read.known else "a list"
    return numbers, f"the {len(numbers):,} images of {which}, SHA-256 {read.sha256}"


def some_of_each(job: Job, whole: Images, count: int) -> tuple[Images, list[str]]:
    """Draw a number of images of each class, and say so."""
    numbers = subsets.some_of_each_class(whole.labels, count, seed=job.seed)
    classes = len(whole.class_names)
    notes = [f"{len(numbers):,} of {len(whole):,} images, {count} of each class, were drawn with the seed"]
    few = subsets.classes_below(whole.labels, count, num_classes=classes)
    if few:
        notes.append(f"{few} of {classes} classes have fewer than {count} images, and gave all they have")
    return _subset(job, whole, numbers, name=f"{CHOSEN}, {count} of each class"), notes


def amount(card: FinetuneCard) -> dict[str, Setting]:
    """Return the setting of a score that tells how much was trained on."""
    if card.images_per_class is not None:
        return {"images_per_class": card.images_per_class}
    assert card.fraction is not None
    return {"fraction": card.fraction}


def _subset(job: Job, whole: Images, numbers: Int64[np.ndarray, " chosen"], *, name: str = CHOSEN) -> Images:
    chosen = Subset(whole, numbers, split=name)
    job.opened[name] = chosen
    return chosen
