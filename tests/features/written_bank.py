"""Banks of given features, written as an extraction writes them."""

import torch

from carp_eval.features import shards
from carp_eval.features.bank import Bank, BankRecord, Fingerprint
from carp_eval.features.shards import Rows, Span, file_name


def written(folder, features, *, labels=None, shard_rows=64, classes=3, manifest="of the test"):
    """A bank of these features, in float16 or float32 as they come, on disk."""
    labels = torch.arange(len(features)) % classes if labels is None else labels
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number, start in enumerate(range(0, len(features), shard_rows)):
        part = slice(start, min(start + shard_rows, len(features)))
        numbers = torch.arange(part.start, part.stop)
        rows = Rows(features[part], labels[part], numbers, [f"{row}.png" for row in numbers.tolist()])
        records.append(shards.write(folder, Span(file_name(number), part.start, part.stop), rows))
    fingerprint = Fingerprint(
        weights_sha256="0" * 64,
        branch="",
        layer="pool",
        preprocessing={},
        manifest_sha256=manifest,
        dtype="float16" if features.dtype == torch.float16 else "float32",
    )
    record = BankRecord(
        fingerprint=fingerprint,
        model="random",
        dataset="written",
        split="train",
        images=len(features),
        rows=len(features),
        dim=features.shape[1],
        class_names=tuple(map(str, range(classes))),
        shards=tuple(records),
        created="2026-01-01T00:00:00+00:00",
    )
    (folder / "bank.json").write_text(record.model_dump_json())
    return Bank.open(folder)
