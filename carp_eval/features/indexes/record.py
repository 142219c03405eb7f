"""What is known of an index: of which rows, how it was made, what it finds and what it costs."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import faiss
from pydantic import ValidationError

from carp_eval import files
from carp_eval.cards.frozen import Frozen
from carp_eval.errors import BankError
from carp_eval.features.bank import Bank
from carp_eval.features.indexes.choice import Design

RECORD = "index.json"
# What FAISS parses: quantisers and transforms, and of a graph all.
ENGINE = "index.faiss"
# What it maps: codes and row numbers, list by list.
LISTS = "lists.bin"


class FileRecord(Frozen):
    """One file of an index.

    Attributes:
        size: Its bytes.
        sha256: Their hash.
    """

    size: int
    sha256: str

    def problem(self, path: Path, *, whole: bool) -> str | None:
        """Say what is wrong with a file; None if nothing is.

        Args:
            path: The file.
            whole: Whether every byte is read, or only the size looked at.
        """
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return f"{path.name} is missing"
        if size != self.size:
            return f"{path.name} has {size:,} bytes instead of {self.size:,}"
        if whole and files.sha256(path) != self.sha256:
            return f"{path.name} has other bytes than were written: its SHA-256 does not match"
        return None


class Built(Frozen):
    """The files of an index.

    Attributes:
        list_sizes: Rows in each inverted list; empty where there are none.
        files: The files, by name.
    """

    list_sizes: tuple[int, ...]
    files: dict[str, FileRecord]


class Recall(Frozen):
    """How many of the exact nearest neighbours are found.

    Attributes:
        target: The recall that was asked for.
        of: What was asked for, in words: rows of the bank, each without itself, or those of another bank.
        k: Neighbours of each query.
        queries: Queries it was measured on.
        value: Share of the exact neighbours found.
        low: Lower end of its 95 % bootstrap interval over queries.
        high: Upper end.
    """

    target: float
    of: str
    k: int
    queries: int
    value: float
    low: float
    high: float


class IndexRecord(Frozen):
    """What `index.json` says; it is written last, so an index that has one is complete.

    Attributes:
        schema_version: Of this record; those of another are not read.
        bank: The bank's fingerprint.
        content: Hash of the shards it was made from.
        rows: How many rows those are.
        dim: Their width.
        design: How it was made.
        built: Its files.
        probe: Lists that a query looks into, or nodes that a graph search keeps.
        candidates: Rows compared exactly, for each neighbour asked for.
        recall: What it finds.
        seconds: What making it took, or going on with it.
        query_ms: Median time of one query, in milliseconds.
        faiss: FAISS's version.
        created: When it was finished, in ISO 8601.
    """

    schema_version: Literal[1] = 1
    bank: str
    content: str
    rows: int
    dim: int
    design: Design
    built: Built
    probe: int
    candidates: float
    recall: Recall
    seconds: float
    query_ms: float
    faiss: str = faiss.__version__
    created: str

    @property
    def bytes(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.built.files.values())

    def describe(self) -> dict[str, Any]:
        """Say what it is, in plain values."""
        recall = self.recall
        return {
            "kind": self.design.kind,
            "factory": self.design.factory or "none: the search is exact",
            "rows": self.rows,
            "trained on": self.design.training_rows,
            "nprobe" if self.design.lists else "efSearch": self.probe,
            "compared exactly": f"{self.candidates:g} rows for each neighbour",
            f"recall@{recall.k}": f"{recall.value:.4f} [{recall.low:.4f}, {recall.high:.4f}]",
            "recall asked for": f"{recall.target:g}",
            "measured on": f"{recall.queries} {recall.of}",
            "bytes": self.bytes,
            "bytes a row": round(self.bytes / self.rows, 1),
            "build seconds": self.seconds,
            "ms a query": self.query_ms,
            "faiss": self.faiss,
            "created": self.created,
        }

    def problems(self, folder: Path) -> list[str]:
        """Read every byte, and say what is wrong, a sentence for each damaged file."""
        found = (file.problem(folder / name, whole=True) for name, file in self.built.files.items())
        return [problem for problem in found if problem is not None]


def content_sha256(bank: Bank) -> str:
    """Return one hash of all rows of a bank, or of those shards of it that are at hand."""
    shards = [(shard.rows, shard.sha256) for shard in bank.record.shards]
    digest = hashlib.sha256(json.dumps([bank.fingerprint.sha256, shards]).encode())
    if len(bank) != bank.record.rows:
        # A view: of the shards, only some rows are seen, and their numbers are others.
        digest.update(bank.index.numpy().data)
    return digest.hexdigest()


def read(folder: Path) -> IndexRecord:
    """Read an index's record.

    Raises:
        BankError: If it is damaged or of another schema.
    """
    try:
        return IndexRecord.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError) as error:
        raise BankError(
            f"{folder / RECORD} is damaged or of another release: delete that folder, and make the index again with "
            "`carp bank index`"
        ) from error


def beside(bank: Bank) -> list[tuple[Path, IndexRecord]]:
    """List the indexes in a bank's folder, of all of it or of parts.

    Raises:
        BankError: If a record is damaged.
    """
    return [(path.parent, read(path.parent)) for path in sorted(bank.path.glob(f"index-*/{RECORD}"))]


def found(bank: Bank) -> list[tuple[Path, IndexRecord]]:
    """List the indexes of exactly these rows, the newest first.

    Raises:
        BankError: If a record is damaged.
    """
    content = content_sha256(bank)
    own = [(path, record) for path, record in beside(bank) if record.content == content]
    return sorted(own, key=lambda each: each[1].created, reverse=True)
