"""A bank of random features on disk, shard by shard: as large as one likes, in the memory of one shard."""

from datetime import UTC, datetime

import torch

from carp_eval.features import shards
from carp_eval.features.bank import Bank, BankRecord, Fingerprint
from carp_eval.features.shards import Rows, Span, file_name

SHARD_ROWS = 8192


def block(kind, start, rows, dim, num_classes, *, seed):
    """Rows of a data set, by their numbers, and their labels.

    `classes` are rectified noise around a point for each class, as a network's pooled features are. `signed` is plain
    Gaussian noise: the similarities of its neighbours lie so close that float32 can tell the fewest apart.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
    labels = torch.randint(num_classes, (rows,), generator=generator)
    features = torch.randn(rows, dim, generator=generator)
    if kind == "classes":
        centres = torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(0))
        features.add_(centres[labels], alpha=0.35).relu_()
    return features, labels


def write(folder, kind, rows, dim, num_classes, *, seed=1, make=block, shard_rows=SHARD_ROWS):
    """Write a bank of float16, as an extraction would, of blocks that `make` gives as `block` does."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number, start in enumerate(range(0, rows, shard_rows)):
        stop = min(start + shard_rows, rows)
        features, labels = make(kind, start, stop - start, dim, num_classes, seed=seed)
        keys = [str(row) for row in range(start, stop)]
        content = Rows(features.half(), labels, torch.arange(start, stop), keys)
        records.append(shards.write(folder, Span(file_name(number), start, stop), content))
    record = BankRecord(
        fingerprint=Fingerprint(
            weights_sha256="0" * 64,
            branch="",
            layer="pool",
            preprocessing={},
            manifest_sha256=f"{kind} {rows} {dim} {num_classes} {seed}",
            dtype="float16",
        ),
        model="random",
        dataset=kind,
        split="train",
        images=rows,
        rows=rows,
        dim=dim,
        class_names=tuple(map(str, range(num_classes))),
        shards=tuple(records),
        created=datetime.now(UTC).isoformat(),
    )
    (folder / "bank.json").write_text(record.model_dump_json())
    return Bank.open(folder)
