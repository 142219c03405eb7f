"""The files that an index is made from: each with the hash of what was written, by which it is taken up again."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
from pydantic import ValidationError

from carp_eval import files
from carp_eval.cards.frozen import Frozen
from carp_eval.features.indexes.record import FileRecord

SAVED = "saved.json"
WRITE_BYTES = 2**24


class _Noted(Frozen):
    """What is written so far.

    Attributes:
        files: The files, by name.
    """

    files: dict[str, FileRecord]


class Saved:
    """Files of a build that was interrupted, or may be.

    Attributes:
        folder: Where they are.
        files: What was written of each.
    """

    def __init__(self, folder: Path, *, say: Callable[[str], None]) -> None:
        """Read what there is.

        Args:
            folder: Where they are.
            say: Is told of a file that is damaged.
        """
        self.folder = folder
        self._say = say
        try:
            self.files = dict(_Noted.model_validate_json((folder / SAVED).read_bytes()).files)
        except (FileNotFoundError, ValidationError):
            self.files: dict[str, FileRecord] = {}

    def has(self, name: str) -> bool:
        """Tell whether a file is there with every byte that was written; one that is not is told of."""
        noted, path = self.files.get(name), self.folder / name
        if noted is None or not path.exists():
            return False
        problem = noted.problem(path, whole=True)
        if problem is not None:
            self._say(f"{problem}; it is made again")
        return problem is None

    def write(self, index: Any, name: str) -> None:
        """Write an index, and take note of its bytes.

        Raises:
            StorageError: If the disk is full, read-only or closed to us.
        """
        self.files[name] = write(index, self.folder / name)
        self._note()

    def forget(self, *, but: str) -> None:
        """Drop what was made with another file than the one that is there now.

        Args:
            but: The name of that one.
        """
        for name in set(self.files) - {but}:
            with files.storage_errors(self.folder / name):
                (self.folder / name).unlink(missing_ok=True)
        self.files = {but: self.files[but]}
        self._note()

    def _note(self) -> None:
        files.write_text(self.folder / SAVED, _Noted(files=self.files).model_dump_json())


def write(index: Any, path: Path) -> FileRecord:
    """Write an index as FAISS does, piece by piece: a copy of all of it would take its memory once more.

    Raises:
        StorageError: If the disk is full, read-only or closed to us.
    """
    digest = hashlib.sha256()
    size = 0
    with files.replacing(path) as beside, beside.open("wb") as file:

        def take(content: bytes) -> int:
            nonlocal size
            digest.update(content)
            size += len(content)
            return file.write(content)

        writer: Any = faiss.PyCallbackIOWriter(take, WRITE_BYTES)  # pyright: ignore[reportAttributeAccessIssue]
        faiss.write_index(index, writer)
    return FileRecord(size=size, sha256=digest.hexdigest())
