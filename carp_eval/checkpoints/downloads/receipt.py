"""A whole file and where it came from, in a folder of its own."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from carp_eval import files
from carp_eval.checkpoints.downloads import transfer
from carp_eval.checkpoints.downloads.vouching import Vouched


@dataclass(frozen=True)
class Fetched:
    """A file that was fetched.

    Attributes:
        path: Where it lies.
        source: Where it came from, as the card spells it.
        sha256: Its hash.
        size: Its bytes.
        vouched: Who told that hash, before the file came.
    """

    path: Path
    source: str
    sha256: str
    size: int
    vouched: Vouched


class _Receipt(BaseModel):
    model_config = ConfigDict(frozen=True)

    file: str
    source: str
    sha256: str
    size: int
    vouched: Vouched


def take(part: Path, path: Path, *, source: str, sha256: str, vouched: Vouched) -> Fetched:
    """Give a part that is whole its name, note where it came from, and remove what other sources left unfinished.

    Raises:
        StorageError: If the disk refuses.
    """
    receipt = _Receipt(
        file=path.name, source=source, sha256=sha256, size=part.stat().st_size, vouched=vouched
    )
    with files.storage_errors(path):
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    files.write_text(_place(path.parent), receipt.model_dump_json(indent=2) + "\n")
    for left in (part, *path.parent.glob("*.part")):
        transfer.forget(left)
    return _fetched(receipt, path.parent)


def find(folder: Path) -> Fetched | None:
    """Return the whole file that lies in a folder; None if none does, or it is not what it was."""
    receipt = _read(folder)
    if receipt is None or not (folder / receipt.file).is_file():
        return None
    return _fetched(receipt, folder) if files.sha256(folder / receipt.file) == receipt.sha256 else None


def discard(folder: Path) -> None:
    """Remove a folder's whole file; what is unfinished stays."""
    receipt = _read(folder)
    if receipt is not None:
        (folder / receipt.file).unlink(missing_ok=True)
        _place(folder).unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove a folder that is needed no more, and all in it."""
    shutil.rmtree(folder, ignore_errors=True)


def _fetched(receipt: _Receipt, folder: Path) -> Fetched:
    return Fetched(folder / receipt.file, receipt.source, receipt.sha256, receipt.size, receipt.vouched)


def _read(folder: Path) -> _Receipt | None:
    try:
        return _Receipt.model_validate_json(_place(folder).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _place(folder: Path) -> Path:
    return folder / "fetched.json"
