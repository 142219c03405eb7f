"""Data sets that `datasets` streams: read while they are trained on, for what no disk here can hold."""

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, cast

import datasets
import datasets.distributed
import fsspec
import pyarrow.parquet as pq

from carp_eval import seeds
from carp_eval.data import columns, hub
from carp_eval.data.source import Source
from carp_eval.data.streamed import Part, StreamedImages
from carp_eval.errors import DataError

# Images that wait to be drawn: of photographs about a hundred megabytes.
BUFFER = 1000
_AT_ONCE = 16


@dataclass(frozen=True)
class StreamedRows:
    """The encoded images of a stream.

    Attributes:
        name: The data set as the user spells it.
        path: What `datasets` was given.
        table: The stream, its images not decoded.
        image: The column of images.
        buffer: How many images wait to be drawn by chance.
    """

    name: str
    path: str
    table: datasets.IterableDataset
    image: str
    buffer: int

    def __call__(self, *, seed: int | None, epoch: int, part: Part) -> Generator[bytes]:
        """Yield encoded images (see `streamed.Rows`)."""
        table = self.table
        if seed is not None:
            table = table.shuffle(seed=seeds.derive(seed, "stream", epoch) % 2**32, buffer_size=self.buffer)
        if part.world_size > 1:
            table = datasets.distributed.split_dataset_by_node(
                table, rank=part.rank, world_size=part.world_size
            )
        with hub.explained(self.name, self.path):
            for row in table:
                yield _encoded(row[self.image])


class StreamSource(Source):
    """A data set read by `datasets` as a stream."""

    def __init__(
        self,
        name: str,
        path: str,
        *,
        revision: str | None = None,
        config: str | None = None,
        image: str | None = None,
        rows: int | None = None,
        buffer: int = BUFFER,
    ) -> None:
        """Look at what there is; no image is read.

        Args:
            name: The data set as the user spells it.
            path: A folder, or a Hub id `USER/NAME`.
            revision: Branch, tag or commit on the Hub.
            config: Which of the data set's configurations.
            image: The column of images; left out, the only one of that type.
            rows: Images of the split that is opened, where the data set does not say.
            buffer: How many images wait to be drawn by chance.

        Raises:
            DataError: If it cannot be had or read, or its columns cannot be told.
        """
        self.name = name
        self._path, self._image, self._asked, self._buffer = path, image, rows, buffer
        with hub.explained(name, path):
            builder = datasets.load_dataset_builder(path, name=config, revision=revision)
            tables = cast(Mapping[str, datasets.IterableDataset], builder.as_streaming_dataset())
            files = builder.config.data_files or {}
        self._tables = tables
        self._files = {str(split): [str(file) for file in files[split]] for split in files}
        self._counts = {
            str(split): found.num_examples for split, found in (builder.info.splits or {}).items()
        }
        self.splits = tuple(tables)

    def open_split(self, split: str) -> StreamedImages:
        """Open one split, whose number of images must be known.

        Raises:
            DataError: If it is not, or the column of images cannot be told.
        """
        table = self._tables[split]
        if table.features is None:
            raise DataError(
                f"{self.name}: the types of its columns are not known before it is read; use Parquet"
            )
        image = columns.image_column(table.features, self._image, name=self.name)
        if isinstance(table.features[image], datasets.Image):
            table = table.cast_column(image, datasets.Image(decode=False))
        file_rows = self._file_rows(split)
        num_rows = self._asked or self._counts.get(split) or sum(file_rows)
        if not num_rows:
            separator = "&" if "?" in self.name else "?"
            raise DataError(
                f"{self.name} ({split}) does not say how many images it has, and a training's length follows from it: "
                f"say so, as in {self.name}{separator}rows=1281167"
            )
        apart = sum(file_rows) == num_rows and len(file_rows) == table.num_shards
        return StreamedImages(
            self.name,
            split,
            StreamedRows(self.name, self._path, table, image, self._buffer),
            num_rows=num_rows,
            file_rows=file_rows if apart else (),
        )

    def _file_rows(self, split: str) -> Sequence[int]:
        """Count the rows of each Parquet file by its footer; none where files are of another kind."""
        files = self._files.get(split, [])
        if not files or not all(file.endswith(".parquet") for file in files):
            return ()
        with hub.explained(self.name, self._path), ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(_num_rows, files))


def _num_rows(file: str) -> int:
    with fsspec.open(file, "rb") as opened:
        return int(pq.ParquetFile(opened).metadata.num_rows)


def _encoded(value: object) -> bytes:
    """Return the bytes of an image as its column holds it: as they are, beside a path, or by a path alone."""
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
        if content is None and path:
            with cast(BinaryIO, fsspec.open(str(path), "rb")) as opened:
                content = opened.read()
        value = content
    return value if isinstance(value, bytes) else b""
