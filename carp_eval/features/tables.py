"""A data set's features in one file that other tools read: Parquet or NumPy's own, in the order of the banks' rows.

All is written shard by shard, so memory does not grow with the data set, and beside the file first, so that it is whole
or not there. Several splits stand one below the other, told apart by a column.
"""

import json
import zipfile
from collections.abc import Iterator, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from carp_eval import files
from carp_eval.errors import BankError, UsageError
from carp_eval.features import shards
from carp_eval.features.bank import Bank

SUFFIXES = (".parquet", ".npy", ".npz")
ROWS = ".rows.parquet"
# Under this key the schema of a Parquet file, and under this name an .npz, says what the features are of.
METADATA = "carp_eval"


def check_path(path: Path) -> None:
    """Make sure that a file's ending names a format, and that it can be written.

    Raises:
        UsageError: If the ending names none.
        StorageError: If the folder is read-only or closed to us.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"{path} must end in one of {', '.join(SUFFIXES)}, which says in what format it is written"
        )
    files.check_writable(path.parent)


def write(banks: Sequence[Bank], path: Path) -> list[Path]:
    """Write the features of one or several splits to one file.

    `.parquet` has the columns `key`, `split`, `label` (null where there is none), `class_name` and `features`, a list
    of fixed size. `.npy` has the features alone, and a Parquet file beside it, `NAME.rows.parquet`, the other columns.
    `.npz` has the arrays `features`, `labels` (-1 where there is none), `keys`, `splits` and `class_names`, that of
    each row.

    Args:
        banks: The splits' banks, of the same model and settings.
        path: The file; its ending says the format.

    Returns:
        What was written, the file itself first.

    Raises:
        UsageError: If the ending names no format.
        BankError: If the banks cannot be compared, or a shard is missing or cut short.
        StorageError: If the disk is full, read-only or closed to us.
    """
    check_path(path)
    first, *others = banks
    for other in others:
        first.check_comparable(other)
        if other.fingerprint.dtype != first.fingerprint.dtype:
            raise BankError(
                f"{first.path} stores {first.fingerprint.dtype} and {other.path} {other.fingerprint.dtype}: extract "
                "both with the same --dtype"
            )
    if path.suffix == ".npz":
        _write_npz(banks, path)
        return [path]
    if path.suffix == ".parquet":
        _write_parquet(banks, path, features=True)
        return [path]
    rows = path.with_name(path.stem + ROWS)
    _write_parquet(banks, rows, features=False)
    with files.replacing(path) as beside, beside.open("wb") as file:
        _write_features(banks, file)
    return [path, rows]


def describe(banks: Sequence[Bank]) -> dict[str, Any]:
    """Say what the features are of, in plain values."""
    record, fingerprint = banks[0].record, banks[0].fingerprint
    return {
        "model": record.model,
        "branch": fingerprint.branch,
        "layer": fingerprint.layer,
        "weights_sha256": fingerprint.weights_sha256,
        "preprocessing": fingerprint.preprocessing,
        "precision": fingerprint.precision,
        "banks": {
            bank.record.split: {
                "dataset": bank.record.dataset,
                "fingerprint": bank.fingerprint.sha256,
                "rows": len(bank),
                "skipped": len(bank.skipped),
            }
            for bank in banks
        },
    }


def _write_parquet(banks: Sequence[Bank], path: Path, *, features: bool) -> None:
    """Write a table, a row group for each shard."""
    element = {"float16": pa.float16(), "float32": pa.float32()}[banks[0].fingerprint.dtype]
    fields = [
        ("key", pa.string()),
        ("split", pa.string()),
        ("label", pa.int64()),
        ("class_name", pa.string()),
    ]
    if features:
        fields.append(("features", pa.list_(element, banks[0].dim)))
    schema = pa.schema(fields, metadata={METADATA: json.dumps(describe(banks))})
    with files.replacing(path) as beside, pq.ParquetWriter(beside, schema) as writer:
        for bank, number in _shards(banks):
            labels, names = _classes(bank, number)
            columns = [
                pa.array(_keys(bank, number), pa.string()),
                pa.array([bank.record.split] * len(labels), pa.string()),
                pa.array(labels, mask=labels < 0),
                pa.array(names, pa.string()),
            ]
            if features:
                values = pa.array(_features(bank, number).reshape(-1), element)
                columns.append(pa.FixedSizeListArray.from_arrays(values, bank.dim))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _write_npz(banks: Sequence[Bank], path: Path) -> None:
    """Write arrays one after the other into an archive, as `numpy.savez` lays them out."""
    # NumPy's text has one width for all rows, which must be known before the first.
    keys = max((len(key) for bank, number in _shards(banks) for key in _keys(bank, number)), default=1)
    splits = max(len(bank.record.split) for bank in banks)
    classes = max((len(name) for bank in banks for name in bank.class_names), default=0)
    rows = sum(map(len, banks))
    with files.replacing(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        with _member(archive, "features") as file:
            _write_features(banks, file)
        with _member(archive, "labels") as file:
            _header(file, (rows,), np.dtype(np.int64))
            for bank, number in _shards(banks):
                file.write(_classes(bank, number)[0].tobytes())
        with _member(archive, "keys") as file:
            _write_text(file, rows, max(1, keys), (_keys(bank, number) for bank, number in _shards(banks)))
        with _member(archive, "splits") as file:
            parts = ([bank.record.split] * bank.record.shards[number].rows for bank, number in _shards(banks))
            _write_text(file, rows, splits, parts)
        with _member(archive, "class_names") as file:
            named = (_classes(bank, number)[1] for bank, number in _shards(banks))
            _write_text(file, rows, max(1, classes), ([name or "" for name in part] for part in named))
        with _member(archive, METADATA) as file:
            np.save(file, np.array(json.dumps(describe(banks))))


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    return archive.open(f"{name}.npy", "w", force_zip64=True)


def _write_features(banks: Sequence[Bank], file: BufferedIOBase) -> None:
    _header(file, (sum(map(len, banks)), banks[0].dim), np.dtype(banks[0].fingerprint.dtype))
    # Not by a memory map: a disk that fills up would kill the process instead of raising an error.
    for bank, number in _shards(banks):
        file.write(_features(bank, number).tobytes())


def _write_text(file: BufferedIOBase, rows: int, width: int, parts: Iterator[list[str]]) -> None:
    dtype = np.dtype(f"<U{width}")
    _header(file, (rows,), dtype)
    for part in parts:
        file.write(np.array(part, dtype=dtype).tobytes())


def _header(file: BufferedIOBase, shape: tuple[int, ...], dtype: np.dtype) -> None:
    described = {"descr": dtype.newbyteorder("<").str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)


def _shards(banks: Sequence[Bank]) -> Iterator[tuple[Bank, int]]:
    """Yield every shard of every bank, by its number."""
    return ((bank, number) for bank in banks for number in range(len(bank.record.shards)))


def _features(bank: Bank, number: int) -> np.ndarray:
    return shards.read(bank.path, bank.record.shards[number], "features")[0].numpy()


def _classes(bank: Bank, number: int) -> tuple[np.ndarray, list[str | None]]:
    labels = shards.read(bank.path, bank.record.shards[number], "labels")[0].numpy()
    return labels, [bank.class_names[label] if label >= 0 else None for label in labels.tolist()]


def _keys(bank: Bank, number: int) -> list[str]:
    """Return a shard's keys as text that any file can hold, whatever bytes they were made of."""
    found = shards.read_keys(bank.path, bank.record.shards[number])
    return [key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for key in found]
