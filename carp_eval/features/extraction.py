"""From a model and a split to a memory bank: shard by shard, resumable, by any number of processes.

One process and many give the same bytes: shards are dealt out whole, and rows are placed by their image's number.
Killed at any time, the same call goes on at its next shard.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch

from carp_eval import distributed, files
from carp_eval.data.images import Images
from carp_eval.data.loading import batches
from carp_eval.data.preprocessing import Preprocessing
from carp_eval.data.skipping import SkippedImage, SkippedImages
from carp_eval.errors import BadImageError, BankError, UsageError
from carp_eval.features import bank as banks
from carp_eval.features import shards
from carp_eval.features.bank import Bank, Dtype, Fingerprint, Precision
from carp_eval.features.forward import Part, choose_device, forward
from carp_eval.features.placing import Places, place
from carp_eval.features.shards import Rows, ShardRecord, Span
from carp_eval.features.unfinished import Plan, UnfinishedBank
from carp_eval.models.model import Model

# Told of rows done and rows in all: by each process, of its own share.
Progress = Callable[[int, int], None]

SHARD_ROWS = 4096


def extract(
    model: Model,
    images: Images,
    preprocessing: Preprocessing,
    *,
    dtype: Dtype = "float16",
    precision: Precision = "float32",
    batch_size: int = 64,
    num_workers: int | None = None,
    device: str | None = None,
    shard_rows: int = SHARD_ROWS,
    bank_home: Path | None = None,
    skip_bad: SkippedImages | None = None,
    progress: Progress | None = None,
) -> Bank:
    """Return the bank of a model on a split: the one that is there, or a new one.

    A bank of the same fingerprint is read through against its hashes and used again; only damaged shards are redone.
    Where another process is making it, this one waits and then uses it. Every process of a group must call this.

    Args:
        model: The model.
        images: The split.
        preprocessing: How images become input.
        dtype: How features are stored.
        precision: `bf16` runs the network in bfloat16 autocast.
        batch_size: Images in a forward pass.
        num_workers: Processes that load images; None is from the cores.
        device: A torch device; None takes a GPU if there is one.
        shard_rows: Images in a shard, rounded up to whole batches: what a kill may cost.
        bank_home: Folder that holds banks; None is `$CARP_HOME/banks`.
        skip_bad: Collects images that cannot be read; without it the first one is an error.
        progress: Is told of rows done.

    Raises:
        BankError: If the network gives values that are not finite, or not one row for each image.
        BadImageError: If an image cannot be read, or could not be, and `skip_bad` is not given.
        StorageError: If the disk is full, read-only or closed to us; finished shards stay.
        UsageError: If the device cannot be used, or a size is not positive.
    """
    if batch_size < 1 or shard_rows < 1:
        raise UsageError(f"a batch and a shard have at least one image, got {batch_size} and {shard_rows}")
    if not len(images):
        raise BankError(f"{images.name} ({images.split}) has no images: there is nothing to extract")
    fingerprint = fingerprint_of(model, images, preprocessing, dtype=dtype, precision=precision)
    path = banks.folder(fingerprint, bank_home)
    plan = Plan(images=len(images), images_per_shard=-(-shard_rows // batch_size) * batch_size)

    def run(todo: Sequence[Span]) -> Iterator[Part]:
        target = choose_device(device)
        loaded = batches(
            images,
            preprocessing,
            batch_size=batch_size,
            num_workers=num_workers,
            indices=[number for span in todo for number in range(span.start, span.stop)],
            skip_bad=skip_bad,
            pin_memory=target.type == "cuda",
        )
        return forward(model.network, loaded, device=target, precision=precision)

    with ExitStack() as held:
        if not distributed.on_main(lambda: _damage(path, fingerprint) == []):
            left = distributed.on_main(lambda: _take_up(path, fingerprint, plan, skip_bad, held))
            if left is not None:
                unfinished = UnfinishedBank(path, left.plan)
                mine = left.spans[distributed.rank() :: distributed.world_size()]
                with distributed.failing_together():
                    if mine:
                        parts = _counted(run(mine), mine, progress)
                        _write_shards(parts, mine, unfinished, model, images, dtype=dtype, skip_bad=skip_bad)
                distributed.on_main(lambda: _finish(unfinished, fingerprint, model, images))
    bank = Bank.open(path)
    _agree_to_skip(bank.skipped, skip_bad)
    return bank


def fingerprint_of(
    model: Model, images: Images, preprocessing: Preprocessing, *, dtype: Dtype, precision: Precision
) -> Fingerprint:
    """Return what tells the bank of this model, split and settings from all others."""
    return Fingerprint(
        weights_sha256=model.weights_sha256,
        branch=model.branch,
        layer=model.layer,
        preprocessing=preprocessing.describe(),
        manifest_sha256=images.manifest_sha256,
        dtype=dtype,
        precision=precision,
    )


class _Left(NamedTuple):
    """What is left to do: the plan, and its shards that are not there yet."""

    plan: Plan
    spans: list[Span]


def _damage(path: Path, fingerprint: Fingerprint) -> list[ShardRecord] | None:
    """List the damaged shards of a finished bank; None if there is no finished bank."""
    try:
        bank = Bank.open(path)
    except BankError:
        return None
    bank.check_fits(fingerprint)
    return [shard for shard in bank.record.shards if shards.problem(path, shard) is not None]


def _take_up(
    path: Path, fingerprint: Fingerprint, plan: Plan, skip_bad: SkippedImages | None, held: ExitStack
) -> _Left | None:
    """Take the bank's lock until `held` closes, and see what is left; None if another process has finished it."""
    held.enter_context(files.locked(path))
    damaged = _damage(path, fingerprint)
    if damaged == []:
        return None
    if damaged:
        UnfinishedBank.reopen(Bank.open(path), damaged)
    unfinished = UnfinishedBank.begin(path, plan)
    finished = unfinished.finished()
    _agree_to_skip([skipped for shard in finished for skipped in shard.skipped], skip_bad)
    there = {shard.file for shard in finished}
    return _Left(unfinished.plan, [span for span in unfinished.spans() if span.file not in there])


def _write_shards(
    parts: Iterable[Part],
    spans: Sequence[Span],
    unfinished: UnfinishedBank,
    model: Model,
    images: Images,
    *,
    dtype: Dtype,
    skip_bad: SkippedImages | None,
) -> None:
    """Write this process's shards, each while the next is computed."""
    skipped = {} if skip_bad is None else skip_bad.by_number

    def write(places: Places) -> None:
        index = places.index()
        rows = Rows(
            features=places.features[places.taken],
            labels=torch.from_numpy(images.labels)[index],
            index=index,
            keys=[images.key(number) for number in index.tolist()],
        )
        left_out = [skipped[number] for number in places.missing()]
        unfinished.note(shards.write(unfinished.path, places.span, rows, skipped=left_out))

    full = place(
        parts,
        spans,
        dim=model.feature_dim,
        dtype=getattr(torch, dtype),
        skipped=skipped,
        name=images.key,
    )
    with ThreadPoolExecutor(max_workers=1) as writer:
        writing = None
        for places in full:
            if writing is not None:
                writing.result()
            writing = writer.submit(write, places)
        if writing is not None:
            writing.result()


def _counted(parts: Iterable[Part], spans: Sequence[Span], progress: Progress | None) -> Iterator[Part]:
    done, total = 0, sum(span.stop - span.start for span in spans)
    for features, index in parts:
        yield features, index
        done += len(index)
        if progress is not None:
            progress(done, total)


def _finish(unfinished: UnfinishedBank, fingerprint: Fingerprint, model: Model, images: Images) -> None:
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
