"""Making a bank's shards: those that are free, and those that others have claimed and not finished."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, tee

import torch

from carp_eval.data.images import Images
from carp_eval.data.skipping import SkippedImages
from carp_eval.features import shards
from carp_eval.features.bank import Dtype
from carp_eval.features.extraction.claims import Claims
from carp_eval.features.extraction.forward import Part
from carp_eval.features.extraction.placing import Places, place
from carp_eval.features.extraction.profile import Profile
from carp_eval.features.extraction.unfinished import UnfinishedBank
from carp_eval.features.shards import Rows, Span
from carp_eval.models.model import Model

# Told of rows done and rows in all that were left: each process of what it knows to be done, by itself or by others.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What shards are made of, and who is told.

    Attributes:
        model: The model.
        images: The split.
        dtype: How features are stored.
        skip_bad: Has collected the images that could not be read, by when their shard is written.
        progress: Is told of rows done.
        profile: Collects what writing takes.
    """

    model: Model
    images: Images
    dtype: Dtype
    skip_bad: SkippedImages | None = None
    progress: Progress | None = None
    profile: Profile | None = None


def make(
    run: Callable[[Iterable[Span]], Iterator[Part]], claims: Claims, unfinished: UnfinishedBank, job: Job
) -> None:
    """Make shards until all are there.

    Args:
        run: From the images of shards, asked for as they are needed, to their features.
        claims: Says which shards are this process's.
        unfinished: The bank.
        job: What else it takes.

    Raises:
        BankError: If the network gives values that are not finite, or not one row for each image.
        BadImageError: If an image cannot be read, and none may be left out.
        StorageError: If the disk is full, read-only or closed to us.
    """
    total = sum(span.stop - span.start for span in claims.left)
    done = told = 0

    def tell() -> None:
        nonlocal told
        if job.progress is not None and done + claims.elsewhere != told:
            told = done + claims.elsewhere
            job.progress(told, total)

    def counted(parts: Iterable[Part]) -> Iterator[Part]:
        nonlocal done
        for features, index in parts:
            yield features, index
            done += len(index)
            tell()

    waits = claims.waits()
    while claims.left:
        spans = claims.take()
        first = next(spans, None)
        if first is not None:
            # The loader runs ahead of the writer: whoever comes to a shard first claims it for both.
            to_load, to_write = tee(chain([first], spans))
            _write(counted(run(to_load)), to_write, claims, unfinished, job)
        elif claims.left:
            next(waits)
        tell()


def _write(
    parts: Iterable[Part], spans: Iterable[Span], claims: Claims, unfinished: UnfinishedBank, job: Job
) -> None:
    """Write shards, each while the next is computed."""
    skipped = {} if job.skip_bad is None else job.skip_bad.by_number
    images, profile = job.images, job.profile

    def write(places: Places) -> None:
        index = places.index()
        with nullcontext() if profile is None else profile.write(len(index)):
            rows = Rows(
                features=places.features[places.taken],
                labels=torch.from_numpy(images.labels[index.numpy()]),
                index=index,
                keys=[images.key(number) for number in index.tolist()],
            )
            left_out = [skipped[number] for number in places.missing()]
            unfinished.note(shards.write(unfinished.path, places.span, rows, skipped=left_out))
            claims.let_go(places.span)

    full = place(
        parts,
        spans,
        dim=job.model.feature_dim,
        dtype=getattr(torch, job.dtype),
        skipped=skipped,
        name=images.key,
    )
    with ThreadPoolExecutor(max_workers=1) as writer:
        writing = None
        for places in full:
            if writing is not None:
                with nullcontext() if profile is None else profile.stalling():
                    writing.result()
            writing = writer.submit(write, places)
        if writing is not None:
            with nullcontext() if profile is None else profile.stalling():
                writing.result()
