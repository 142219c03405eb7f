"""Where each sample of a tar file lies, found once and kept: a tar of images is then read in any order."""

import hashlib
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from carp_eval import files
from carp_eval.data.decoding import EXTENSIONS
from carp_eval.data.listed import shown
from carp_eval.errors import DataError

# Counts up when an index says more, or something else: older ones are then made anew.
_VERSION = b"1"
_LABEL_KEYS = ("label", "cls", "class", "target")
_MOST_LABEL_BYTES = 2**20
_BLOCK = 512
# How files start that gzip, bzip2, xz and Zstandard made.
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zX", b"(\xb5/\xfd")
_AT_ONCE = 8
_SCHEMA = pa.schema(
    [
        ("name", pa.large_binary()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("label", pa.large_string()),
    ]
)


class _Sample:
    """What is known of a sample while its members go by."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.members: set[str] = set()
        self.image: tuple[bytes, int, int] | None = None
        self.label: str | None = None

    def row(self) -> tuple[bytes, int, int, str | None]:
        name, offset, size = self.image or (self.key, -1, -1)
        return name, offset, size, self.label


class _Stamp(NamedTuple):
    """What changes when a file does."""

    size: int
    changed: int


def read(paths: tuple[Path, ...]) -> list[pa.Table]:
    """Return the index of each shard: a row for each sample, in the order of the file.

    The columns are `name`, the image's member name; `offset` and `size` of its bytes in the file, -1 where a sample
    has no image (`name` is then the sample's key); and `label`, null where there is none. An index is kept in
    `$CARP_HOME/shards` until the file's size or time changes.

    Raises:
        DataError: If a shard is no tar file, is compressed or cut short, or has a member twice.
        StorageError: If an index cannot be kept.
    """
    tables = [_kept(path) for path in paths]
    if all(table is not None for table in tables):
        return [table for table in tables if table is not None]
    # Of several processes that start together one reads the shards, and the others then find what it kept.
    with files.locked(_place(paths[0])), ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(_read, paths))


def split_name(name: bytes) -> tuple[bytes, str]:
    """Return a member's key and what comes after it: `a/b.c.jpg` is of the sample `a/b`, its `c.jpg`."""
    folder, slash, base = name.removeprefix(b"./").rpartition(b"/")
    stem, _, extension = base.partition(b".")
    return folder + slash + stem, shown(extension).lower()


def _read(path: Path) -> pa.Table:
    table = _kept(path)
    if table is not None:
        return table
    stamp = _stamp(path)
    rows = [sample.row() for sample in _samples(path)]
    columns = zip(*rows, strict=True) if rows else ([] for _ in _SCHEMA)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)]
    metadata = {"carp": json.dumps([*stamp, _VERSION.decode(), os.fspath(path.absolute())])}
    table = pa.table(arrays, schema=_SCHEMA.with_metadata(metadata))
    with files.replacing(_place(path)) as beside:
        pq.write_table(table, beside)
    return table


def _kept(path: Path) -> pa.Table | None:
    """Return the index that was kept of a shard, if it is of the file as it is."""
    try:
        table = pq.read_table(_place(path), memory_map=False)
        kept = json.loads((table.schema.metadata or {})[b"carp"])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
    return table if kept[:3] == [*_stamp(path), _VERSION.decode()] and table.schema.equals(_SCHEMA) else None


def _place(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    return files.home() / "shards" / f"{name}.parquet"


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return _Stamp(status.st_size, status.st_mtime_ns)


def _samples(path: Path) -> list[_Sample]:
    """Walk through a shard and return its samples, in the order in which their keys come up."""
    samples: dict[bytes, _Sample] = {}
    last = b""
    try:
        with tarfile.open(path, "r:", errorlevel=2) as tar:
            size = path.stat().st_size
            while (member := tar.next()) is not None:
                name = os.fsencode(member.name)
                if member.offset_data + member.size > size:
                    raise _cut_short(path, name)
                last = name
                hidden = name.rpartition(b"/")[2].startswith(b".")
                if member.isreg() and not member.issparse() and not hidden:
                    key, extension = split_name(name)
                    _add(samples.setdefault(key, _Sample(key)), extension, member, tar, path)
            # What the library takes for the end may be a damaged header, or nothing at all.
            with path.open("rb") as file:
                file.seek(tar.offset)
                end = file.read(_BLOCK)
            if end.count(0) != _BLOCK:
                raise _cut_short(path, last)
    except tarfile.TarError as error:
        if last:
            raise _cut_short(path, last) from error
        with path.open("rb") as file:
            compressed = file.read(4).startswith(_COMPRESSED)
        if compressed:
            raise DataError(
                f"{path} is compressed, whatever its name says; unpack it to a plain .tar"
            ) from error
        raise DataError(
            f"{path} is not a tar file, or is damaged at its start: {error}; get it again"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return list(samples.values())


def _add(sample: _Sample, extension: str, member: tarfile.TarInfo, tar: tarfile.TarFile, path: Path) -> None:
    name = shown(os.fsencode(member.name))
    if extension in sample.members:
        raise DataError(
            f"{path} has the file {name!r} twice; a key may name one sample alone: write the shard again"
        )
    sample.members.add(extension)
    if f".{extension}" in EXTENSIONS:
        if sample.image is not None:
            raise DataError(
                f"{path} has two images of one sample, {shown(sample.image[0])} and {name}; it cannot be told which is "
                "meant: write the shard again"
            )
        sample.image = (os.fsencode(member.name), member.offset_data, member.size)
    elif extension == "cls" or (extension == "json" and sample.label is None):
        label = _label(extension, member, tar, f"{path}: {name}")
        sample.label = sample.label if label is None else label


def _label(extension: str, member: tarfile.TarInfo, tar: tarfile.TarFile, where: str) -> str | None:
    """Read a class, a number or a name, from a sample's `.cls` or `.json`; None where the latter has none."""
    if member.size > _MOST_LABEL_BYTES:
        raise DataError(f"{where} has {member.size:,} bytes; a class is a number or a name")
    file = tar.extractfile(member)
    assert file is not None
    content = file.read()
    try:
        text = content.decode("utf-8").strip()
        if extension == "cls":
            return text or None
        described = json.loads(text)
    except ValueError as error:
        raise DataError(
            f"{where} is not {'text' if extension == 'cls' else 'JSON'} in UTF-8: {error}"
        ) from error
    if not isinstance(described, dict):
        return None
    found = next((described[key] for key in _LABEL_KEYS if described.get(key) is not None), None)
    if found is not None and (isinstance(found, bool) or not isinstance(found, int | str)):
        raise DataError(f"{where} has the class {found!r}; a class is a number or a name")
    return None if found is None else str(found)


def _cut_short(path: Path, last: bytes) -> DataError:
    after = f" at or after {shown(last)!r}" if last else " at its start"
    return DataError(f"{path} is cut short or damaged{after}; get it again")
