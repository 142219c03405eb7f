"""Data sets that the library `datasets` reads: from the Hub, or a local folder of Parquet or image files."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import datasets
import datasets.config
import datasets.exceptions
import huggingface_hub.errors
import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Int64
from PIL import Image

from carp_eval import files
from carp_eval.data import columns, manifest
from carp_eval.data.decoding import decode
from carp_eval.data.images import Images
from carp_eval.data.source import Source
from carp_eval.errors import BadImageError, DataError

# Pyarrow makes these functions when it is imported, so no type checker knows them.
pc = cast(Any, pyarrow.compute)

# What HubImages keeps of its table's columns.
_ARROW = ("_column", "_encoded", "_paths")

# Rows that lie together, and the size from which they are trained on together: what memory surely does not hold.
STRETCH = 1024
LARGE = 2**35

_FAILURES = (
    OSError,
    ValueError,
    RuntimeError,
    datasets.exceptions.DatasetsError,
    huggingface_hub.errors.HfHubHTTPError,
    pa.ArrowException,
)


class HubImages(Images):
    """One split, read row by row from the Arrow files that `datasets` keeps."""

    def __init__(
        self,
        name: str,
        split: str,
        table: datasets.Dataset,
        *,
        image: str,
        labels: Int64[np.ndarray, " image"],
        class_names: tuple[str, ...],
        folder: Path | None,
    ) -> None:
        """Hold a split.

        Args:
            name: The data set as the user spells it.
            split: The split's name.
            table: Its rows.
            image: The column of images.
            labels: Class of each row.
            class_names: Names of the classes.
            folder: The local folder it was read from; None for the Hub.
        """
        self.name = name
        self.split = split
        self.labels = labels
        self.class_names = class_names
        # The Dataset, not its column: it is pickled as the paths of its files, so workers map them anew.
        self._table = table
        self._image = image
        self._folder = folder
        if table.data.nbytes > LARGE:
            starts = np.arange(0, len(table), STRETCH)
            self.shard_sizes = np.diff(np.append(starts, len(table))).astype(np.int64)

    def image(self, index: int) -> Image.Image:
        """Decode one row."""
        encoded, path = self._row(index)
        where = f"row {index} of the split {self.split} of {self.name}" + (f" ({path})" if path else "")
        if encoded is not None:
            return decode(encoded, where)
        if path is None:
            raise BadImageError(f"{where} has no image in its column {self._image!r}")
        return decode(Path(path), where)

    def key(self, index: int) -> str:
        """Return the row's number, or the file's path where the rows are files of a local folder."""
        if not self._are_files:
            return f"{index:08d}"
        assert self._folder is not None
        path = Path(self._row(index)[1] or f"{index:08d}")
        return path.relative_to(self._folder).as_posix() if path.is_relative_to(self._folder) else str(path)

    def file_name(self, index: int) -> str:
        """Return the path that the row gives, or its key where it gives none."""
        return (self._paths[index].as_py() if self._paths is not None else None) or self.key(index)

    def hash_manifest(self) -> str:
        """Hash the rows' order, labels and content (see `manifest.digest`)."""
        return manifest.digest(
            keys=map(self.key, range(len(self))),
            labels=self.labels,
            class_names=self.class_names,
            sizes=self._sizes(),
            content=self._content,
            whole=self._contents(),
        )

    def __getstate__(self) -> dict[str, Any]:
        # Arrow's columns would be pickled with all their bytes.
        return {name: value for name, value in self.__dict__.items() if name not in _ARROW}

    @cached_property
    def _column(self) -> pa.ChunkedArray:
        return self._table.data.column(self._image)

    @cached_property
    def _encoded(self) -> pa.ChunkedArray:
        """The images' bytes, null where a row gives a path instead; nothing is read to have this."""
        column = self._column
        return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column

    @cached_property
    def _paths(self) -> pa.ChunkedArray | None:
        column = self._column
        return pc.struct_field(column, "path") if pa.types.is_struct(column.type) else None

    @cached_property
    def _are_files(self) -> bool:
        return self._folder is not None and self._encoded.null_count == len(self)

    def _row(self, index: int) -> tuple[bytes | None, str | None]:
        """Return a row's encoded image and its path; either may be missing."""
        value = self._column[index].as_py()
        if isinstance(value, dict):
            return value.get("bytes"), value.get("path")
        return value, None

    def _content(self, index: int) -> bytes:
        encoded, path = self._row(index)
        if encoded is not None or path is None:
            return encoded or b""
        try:
            return Path(path).read_bytes()
        except OSError:
            return b""

    def _contents(self) -> Iterator[bytes]:
        """Yield what `_content` gives of each row, piece by piece of the table: ten times as fast as row by row."""
        encoded = (value for part in self._encoded.chunks for value in part.to_pylist())
        return (self._content(row) if value is None else value for row, value in enumerate(encoded))

    def _sizes(self) -> Int64[np.ndarray, " image"]:
        sizes = _numbers(pc.binary_length(self._encoded))
        for index in np.flatnonzero(sizes < 0).tolist():
            path = self._row(index)[1]
            if path is not None and Path(path).is_file():
                sizes[index] = Path(path).stat().st_size
        return sizes


class HubSource(Source):
    """A data set read by `datasets`, its image and label columns found.

    Attributes:
        image: The column of images.
        label: The column of classes; None where there is none.
        class_names: Names of the classes.
    """

    def __init__(
        self,
        name: str,
        tables: Mapping[str, datasets.Dataset],
        *,
        image: str | None = None,
        label: str | None = None,
        strict: bool = True,
        folder: Path | None = None,
    ) -> None:
        """Find the columns.

        Args:
            name: The data set as the user spells it.
            tables: The rows of each split.
            image: The column of images; left out, the only one of that type.
            label: The column of classes; left out, the only one of that type.
            strict: Whether the columns named must be there; otherwise they only decide between several.
            folder: The local folder it was read from; None for the Hub.

        Raises:
            DataError: If a column is not there, or several could be meant.
        """
        self.name = name
        self.splits = tuple(tables)
        self._tables = tables
        self._folder = folder
        features = next(iter(tables.values())).features
        if not strict:
            image, label = (asked if asked in features else None for asked in (image, label))
        self.image = columns.image_column(features, image, name=name)
        self.label = columns.label_column(features, label, name=name)
        self.class_names = columns.class_names(self.label, features, tables.values(), name=name)

    def open_split(self, split: str) -> HubImages:
        """Open one split; its labels are read from their column alone."""
        table = self._tables[split]
        if not len(table):
            raise DataError(f"the split {split} of {self.name} has no rows")
        return HubImages(
            self.name,
            split,
            table,
            image=self.image,
            labels=self._labels(table),
            class_names=self.class_names,
            folder=self._folder,
        )

    def _labels(self, table: datasets.Dataset) -> Int64[np.ndarray, " image"]:
        if self.label is None:
            return np.full(len(table), -1, dtype=np.int64)
        column = table.data.column(self.label)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = pc.index_in(column, value_set=pa.array(self.class_names, column.type))
        labels = _numbers(column)
        if labels.min() < -1 or labels.max() >= len(self.class_names):
            raise DataError(
                f"{self.name} has labels from {labels.min()} to {labels.max()} in its column {self.label!r}, but "
                f"{len(self.class_names)} classes (-1 means none); the data set is broken, or another column is meant"
            )
        return labels


def load(
    name: str,
    path: str,
    *,
    revision: str | None = None,
    config: str | None = None,
    image: str | None = None,
    label: str | None = None,
    strict: bool = True,
) -> HubSource:
    """Read a data set: a local folder, or from the Hub, downloaded unless the cache has it.

    Args:
        name: The data set as the user spells it.
        path: A folder, or a Hub id `USER/NAME`.
        revision: Branch, tag or commit on the Hub.
        config: Which of the data set's configurations.
        image: The column of images; left out, the only one of that type.
        label: The column of classes; left out, the only one of that type.
        strict: Whether the columns named must be there; otherwise they only decide between several.

    Raises:
        DataError: If it cannot be had or read, or its columns cannot be told.
    """
    folder = Path(path) if Path(path).is_dir() else None
    with files.storage_errors(Path(datasets.config.HF_DATASETS_CACHE)), explained(name, path):
        # Nothing is verified against a card's counts here: folders of part of a set are welcome.
        tables = datasets.load_dataset(path, name=config, revision=revision, verification_mode="no_checks")
    splits = cast(Mapping[str, datasets.Dataset], tables)
    return HubSource(name, splits, image=image, label=label, strict=strict, folder=folder)


def load_cached(name: str, hub_id: str, *, image: str, label: str) -> HubSource | None:
    """Read a data set that was downloaded from the Hub before; None if it was not. Uses no network."""
    offline, verbosity = datasets.config.HF_HUB_OFFLINE, datasets.logging.get_verbosity()
    # `datasets` falls back on its cache when it is offline, and warns each time that it did.
    datasets.config.HF_HUB_OFFLINE = True
    datasets.logging.set_verbosity_error()
    try:
        return load(name, hub_id, image=image, label=label, strict=False)
    except DataError as error:
        if isinstance(error.__cause__, ConnectionError):
            return None
        raise
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
        datasets.logging.set_verbosity(verbosity)


def _numbers(column: pa.ChunkedArray) -> Int64[np.ndarray, " row"]:
    """Return a column of integers as an array of its own, -1 for null."""
    return np.array(pc.fill_null(pc.cast(column, pa.int64()), -1).to_numpy(), dtype=np.int64)


@contextmanager
def explained(name: str, path: str) -> Generator[None]:
    """Turn what `datasets` raises into an error that says what to do.

    Args:
        name: The data set as the user spells it.
        path: A folder, or a Hub id `USER/NAME`.

    Raises:
        DataError: If the data cannot be had or read.
    """
    try:
        yield
    except datasets.exceptions.DatasetGenerationError as error:
        cause = error.__cause__ or error
        if _is_storage(cause, path):
            raise cause from error
        raise DataError(f"{name} cannot be read: {cause}") from error
    except _FAILURES as error:
        if _is_storage(error, path):
            raise
        if isinstance(error, FileNotFoundError) and Path(path).is_dir():
            raise DataError(f"{path} has no Parquet or image files that `datasets` can read") from error
        hint = ""
        if isinstance(error, ConnectionError):
            hint = "; without the internet, name a local folder of the same files: hf:/path/to/folder"
        raise DataError(f"{name} cannot be read: {error}{hint}") from error


def _is_storage(error: BaseException, path: str) -> bool:
    """Tell whether the cache's disk refused (for `storage_errors` to explain), and not the data's own files."""
    if not isinstance(error, OSError) or error.errno not in files.STORAGE_ERRNOS:
        return False
    return error.filename is None or not Path(str(error.filename)).is_relative_to(path)
