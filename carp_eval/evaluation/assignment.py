"""The prototypes of a data set's images: assigned from a bank, and written as a table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float32, Int64

from carp_eval import files
from carp_eval.checkpoints.prototypes import TrainedPrototypes
from carp_eval.data.images import Images
from carp_eval.data.preprocessing import Preprocessing
from carp_eval.data.skipping import SkippedImages
from carp_eval.errors import UsageError
from carp_eval.evaluation.job import Settings, no_bar
from carp_eval.features import tables
from carp_eval.features.assigning import assign
from carp_eval.features.bank import Bank
from carp_eval.features.extraction.running import extract
from carp_eval.features.rows import plain_rows


class Assignments(NamedTuple):
    """What each row of a bank was assigned to.

    Attributes:
        bank: The embeddings.
        prototypes: Numbers of the prototypes of each row, the nearest first.
        confidences: Their shares of the softmax over all prototypes.
    """

    bank: Bank
    prototypes: Int64[np.ndarray, "row place"]
    confidences: Float32[np.ndarray, "row place"]


def check_places(prototypes: TrainedPrototypes, places: int) -> None:
    """Make sure that there are as many prototypes as are asked for of each image.

    Raises:
        UsageError: If there are fewer.
    """
    if places > len(prototypes):
        raise UsageError(
            f"{prototypes.model.name} has {len(prototypes)} prototypes; {places} of each image were asked for"
        )


def bank_of(
    prototypes: TrainedPrototypes, images: Images, preprocessing: Preprocessing, *, settings: Settings
) -> Bank:
    """Return the bank of a split's embeddings: the one that is there, or a new one. Every process must call this.

    Raises:
        CarpError: If an image cannot be read, or the bank cannot be stored.
    """
    return extract(
        prototypes.model,
        images,
        preprocessing,
        dtype=settings.dtype,
        batch_size=settings.batch_size if preprocessing.gives_one_size else 1,
        num_workers=settings.num_workers,
        device=settings.device,
        bank_home=settings.bank_home,
        skip_bad=SkippedImages() if settings.skip_bad else None,
        progress=(settings.progress or no_bar)(f"embeddings of {images.split}"),
    )


def assignments(bank: Bank, prototypes: TrainedPrototypes, *, places: int = 1) -> Assignments:
    """Assign every row of a bank, shard by shard.

    Args:
        bank: Embeddings of the prototypes' network.
        prototypes: The prototypes.
        places: How many prototypes of each image.

    Raises:
        BankError: If a shard is missing or cut short, or a value is not finite.
        UsageError: If there are fewer prototypes than places.
    """
    check_places(prototypes, places)
    found = [
        assign(
            plain_rows([shard]),
            prototypes.rows,
            temperature=prototypes.temperature,
            unit_embeddings=prototypes.unit_embeddings,
            places=places,
        )
        for shard in bank.shards()
    ]
    return Assignments(
        bank,
        torch.cat([part.prototypes for part in found]).numpy(),
        torch.cat([part.confidences for part in found]).numpy(),
    )


def write(found: Sequence[Assignments], prototypes: TrainedPrototypes, path: Path) -> None:
    """Write what images were assigned to as Parquet, splits one below the other.

    Columns: `key`, `split`, `label` and `class_name` (null where there is none), `prototype`, `confidence`; and, where
    several prototypes of each image were found, `top_prototypes` and `top_confidences`, the nearest first.

    Args:
        found: The splits.
        prototypes: What was assigned to; the file's metadata says it.
        path: The file.

    Raises:
        StorageError: If the disk is full, read-only or closed to us.
    """
    places = found[0].prototypes.shape[1]
    fields: list[tuple[str, Any]] = [
        ("key", pa.string()),
        ("split", pa.string()),
        ("label", pa.int64()),
        ("class_name", pa.string()),
        ("prototype", pa.int64()),
        ("confidence", pa.float32()),
    ]
    if places > 1:
        fields += [
            ("top_prototypes", pa.list_(pa.int64(), places)),
            ("top_confidences", pa.list_(pa.float32(), places)),
        ]
    told = tables.describe([part.bank for part in found]) | {"assignment": prototypes.describe()}
    schema = pa.schema(fields, metadata={tables.METADATA: json.dumps(told)})
    with files.replacing(path) as beside, pq.ParquetWriter(beside, schema) as writer:
        for part in found:
            writer.write_table(pa.Table.from_arrays(_columns(part, places), schema=schema))


def _columns(part: Assignments, places: int) -> list[Any]:
    bank, labels = part.bank, part.bank.labels.numpy()
    names = [bank.class_names[label] if label >= 0 else None for label in labels.tolist()]
    columns = [
        pa.array([as_text(key) for key in bank.keys], pa.string()),
        pa.array([bank.record.split] * len(bank), pa.string()),
        pa.array(labels, mask=labels < 0),
        pa.array(names, pa.string()),
        pa.array(part.prototypes[:, 0]),
        pa.array(part.confidences[:, 0]),
    ]
    if places > 1:
        columns += [
            pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), places)
            for values in (part.prototypes, part.confidences)
        ]
    return columns


def as_text(key: str) -> str:
    """Return a key as text that any file can hold, whatever bytes it was made of."""
    return key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
