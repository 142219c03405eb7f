"""A bank's rows in files: a few thousand images each, readable by memory map, whole or not there."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor

from carp_eval import files
from carp_eval.cards.frozen import Frozen
from carp_eval.data.skipping import SkippedImage
from carp_eval.errors import BankError


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a bank.

    Attributes:
        features: What the network gave, as stored.
        labels: Class of each image; -1 where there is none.
        index: Each image's number in the split.
        keys: Each image's key in the split.
    """

    features: Float[Tensor, "row dim"]
    labels: Int64[Tensor, " row"]
    index: Int64[Tensor, " row"]
    keys: list[str]


class ShardRecord(Frozen):
    """What is known of one shard's file.

    Attributes:
        file: Its name in the bank's folder.
        start: Number of the first image it is about.
        stop: Number after the last.
        rows: Images that are in it.
        size: The file's bytes.
        sha256: Their hash.
        skipped: Images that could not be read and are not in it.
    """

    file: str
    start: int
    stop: int
    rows: int
    size: int
    sha256: str
    skipped: tuple[SkippedImage, ...] = ()


class Span(NamedTuple):
    """The images of one shard: those numbered from `start` to before `stop`."""

    file: str
    start: int
    stop: int


def file_name(number: int) -> str:
    """Return the name of a bank's shard: `features-00000.safetensors`."""
    return f"features-{number:05d}.safetensors"


def write(folder: Path, span: Span, rows: Rows, *, skipped: Sequence[SkippedImage] = ()) -> ShardRecord:
    """Write one shard: the same rows give the same bytes.

    Raises:
        StorageError: If the disk is full, read-only or closed to us.
    """
    encoded = [key.encode("utf-8", "surrogateescape") for key in rows.keys]
    content = safetensors.torch.save(
        {
            "features": rows.features.contiguous(),
            "labels": rows.labels,
            "index": rows.index,
            # Text has no tensor type: all keys' bytes in a row, and where each begins and ends.
            "keys": torch.frombuffer(bytearray(b"".join(encoded)) or bytearray(1), dtype=torch.uint8),
            "key_offsets": torch.from_numpy(np.cumsum([0, *map(len, encoded)], dtype=np.int64)),
        }
    )
    with files.replacing(folder / span.file) as beside:
        # safetensors' own writer hides the system's error numbers, by which a full disk is told from others.
        beside.write_bytes(content)
    return ShardRecord(
        file=span.file,
        start=span.start,
        stop=span.stop,
        rows=len(rows.index),
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        skipped=tuple(skipped),
    )


def read(folder: Path, record: ShardRecord, *names: str) -> list[Tensor]:
    """Map some of a shard's tensors into memory; nothing is read before it is used.

    Raises:
        BankError: If the file is missing, cut short or not readable.
    """
    trouble = size_problem(folder, record)
    if trouble is None:
        try:
            with safe_open(folder / record.file, framework="pt") as shard:
                return [shard.get_tensor(name) for name in names]
        except (SafetensorError, OSError, RuntimeError) as error:
            # RuntimeError is torch's, which maps the file after its header was read: it may be another by then.
            trouble = f"{record.file} cannot be read: {error}"
    raise BankError(f"{folder}: {trouble}. Extract the same features again: only damaged shards are redone")


def read_keys(folder: Path, record: ShardRecord) -> list[str]:
    """Read the keys of a shard's images.

    Raises:
        BankError: If the file is missing, cut short or not readable.
    """
    text, offsets = read(folder, record, "keys", "key_offsets")
    content, ends = text.numpy().tobytes(), offsets.tolist()
    return [content[a:b].decode("utf-8", "surrogateescape") for a, b in itertools.pairwise(ends)]


def problem(folder: Path, record: ShardRecord) -> str | None:
    """Say what is wrong with a shard after reading every byte of it; None if nothing is."""
    trouble = size_problem(folder, record)
    if trouble is None and files.sha256(folder / record.file) != record.sha256:
        trouble = f"{record.file} has other bytes than were written: its SHA-256 does not match"
    return trouble


def size_problem(folder: Path, record: ShardRecord) -> str | None:
    """Say what is wrong with a shard as far as its size tells; None if nothing is."""
    try:
        size = (folder / record.file).stat().st_size
    except FileNotFoundError:
        return f"{record.file} is missing"
    except OSError as error:
        return f"{record.file} cannot be looked at: {error.strerror}"
    if size != record.size:
        return f"{record.file} has {size:,} bytes instead of {record.size:,}"
    return None
