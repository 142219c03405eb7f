"""From a model and a split to a memory bank: shard by shard, resumable, by any number of processes.

One process and many give the same bytes: a shard is made whole by whoever claims it, and rows are placed by their
image's number. Killed at any time, its shards are made by the other processes, or by the next that is started.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from carp_eval import distributed, files
from carp_eval.data.image_loader import default_workers
from carp_eval.data.images import Images
from carp_eval.data.loading import in_chunks, pixel_batches
from carp_eval.data.preprocessing import Preprocessing
from carp_eval.data.skipping import SkippedImage, SkippedImages
from carp_eval.errors import BadImageError, BankError, UsageError
from carp_eval.features import bank as banks
from carp_eval.features import shards
from carp_eval.features.bank import Bank, Dtype, Fingerprint, Precision
from carp_eval.features.extraction import making
from carp_eval.features.extraction.claims import Claims
from carp_eval.features.extraction.forward import Part, choose_device, forward
from carp_eval.features.extraction.making import Job, Progress
from carp_eval.features.extraction.profile import Profile
from carp_eval.features.extraction.unfinished import Plan, UnfinishedBank
from carp_eval.features.extraction.views import PLAIN, Views, seen
from carp_eval.features.shards import ShardRecord, Span
from carp_eval.models.model import Model

SHARD_ROWS = 4096
# Shards of a finished bank that are read at one time: a core hashes more slowly than most disks read.
HASHED_AT_ONCE = min(8, os.cpu_count() or 1)


def extract(
    model: Model,
    images: Images,
    preprocessing: Preprocessing,
    *,
    dtype: Dtype = "float16",
    precision: Precision = "float32",
    views: Views = PLAIN,
    compiled: bool = False,
    batch_size: int = 64,
    num_workers: int | None = None,
    device: str | None = None,
    shard_rows: int = SHARD_ROWS,
    bank_home: Path | None = None,
    skip_bad: SkippedImages | None = None,
    progress: Progress | None = None,
    profile: Profile | None = None,
) -> Bank:
    """Return the bank of a model on a split: the one that is there, or a new one.

    A bank of the same fingerprint is read through against its hashes and used again; only damaged shards are redone,
    and each is said. Where other processes are making it, this one takes its part of the shards, those of processes
    that died included; they need not be of one group, but every process of a group must call this. Memory does not
    grow with the number of images, but for what the split itself keeps.

    Args:
        model: The model.
        images: The split.
        preprocessing: How images become input.
        dtype: How features are stored.
        precision: `bf16` runs the network in bfloat16 autocast.
        views: How each image is seen: the mean of its views is its row.
        compiled: Whether torch compiles the network first.
        batch_size: Images in a forward pass.
        num_workers: Processes that load images; None is from the cores.
        device: A torch device; None takes a GPU if there is one.
        shard_rows: Images in a shard, rounded up to whole batches: what a kill may cost.
        bank_home: Folder that holds banks; None is `$CARP_HOME/banks`.
        skip_bad: Collects images that cannot be read; without it the first one is an error.
        progress: Is told of rows done.
        profile: Collects what each stage takes.

    Raises:
        BankError: If the network gives values that are not finite, or not one row for each image.
        BadImageError: If an image cannot be read, or could not be, and `skip_bad` is not given.
        StorageError: If the disk is full, read-only or closed to us; finished shards stay.
        UsageError: If the device cannot be used, a size is not positive, the network does not take a scale or cannot
            be compiled.
    """
    if batch_size < 1 or shard_rows < 1:
        raise UsageError(f"a batch and a shard have at least one image, got {batch_size} and {shard_rows}")
    if not len(images):
        raise BankError(f"{images.name} ({images.split}) has no images: there is nothing to extract")
    model = seen(model, views)
    fingerprint = fingerprint_of(model, images, preprocessing, dtype=dtype, precision=precision, views=views)
    path = banks.folder(fingerprint, bank_home)
    plan = Plan(images=len(images), images_per_shard=-(-shard_rows // batch_size) * batch_size)

    job = Job(model=model, images=images, dtype=dtype, skip_bad=skip_bad, progress=progress, profile=profile)

    def run(spans: Iterable[Span]) -> Iterator[Part]:
        target = choose_device(device)
        loaded = pixel_batches(
            images,
            preprocessing,
            # Of a shard's own images alone, or who makes it would decide how it is rounded.
            (chunk for span in spans for chunk in in_chunks(range(span.start, span.stop), batch_size)),
            num_workers=num_workers,
            skip_bad=skip_bad,
            pin_memory=target.type == "cuda",
            stand_back=target.type == "cpu",
            laps=None if profile is None else profile.loading,
        )
        if profile is not None:
            profile.device = target.type
            profile.workers = default_workers(images) if num_workers is None else num_workers
        return forward(
            model.network,
            loaded,
            device=target,
            precision=precision,
            finish=preprocessing.finisher(target),
            compiled=compiled,
            profile=profile,
        )

    if not distributed.on_main(lambda: _damage(path, fingerprint) == []):
        left = distributed.on_main(lambda: _take_up(path, fingerprint, plan, skip_bad))
        if left is not None:
            unfinished = UnfinishedBank(path, left.plan)
            with (
                distributed.failing_together(),
                closing(Claims(unfinished, finished=left.finished)) as claims,
            ):
                making.make(run, claims, unfinished, job)
                _finish(unfinished, fingerprint, model, images)
    bank = Bank.open(path)
    _agree_to_skip(bank.skipped, skip_bad)
    return bank


def fingerprint_of(
    model: Model,
    images: Images,
    preprocessing: Preprocessing,
    *,
    dtype: Dtype,
    precision: Precision,
    views: Views = PLAIN,
) -> Fingerprint:
    """Return what tells the bank of this model, split and settings from all others.

    Where the network runs, and whether it was compiled, is not part of it: they move a value by the rounding of its
    precision, as the batch size does.
    """
    return Fingerprint(
        weights_sha256=model.weights_sha256,
        branch=model.branch,
        layer=model.layer,
        preprocessing=preprocessing.describe(),
        manifest_sha256=images.manifest_sha256,
        dtype=dtype,
        precision=precision,
        views=views.number,
    )


class _Left(NamedTuple):
    """What is left to do: the plan, and its shards that are there already."""

    plan: Plan
    finished: frozenset[str]


def _damage(path: Path, fingerprint: Fingerprint) -> list[ShardRecord] | None:
    """List the damaged shards of a finished bank; None if there is no finished bank."""
    try:
        bank = Bank.open(path)
    except BankError as error:
        # What a disk or the system refuses to read today is no reason to make all of it anew.
        if isinstance(error.__cause__, OSError):
            raise
        return None
    bank.check_fits(fingerprint)
    with ThreadPoolExecutor(max_workers=HASHED_AT_ONCE) as readers:
        problems = readers.map(partial(shards.problem, path), bank.record.shards)
        return [shard for shard, found in zip(bank.record.shards, problems, strict=True) if found is not None]


def _take_up(
    path: Path, fingerprint: Fingerprint, plan: Plan, skip_bad: SkippedImages | None
) -> _Left | None:
    """Begin the bank or join in making it, and see what is left; None if another process has finished it."""
    with files.locked(path):
        damaged = _damage(path, fingerprint)
        if damaged == []:
            return None
        if damaged:
            UnfinishedBank.reopen(Bank.open(path))
        unfinished = UnfinishedBank.begin(path, plan)
    finished = unfinished.finished()
    _agree_to_skip([skipped for shard in finished for skipped in shard.skipped], skip_bad)
    return _Left(unfinished.plan, frozenset(shard.file for shard in finished))


def _finish(unfinished: UnfinishedBank, fingerprint: Fingerprint, model: Model, images: Images) -> None:
    with files.locked(unfinished.path):
        unfinished.close(
            fingerprint,
            model=model.name,
            dataset=images.name,
            split=images.split,
            dim=model.feature_dim,
            class_names=images.class_names,
        )


def _agree_to_skip(skipped: Sequence[SkippedImage], skip_bad: SkippedImages | None) -> None:
    """Pass on what an earlier run left out, or refuse it as a first run would have."""
    for image in skipped:
        if skip_bad is None:
            raise BadImageError(
                f"{image.reason}; repair or remove it, or leave such images out with --skip-bad"
            )
        skip_bad.add(image)
