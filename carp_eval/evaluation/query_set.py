"""The images that are scored: of the bank's data set or of another one, near-duplicates counted or left out."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64

from carp_eval.data.images import Images
from carp_eval.errors import DataError, UsageError
from carp_eval.evaluation import leaks
from carp_eval.evaluation.job import Job
from carp_eval.features.bank import Bank
from carp_eval.features.bank_view import BankView

SHOWN = 3


class QuerySet(NamedTuple):
    """The images that are scored.

    Attributes:
        bank: Their features, with the classes of the images that are learnt from.
        notes: What a reader of the scores must know of them.
        counts: What was counted.
    """

    bank: Bank
    notes: tuple[str, ...]
    counts: Mapping[str, int]


def opened(job: Job, bank: Bank, *, leak_check: bool) -> QuerySet:
    """Open what is scored against a bank. Every process of a group must call this.

    Args:
        job: The evaluation.
        bank: The images that are learnt from.
        leak_check: Whether near-duplicates matter to the protocol.

    Raises:
        UsageError: If the queries have a class that the bank has not, or none is left to score.
        CarpError: If the data are not there, or cannot be read or stored.
    """
    images = job.query_images
    found = of_classes(job.bank(job.query_name, images=images), images, bank)
    return checked(job, found, job.images(job.card.bank_split), images) if leak_check else found


def checked(job: Job, found: QuerySet, learnt: Images, images: Images) -> QuerySet:
    """Look for near-duplicates among the queries, and do with them what the evaluation says.

    Args:
        job: The evaluation.
        found: The queries.
        learnt: The images that are learnt from; where they are those that are scored, there is nothing to look for.
        images: The images that are scored.

    Raises:
        UsageError: If none is left to score.
    """
    if job.leaks == "ignore" or images.manifest_sha256 == learnt.manifest_sha256:
        return found
    pairs = leaks.find(learnt, images, settings=job.settings, bar=job.bar)
    return (without_leaks if job.leaks == "drop" else noted)(found, pairs, learnt, images)


def of_classes(queries: Bank, images: Images, bank: Bank) -> QuerySet:
    """Bring queries to the classes of a bank, by name.

    Where they show only some of its classes, only those may be named for them, as the authors of such sets
    (ImageNet-A, ImageNet-R) have it. Where an image may have several classes (ReaL) any of them is right, and images
    without one are left out.

    Args:
        queries: The features of what is scored.
        images: The images they are of.
        bank: What is learnt from.

    Raises:
        UsageError: If the queries have a class that the bank has not, or no image has a class.
    """
    if queries.class_names == bank.class_names and images.targets is None:
        return QuerySet(queries, (), {})
    numbers = _numbers(queries.class_names, bank.class_names, queries=queries, bank=bank)
    candidates = None
    if len(set(numbers.tolist())) < len(bank.class_names):
        candidates = torch.from_numpy(np.unique(numbers))
    if images.targets is None:
        labels = queries.labels.numpy()
        named = torch.from_numpy(np.where(labels < 0, -1, numbers[labels]))
        view = BankView(queries, labels=named, class_names=bank.class_names, candidates=candidates)
        return QuerySet(view, (), {})
    right = np.zeros((len(queries), len(bank.class_names)), dtype=bool)
    right[:, numbers] = images.targets[queries.index.numpy()] == 1
    rows = torch.from_numpy(np.flatnonzero(right.any(axis=1)))
    if not len(rows):
        raise UsageError(f"no image of {images.name} ({images.split}) has a class: there is nothing to score")
    view = BankView(
        queries,
        rows=rows,
        class_names=bank.class_names,
        candidates=candidates,
        right=right[rows.numpy()],
    )
    without = len(queries) - len(rows)
    note = (f"{without} of {len(queries)} images have no class, and were left out",) if without else ()
    return QuerySet(view, note, {"without_class": without})


def noted(found: QuerySet, pairs: Sequence[leaks.Leak], learnt: Images, images: Images) -> QuerySet:
    """Say how many near-duplicates there are among the queries."""
    leaked = _leaked(found.bank, pairs)
    told = _told(pairs, leaked, learnt, images, len(found.bank))
    notes = (f"{told}; --drop-leaks leaves them out",) if len(leaked) else ()
    return QuerySet(found.bank, found.notes + notes, {**found.counts, "leaks": len(leaked)})


def without_leaks(found: QuerySet, pairs: Sequence[leaks.Leak], learnt: Images, images: Images) -> QuerySet:
    """Leave near-duplicates out of the queries, and say so.

    Raises:
        UsageError: If no query is left.
    """
    leaked = _leaked(found.bank, pairs)
    told = _told(pairs, leaked, learnt, images, len(found.bank))
    if len(leaked) == len(found.bank):
        raise UsageError(f"{told}: with --drop-leaks nothing is left to score")
    counts = {**found.counts, "leaks": len(leaked)}
    if not len(leaked):
        return QuerySet(found.bank, found.notes, counts)
    keep = torch.ones(len(found.bank), dtype=torch.bool)
    keep[leaked] = False
    view = BankView(found.bank, rows=keep.nonzero().flatten())
    return QuerySet(view, (*found.notes, f"{told}; they were left out"), counts)


def _leaked(queries: Bank, pairs: Sequence[leaks.Leak]) -> Int64[torch.Tensor, " leak"]:
    """Return the rows of the queries that are near-duplicates."""
    numbers = torch.tensor([pair.query for pair in pairs], dtype=torch.int64)
    return torch.isin(queries.index, numbers).nonzero().flatten()


def _told(
    pairs: Sequence[leaks.Leak], leaked: torch.Tensor, learnt: Images, images: Images, count: int
) -> str:
    shown = ", ".join(f"{images.key(pair.query)} of {learnt.key(pair.bank)}" for pair in pairs[:SHOWN])
    return (
        f"{len(leaked)} of {count} queries ({len(leaked) / count:.2%}) are near-duplicates of images to learn from, "
        f"such as {shown}"
    )


def _numbers(
    names: Sequence[str], known: Sequence[str], *, queries: Bank, bank: Bank
) -> Int64[np.ndarray, " class"]:
    """Return the number that each of the queries' classes has in the bank."""
    number_of = {name: number for number, name in enumerate(known)}
    if len(number_of) < len(known):
        raise DataError(
            f"{bank.record.dataset} has classes of one name, so that {queries.record.dataset} cannot be brought to "
            "them by name: name its class folders apart"
        )
    unknown = [name for name in names if name not in number_of]
    if unknown:
        shown = ", ".join(unknown[:SHOWN]) + (", ..." if len(unknown) > SHOWN else "")
        raise UsageError(
            f"{queries.record.dataset} ({queries.record.split}) has {len(unknown)} of {len(names)} classes that "
            f"{bank.record.dataset} ({bank.record.split}) has not: {shown}. Queries must have classes of the bank, "
            f"by name; the bank's are {', '.join(known[:SHOWN])}{', ...' if len(known) > SHOWN else ''}"
        )
    return np.array([number_of[name] for name in names], dtype=np.int64)
