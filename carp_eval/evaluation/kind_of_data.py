"""Protocols that only data sets of one kind can have: another kind is told so, not which split it lacks."""

from collections.abc import Callable

from carp_eval.data import opening
from carp_eval.data.images import Images
from carp_eval.errors import DataError, UsageError
from carp_eval.evaluation.job import Job


def opened(job: Job, split: str, *, fits: Callable[[Images], bool], needed: str) -> Images:
    """Open a split of the job's data set, which must be of the kind that its protocol needs.

    Args:
        job: The evaluation.
        split: The split.
        fits: Tells whether images are of the kind.
        needed: What the protocol needs and which data sets have it, in words.

    Raises:
        UsageError: If the data set is of another kind.
        DataError: If it is not there or is broken, or is of the kind and lacks the split.
    """
    source = opening.locate(job.dataset, data_root=job.settings.data_root)
    try:
        found = job.images(split)
    except DataError:
        found = _any_of(source.splits, job)
        if found is None or fits(found):
            raise
    if fits(found):
        return found
    raise UsageError(f"{needed}. {job.dataset} has {', '.join(source.splits)}, and {_shown_by(found)}")


def _any_of(splits: tuple[str, ...], job: Job) -> Images | None:
    """Open some split, to see what the images of a data set are like; None where none can be."""
    for split in splits:
        try:
            return opening.open_images(job.dataset, split, data_root=job.settings.data_root)
        except DataError:
            continue
    return None


def _shown_by(images: Images) -> str:
    if images.targets is not None:
        return f"its images show several of {len(images.class_names)} classes each"
    if (images.labels < 0).all():
        return "its images have no classes"
    return f"its images show one of {len(images.class_names)} classes each"
