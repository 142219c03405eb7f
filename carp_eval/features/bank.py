"""The memory bank: a data set's features on disk, with all that decides whether they may be used again."""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Float32, Int64
from pydantic import ValidationError
from torch import Tensor

from carp_eval import files
from carp_eval.cards.frozen import Frozen
from carp_eval.data.skipping import SkippedImage
from carp_eval.errors import BankError
from carp_eval.features import memory as memory_of
from carp_eval.features import shards
from carp_eval.features.rows import lengths, unit_rows
from carp_eval.features.search.in_memory import search
from carp_eval.features.search.neighbours import Neighbours
from carp_eval.features.shards import ShardRecord
from carp_eval.features.stored import StoredRows

# Raised when the same images, model and settings would give other rows, or the files another layout.
SCHEMA_VERSION = 1
RECORD = "bank.json"

Dtype = Literal["float16", "float32"]
Precision = Literal["float32", "bf16"]


class Fingerprint(Frozen):
    """All that decides a bank's rows: banks of equal fingerprints are interchangeable, no others are.

    Attributes:
        weights_sha256: Hash of the network's parameters and buffers.
        branch: `teacher`, `student` or empty.
        layer: Which output of the model.
        preprocessing: How images became input, in plain values.
        manifest_sha256: Hash of the split: order, keys, labels, content.
        dtype: How features are stored.
        precision: How the network was run.
        views: Views of each image; 1 is the plain centre.
        schema_version: Of the extraction.
    """

    weights_sha256: str
    branch: str
    layer: str
    preprocessing: dict[str, Any]
    manifest_sha256: str
    dtype: Dtype
    precision: Precision = "float32"
    views: int = 1
    schema_version: int = SCHEMA_VERSION

    @property
    def sha256(self) -> str:
        """One hash of all of it."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    def differences(self, other: "Fingerprint") -> list[str]:
        """Name the attributes that differ."""
        mine, others = self.model_dump(mode="json"), other.model_dump(mode="json")
        return [name for name in mine if mine[name] != others[name]]


class BankRecord(Frozen):
    """What `bank.json` says; it is written last, so a bank that has one is complete.

    Attributes:
        fingerprint: What decides the rows.
        model: The model, by name.
        dataset: The data set, as it was spelled.
        split: The split.
        images: Images in the split.
        rows: Images in the bank: all but the skipped.
        dim: Width of a row.
        class_names: Names of the classes, by number.
        shards: The files, in order.
        created: When it was finished, in ISO 8601.
    """

    fingerprint: Fingerprint
    model: str
    dataset: str
    split: str
    images: int
    rows: int
    dim: int
    class_names: tuple[str, ...]
    shards: tuple[ShardRecord, ...]
    created: str


class Bank:
    """A finished bank, opened for reading.

    Attributes:
        path: Its folder.
        record: What its `bank.json` says.
    """

    def __init__(self, path: Path, record: BankRecord) -> None:
        self.path = path
        self.record = record

    @classmethod
    def open(cls, path: str | Path) -> "Bank":
        """Open a bank, by its folder. Its shards are not looked at before they are read (or verified).

        Raises:
            BankError: If there is no bank, if it is unfinished or of another schema, or its record is broken.
        """
        path = Path(path).expanduser()
        try:
            content = (path / RECORD).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            started = any(path.glob("features-*"))
            reason = (
                "its extraction has not finished: run it again" if started else f"there is no {RECORD} in it"
            )
            raise BankError(f"{path} is not a finished bank: {reason}") from None
        except OSError as error:
            raise BankError(f"cannot read {path / RECORD}: {error.strerror}") from error
        try:
            raw = json.loads(content)
            version = raw["fingerprint"]["schema_version"]
            if version != SCHEMA_VERSION:
                raise BankError(
                    f"{path} is a bank of schema {version}, this release reads {SCHEMA_VERSION}: extract it again"
                )
            return cls(path, BankRecord.model_validate_json(content))
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise BankError(f"{path / RECORD} is damaged: extract the same features again") from error

    def __len__(self) -> int:
        return self.record.rows

    @property
    def fingerprint(self) -> Fingerprint:
        """What decides the rows."""
        return self.record.fingerprint

    @property
    def dim(self) -> int:
        """Width of a row."""
        return self.record.dim

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by number."""
        return self.record.class_names

    @property
    def skipped(self) -> list[SkippedImage]:
        """Images of the split that could not be read, on whose absence someone has agreed."""
        return [skipped for shard in self.record.shards for skipped in shard.skipped]

    def shards(self) -> list[Float[Tensor, "_ dim"]]:
        """Return every shard's features as they are stored, mapped into memory.

        Raises:
            BankError: If a file is missing, cut short or not readable.
        """
        return [shards.read(self.path, shard, "features")[0] for shard in self.record.shards]

    def features(self) -> Float[Tensor, "row dim"]:
        """Return all features as they are stored: mapped where there is one shard, else copied together.

        Raises:
            BankError: If a file is missing, cut short or not readable.
        """
        parts = self.shards()
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def search(
        self,
        queries: "Float[Tensor, 'query dim'] | Bank",
        k: int,
        *,
        include_self: bool = False,
        memory: int | None = None,
    ) -> Neighbours:
        """Find the k rows that are nearest to each query, by cosine similarity, exactly.

        The first search reads the whole bank into memory, four bytes a number, and keeps it for the next; a bank that
        is larger than the memory it may take is read from disk by each.

        Args:
            queries: Features of the same model, a row each, or another bank of it.
            k: Neighbours of each query.
            include_self: Whether a row may be its own neighbour, where the queries are this bank.
            memory: Bytes that the bank may take in memory; None is a quarter of what there is. It moves no neighbour.

        Returns:
            `similarities`, the highest first, and `indices`, the rows, whose images are `keys[row]`.

        Raises:
            UsageError: If there are fewer than k rows to choose from, the queries are of another width, or the memory
                is too little.
            BankError: If the queries are a bank of another model or settings, or a value is not finite.
        """
        budget = memory_of.default_budget() if memory is None else memory
        in_memory = 4 * len(self) * self.dim <= budget
        same = False
        if isinstance(queries, Bank):
            self.check_comparable(queries)
            same = queries.fingerprint == self.fingerprint
            queries = self._unit_rows if same and in_memory else unit_rows(queries.shards())
        else:
            queries = unit_rows([queries.detach().cpu()])
        exclude_self = same and not include_self
        if in_memory:
            return search(self._unit_rows, queries, k=k, exclude_self=exclude_self, longest=self._longest)
        from carp_eval.features.search import streamed

        return streamed.search_bank(self, queries, k=k, memory=budget, exclude_self=exclude_self)

    def write(self, path: str | Path) -> list[Path]:
        """Write all features, with keys and classes, to a file that other tools read: `.parquet`, `.npy` or `.npz`.

        Returns:
            What was written: the file and, beside an `.npy`, a Parquet file of its rows' keys and classes.

        Raises:
            UsageError: If the ending names no format.
            StorageError: If the disk is full, read-only or closed to us.
        """
        from carp_eval.features import tables

        return tables.write([self], Path(path).expanduser())

    def stored_rows(self, *, normalise: bool) -> StoredRows:
        """Return the rows in float32, read from disk as they are asked for; they are looked at once, the first time.

        Args:
            normalise: Whether each is scaled to length one.

        Raises:
            BankError: If a value is not finite; the message numbers the rows.
        """
        stored = self._stored.get(normalise)
        if stored is None:
            stored = self._stored[normalise] = StoredRows(self.shards(), normalise=normalise)
        return stored

    @cached_property
    def _stored(self) -> dict[bool, StoredRows]:
        return {}

    def held_rows(self) -> tuple[Float32[Tensor, "row dim"], Float32[Tensor, ""]]:
        """Return all rows in float32, each of length one, and the longest's length; they stay in memory from then on.

        Raises:
            BankError: If a value is not finite; the message numbers the rows.
        """
        return self._unit_rows, self._longest

    @cached_property
    def _unit_rows(self) -> Float[Tensor, "row dim"]:
        return unit_rows(self.shards())

    @cached_property
    def _longest(self) -> Float32[Tensor, ""]:
        return lengths(self._unit_rows, "the bank").max()

    @cached_property
    def labels(self) -> Int64[Tensor, " row"]:
        """Class of each row; -1 where there is none."""
        return torch.cat([shards.read(self.path, shard, "labels")[0] for shard in self.record.shards])

    @cached_property
    def index(self) -> Int64[Tensor, " row"]:
        """Each row's image number in the split."""
        return torch.cat([shards.read(self.path, shard, "index")[0] for shard in self.record.shards])

    @cached_property
    def keys(self) -> list[str]:
        """Each row's image, by its key in the split."""
        return [key for shard in self.record.shards for key in shards.read_keys(self.path, shard)]

    def verify(self) -> list[str]:
        """Read every byte, and say what is wrong, a sentence for each damaged shard."""
        problems = (shards.problem(self.path, shard) for shard in self.record.shards)
        return [problem for problem in problems if problem is not None]

    def check_fits(self, fingerprint: Fingerprint) -> None:
        """Make sure that this is the bank of a model, its settings and a split.

        Raises:
            BankError: If it is of others; the message names what differs.
        """
        differences = self.fingerprint.differences(fingerprint)
        if differences:
            raise BankError(
                f"{self.path} is a bank of {self.record.model} on {self.record.dataset} ({self.record.split}), "
                f"which differs from what was asked for in {', '.join(differences)}: it cannot be used here"
            )

    def check_comparable(self, other: "Bank") -> None:
        """Make sure that another bank's features come from the same model, layer and preprocessing.

        Raises:
            BankError: If they do not; the message names what differs.
        """
        may_differ = ("manifest_sha256", "dtype")
        differences = [
            name for name in self.fingerprint.differences(other.fingerprint) if name not in may_differ
        ]
        if differences:
            raise BankError(
                f"{self.path} and {other.path} differ in {', '.join(differences)}: their features cannot be compared"
            )

    def describe(self) -> dict[str, Any]:
        """Say what is inside, in plain values."""
        record, fingerprint = self.record, self.record.fingerprint
        prepared = fingerprint.preprocessing
        return {
            "model": record.model,
            "branch": fingerprint.branch or "-",
            "layer": fingerprint.layer,
            "weights sha256": fingerprint.weights_sha256,
            "dataset": record.dataset,
            "split": record.split,
            "rows": record.rows,
            "skipped": len(self.skipped),
            "dim": record.dim,
            "dtype": fingerprint.dtype,
            "precision": fingerprint.precision,
            "classes": len(record.class_names),
            "preprocessing": ", ".join(f"{name} {value}" for name, value in prepared.items()),
            "shards": len(record.shards),
            "bytes": sum(shard.size for shard in record.shards),
            "created": record.created,
            "fingerprint": fingerprint.sha256,
        }


def folder(fingerprint: Fingerprint, home: Path | None = None) -> Path:
    """Return where the bank of a fingerprint lives.

    Args:
        fingerprint: What decides its rows.
        home: Folder that holds banks; None is `$CARP_HOME/banks`.
    """
    return (home or files.home() / "banks") / fingerprint.sha256[:16]
