"""Splits that are lists of image files under one folder."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int8, Int64
from PIL import Image

from carp_eval.data import manifest
from carp_eval.data.decoding import decode
from carp_eval.data.images import Images
from carp_eval.errors import BadImageError, DataError


class ListedImages(Images):
    """The image files of one split, in the order of its list.

    Attributes:
        folder: What the keys are relative to.
        list_name: The file that lists them; empty where they were found by looking into folders.
        targets: For sets of several labels an image: 1 where it has the class, 0 where that is hard to tell, -1
            where it has not. None for others.
    """

    targets: Int8[np.ndarray, "image class"] | None

    def __init__(
        self,
        name: str,
        split: str,
        folder: Path,
        paths: Sequence[str] | Sequence[bytes],
        labels: Int64[np.ndarray, " image"],
        class_names: tuple[str, ...],
        *,
        targets: Int8[np.ndarray, "image class"] | None = None,
        list_name: str = "",
    ) -> None:
        """Hold a list.

        Args:
            name: The data set as the user spells it.
            split: The split's name.
            folder: What the paths are relative to.
            paths: The files, with `/` between folders.
            labels: Class of each.
            class_names: Names of the classes.
            targets: The classes of each, where it may have several.
            list_name: The file that lists them.

        Raises:
            DataError: If nothing is listed, or not one of the folders is there.
        """
        self.name = name
        self.split = split
        self.folder = folder
        self.list_name = list_name
        # Arrow, because a list of a million strings is copied into every worker page by page as it is counted.
        self._files = pa.array(
            [os.fsencode(path) if isinstance(path, str) else path for path in paths], pa.large_binary()
        )
        self.labels = labels
        self.class_names = class_names
        self.targets = targets
        if list_name:
            self._check_folders()

    def image(self, index: int) -> Image.Image:
        """Decode one file."""
        path = self.path(index)
        if self.list_name and not path.exists():
            raise BadImageError(
                f"{shown(os.fsencode(path))} is listed in {self.list_name}, but is not there: the copy is incomplete; "
                f"`carp data check {self.name}` counts what is missing"
            )
        return decode(path, where=shown(os.fsencode(path)))

    def key(self, index: int) -> str:
        """Return a file's path in the split's folder."""
        return shown(self._files[index].as_py())

    def path(self, index: int) -> Path:
        """Return where a file lies."""
        return self.folder / os.fsdecode(self._files[index].as_py())

    def missing(self) -> Iterator[str]:
        """Yield the keys of listed files that are not there."""
        there: dict[bytes, set[bytes]] = {}
        for file in self._files:
            place, _, base = file.as_py().rpartition(b"/")
            if place not in there:
                there[place] = _names(os.fsencode(self.folder) + b"/" + place)
            if base not in there[place]:
                yield shown(file.as_py())

    def hash_manifest(self) -> str:
        """Hash the files' paths, labels and content (see `manifest.digest`)."""
        digest = manifest.digest(
            keys=map(self.key, range(len(self))),
            labels=self.labels,
            class_names=self.class_names,
            sizes=np.array([_size(self.path(index)) for index in range(len(self))], dtype=np.int64),
            content=lambda index: _content(self.path(index)),
        )
        if self.targets is None:
            return digest
        return hashlib.sha256(digest.encode() + np.ascontiguousarray(self.targets).tobytes()).hexdigest()

    def _check_folders(self) -> None:
        if not len(self._files):
            raise DataError(f"{self.list_name} lists no image; the file is empty or cut short: get it again")
        places = {file.as_py().rpartition(b"/")[0] for file in self._files}
        if not any((self.folder / os.fsdecode(place)).is_dir() for place in places):
            raise DataError(
                f"{self.list_name} lists images in {shown(os.fsencode(self.folder / os.fsdecode(min(places))))}, but "
                f"no such folder is there: unpack the images to where their lists say"
            )


def shown(name: bytes) -> str:
    """Return a file name as text that can be printed and stored, whatever bytes it has."""
    return name.decode("utf-8", "backslashreplace")


def _names(folder: bytes) -> set[bytes]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()


def _size(path: Path) -> int:
    """Return a file's bytes, or -1 where it cannot be reached (a broken link): reading it says why."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
