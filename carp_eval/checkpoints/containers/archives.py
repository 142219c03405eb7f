"""Zip and tar archives that nobody vouches for: their contents are judged before anything is unpacked."""

import io
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from carp_eval import files
from carp_eval.errors import CheckpointError

# Weights hardly shrink: they are noise to any compression.
GROWTH = 20
# What small texts beside the weights may grow to, whatever they were compressed to.
SLACK = 2**20
_WEIGHTS = (".pth", ".pt", ".pth.tar", ".pt.tar", ".safetensors", ".ckpt", ".bin", ".torch")


@contextmanager
def opened_zip(path: Path) -> Generator[zipfile.ZipFile]:
    """Open a zip archive whose listing is sound.

    Raises:
        CheckpointError: If it is cut short, or a name, a size or a kind of entry in it cannot be honest.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_zip(archive.infolist(), path)
            yield archive
    except (zipfile.BadZipFile, EOFError, UnicodeDecodeError, NotImplementedError) as error:
        raise CheckpointError(
            f"{path} cannot be read: the zip archive is truncated or damaged ({error}); fetch it again"
        ) from error


def unpack(path: Path, member: str, folder: Path) -> Path:
    """Write the one file of an archive that is wanted into a folder, and return it.

    Args:
        path: A zip or an uncompressed tar archive.
        member: Its name inside; empty where there is only one file of weights.
        folder: Where to write it.

    Raises:
        CheckpointError: If the archive is not sound, or has no such file.
        StorageError: If the disk is full or closed to us.
    """
    target = folder / "member"
    if is_tar(path):
        with _opened_tar(path) as archive:
            name = _chosen({entry.name for entry in archive.getmembers() if entry.isreg()}, member, path)
            entry = archive.getmember(name)
            _copy(cast(io.BufferedIOBase, archive.extractfile(entry)), entry.size, target, where=path)
        return target
    with opened_zip(path) as archive:
        name = _chosen({entry.filename for entry in archive.infolist() if not entry.is_dir()}, member, path)
        entry = archive.getinfo(name)
        with archive.open(entry) as source:
            _copy(cast(io.BufferedIOBase, source), entry.file_size, target, where=path)
    return target


def is_tar(path: Path) -> bool:
    """Tell whether a file begins as an uncompressed tar archive does."""
    with path.open("rb") as file:
        head = file.read(512)
    return head[257:262] == b"ustar"


def legacy_torch(path: Path) -> bool:
    """Tell whether a tar archive is what the first releases of torch wrote."""
    with _opened_tar(path) as archive:
        return {"sys_info", "pickle", "storages"} <= set(archive.getnames())


@contextmanager
def _opened_tar(path: Path) -> Generator[tarfile.TarFile]:
    try:
        with tarfile.open(path, mode="r:") as archive:
            entries = archive.getmembers()
            for entry in entries:
                _check_name(entry.name, path)
                if not (entry.isreg() or entry.isdir()) or entry.issparse():
                    raise CheckpointError(
                        f"{path} was refused: {entry.name!r} in it is a link or a device, not a plain file; unpack the "
                        "weights by hand if you trust it"
                    )
            _check_distinct([entry.name for entry in entries], path)
            # A listing is made from what the file has, and one that is cut short ends in silence.
            last = max((entry.offset_data + entry.size for entry in entries), default=0)
            if last > path.stat().st_size:
                raise CheckpointError(f"{path} is cut short: its tar archive goes on; fetch it again")
            yield archive
    except (tarfile.TarError, EOFError, UnicodeDecodeError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read: the tar archive is truncated or damaged ({error}); fetch it again"
        ) from error


def _check_zip(entries: list[zipfile.ZipInfo], path: Path) -> None:
    size = path.stat().st_size
    _check_distinct([entry.filename for entry in entries], path)
    for entry in entries:
        _check_name(entry.filename, path)
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise CheckpointError(
                f"{path} was refused: {entry.filename!r} in it is a symbolic link; an archive of weights needs none"
            )
        if entry.flag_bits & 0x1:
            raise CheckpointError(f"{path}: {entry.filename!r} in it is encrypted; unpack it by hand")
        if entry.file_size > GROWTH * entry.compress_size + SLACK:
            raise CheckpointError(
                f"{path} was refused: {entry.filename!r} takes {entry.compress_size:,} bytes and would grow to "
                f"{entry.file_size:,}, as a zip bomb does; weights hardly shrink"
            )
    if sum(entry.compress_size for entry in entries) > size:
        raise CheckpointError(
            f"{path} was refused: its {len(entries)} entries take more bytes together than the file's {size:,}: they "
            "overlap, as in a zip bomb, or the file is cut short"
        )
    total = sum(entry.file_size for entry in entries)
    if total > GROWTH * size + SLACK:
        raise CheckpointError(
            f"{path} was refused: its {size:,} bytes would grow to {total:,}, as a zip bomb does; weights hardly shrink"
        )


def _check_distinct(names: list[str], path: Path) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise CheckpointError(
                f"{path} was refused: it has {name!r} twice, and readers differ in which they take"
            )
        seen.add(name)


def _check_name(name: str, path: Path) -> None:
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise CheckpointError(
            f"{path} was refused: an entry of the archive is named {name!r}, which leads out of the folder it would be "
            "unpacked in"
        )


def _chosen(names: set[str], member: str, path: Path) -> str:
    if member:
        if member in names:
            return member
        raise CheckpointError(f"{path} holds no {member!r}; it holds {_listed(names)}")
    weights = [name for name in names if name.lower().endswith(_WEIGHTS)]
    if len(weights) != 1:
        what = "several files of weights" if weights else "no file of weights known by its ending"
        raise CheckpointError(
            f"{path} is an archive with {what}: {_listed(set(weights) or names)}. Say which with --member, or "
            "weights.member in its card"
        )
    return weights[0]


def _listed(names: set[str]) -> str:
    first = sorted(names)[:8]
    return ", ".join(first) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "nothing"


def _copy(source: io.BufferedIOBase, size: int, target: Path, *, where: Path) -> None:
    with files.storage_errors(target), target.open("wb") as file:
        shutil.copyfileobj(source, file, 2**20)
        written = file.tell()
    if written != size:
        raise CheckpointError(
            f"{where} is damaged: {written:,} bytes came out of it where it declares {size:,}"
        )
