"""Data sets packed as WebDataset shards: tar files whose members of one name, up to its first dot, are one sample."""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64
from PIL import Image

from carp_eval.data import manifest, shard_index, shard_paths
from carp_eval.data.decoding import decode
from carp_eval.data.images import Images
from carp_eval.data.listed import shown
from carp_eval.data.source import Source
from carp_eval.errors import BadImageError, DataError

# A window of a training's order (order.WINDOW) and the next one, and some to spare.
_MOST_OPEN = 64
MOST_CLASSES = 1_000_000


class ShardImages(Images):
    """The images of one split, read from where they lie in the shards; nothing is unpacked.

    Attributes:
        shards: The tar files, in order.
        num_without_image: Samples in which no image is.
    """

    shards: tuple[Path, ...]

    def __init__(
        self,
        name: str,
        split: str,
        shards: tuple[Path, ...],
        tables: Sequence[pa.Table],
        labels: Int64[np.ndarray, " image"],
        class_names: tuple[str, ...],
    ) -> None:
        """Hold what the indices say.

        Args:
            name: The data set as the user spells it.
            split: The split's name.
            shards: The tar files.
            tables: The index of each.
            labels: Class of each sample.
            class_names: Names of the classes.
        """
        self.name = name
        self.split = split
        self.shards = shards
        self.labels = labels
        self.class_names = class_names
        self.shard_sizes = np.array([len(table) for table in tables], dtype=np.int64)
        self._starts = np.cumsum(self.shard_sizes) - self.shard_sizes
        whole = pa.concat_tables([table.replace_schema_metadata() for table in tables]).combine_chunks()
        self._names: pa.Array = whole.column("name").combine_chunks()
        self._offsets = np.array(whole.column("offset").to_numpy(), dtype=np.int64)
        self._sizes = np.array(whole.column("size").to_numpy(), dtype=np.int64)
        self.num_without_image = int((self._sizes < 0).sum())
        # What tells shards of one name apart: the part of the path that they do not share.
        folder = Path(os.path.commonpath([shard.absolute().parent for shard in shards]))
        self._shown = tuple(shown(os.fsencode(shard.absolute().relative_to(folder))) for shard in shards)
        self._files = _OpenFiles()

    def image(self, index: int) -> Image.Image:
        """Decode one image from its shard."""
        where = f"{self.shards[self._shard(index)]}: {self.file_name(index)}"
        if self._sizes[index] < 0:
            raise BadImageError(f"{where} has no image among its files")
        return decode(self._bytes(index), where)

    def key(self, index: int) -> str:
        """Return the shard and the sample's key in it: `train-0003.tar/n01440764_10026`."""
        key, _ = shard_index.split_name(self._names[index].as_py())
        return f"{self._shown[self._shard(index)]}/{shown(key)}"

    def file_name(self, index: int) -> str:
        """Return the image's name in its shard; the sample's key where there is no image."""
        return shown(self._names[index].as_py())

    def hash_manifest(self) -> str:
        """Hash the samples' keys, labels and content (see `manifest.digest`)."""
        return manifest.digest(
            keys=map(self.key, range(len(self))),
            labels=self.labels,
            class_names=self.class_names,
            sizes=self._sizes,
            content=lambda index: b"" if self._sizes[index] < 0 else self._bytes(index),
        )

    def __getstate__(self) -> dict[str, Any]:
        # Open files are the process's own.
        return self.__dict__ | {"_files": _OpenFiles()}

    def _shard(self, index: int) -> int:
        return int(np.searchsorted(self._starts, index, side="right")) - 1

    def _bytes(self, index: int) -> bytes:
        path, size = self.shards[self._shard(index)], int(self._sizes[index])
        try:
            file = self._files.open(path)
            content = os.pread(file.number, size, int(self._offsets[index]))
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        if len(content) < size:
            raise DataError(
                f"{path} has become shorter while it was read; leave shards alone, and start again"
            )
        return content


class _OpenFile:
    """A file that stays open as long as anybody holds on to it."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class _OpenFiles:
    """The shards that were read last, open: on a mounted folder opening one takes longer than reading from it."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, path: Path) -> _OpenFile:
        """Return an open file, which whoever reads from it keeps open, though it be put away meanwhile."""
        with self._lock:
            file = self._files.pop(path, None) or _OpenFile(path)
            self._files[path] = file
            if len(self._files) > _MOST_OPEN:
                self._files.popitem(last=False)
            return file

    def __reduce__(self) -> tuple[type["_OpenFiles"], tuple[()]]:
        return _OpenFiles, ()


class ShardSource(Source):
    """The splits of a data set in shards.

    Attributes:
        class_names: Names of the classes of all splits together: numbers where every class is a number.
    """

    def __init__(self, name: str, place: str) -> None:
        """Find the shards, and index those that are not indexed yet.

        Args:
            name: The data set as the user spells it.
            place: Where the shards are (see `shard_paths.find`).

        Raises:
            DataError: If a shard is missing, damaged or of a kind that cannot be read.
            StorageError: If an index cannot be kept.
        """
        self.name = name
        self._shards = shard_paths.find(name, place)
        self.splits = tuple(self._shards)
        self._tables = {split: shard_index.read(shards) for split, shards in self._shards.items()}
        found = {
            label
            for tables in self._tables.values()
            for table in tables
            for label in table.column("label").unique().to_pylist()
        } - {None}
        self.class_names, self._number_of = _classes(name, found)

    def open_split(self, split: str) -> ShardImages:
        """Open one split; nothing but the indices is read."""
        tables = self._tables[split]
        labels = [
            self._number_of.get(label, -1) for table in tables for label in table.column("label").to_pylist()
        ]
        if not labels:
            raise DataError(f"the shards of {self.name} ({split}) hold no sample")
        images = ShardImages(
            self.name, split, self._shards[split], tables, np.array(labels, dtype=np.int64), self.class_names
        )
        if images.num_without_image == len(images):
            raise DataError(
                f"no sample of {self.name} ({split}) has an image; the first is {images.key(0)}. Expected files "
                "such as KEY.jpg and KEY.cls in a tar"
            )
        return images


def _classes(name: str, found: set[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the classes' names, and the number of each label as the shards spell it."""
    numbers = {label: int(label) for label in found if label.removeprefix("-").isdecimal()}
    if len(numbers) < len(found):
        names = tuple(sorted(found))
        return names, {label: number for number, label in enumerate(names)}
    low, high = min(numbers.values(), default=0), max(numbers.values(), default=-1)
    if low < -1 or high >= MOST_CLASSES:
        raise DataError(
            f"{name} has classes from {low} to {high}; expected numbers from 0 on (-1 means none), or names"
        )
    return tuple(str(number) for number in range(high + 1)), numbers
