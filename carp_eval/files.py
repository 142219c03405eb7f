"""Files that are either whole or not there: atomic writes, hashes, locks."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from carp_eval.errors import StorageError

STORAGE_ERRNOS = {
    errno.ENOSPC: "the disk is full; free some space and start again, nothing was left half-written",
    errno.EFBIG: "the file is larger than this system allows; raise the limit (ulimit -f) or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space and start again",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission was denied; choose a folder you may write to",
    errno.EPERM: "permission was denied; choose a folder you may write to",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another folder",
}


def home() -> Path:
    """Return the folder of banks and downloads: `$CARP_HOME`, or `carp` in the user's cache."""
    chosen = os.environ.get("CARP_HOME")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("carp"))


@contextmanager
def storage_errors(path: Path) -> Generator[None]:
    """Turn what a disk refuses into a clear error.

    Raises:
        StorageError: If the disk is full, read-only or closed to us.
    """
    try:
        yield
    except OSError as error:
        reason = STORAGE_ERRNOS.get(error.errno or 0)
        if reason is None:
            raise
        raise StorageError(f"cannot write {path}: {reason}") from error


def make_folder(path: Path) -> Path:
    """Make a folder and its parents, and return it.

    Raises:
        StorageError: If the disk refuses, or a file stands where the folder should.
    """
    with storage_errors(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise StorageError(f"cannot make the folder {path}: a file of that name is there") from error
        except FileNotFoundError as error:
            raise StorageError(
                f"cannot make the folder {path}: nothing can be made there; choose another"
            ) from error
    return path


def check_writable(folder: Path) -> None:
    """Find out before long work whether a folder can be written to; one that is not there is not made.

    Raises:
        StorageError: If the disk is read-only or closed to us, or a file stands where the folder should.
    """
    with storage_errors(folder):
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if there == folder and not there.is_dir():
            raise StorageError(f"cannot make the folder {folder}: a file of that name is there")
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except FileNotFoundError as error:
            raise StorageError(f"cannot write {folder}: nothing can be made there; choose another") from error


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a path beside `path` to write to, and rename it over `path` once the block ends well.

    The bytes are on the disk before the rename, so a crash leaves the old file or the new one.

    Raises:
        StorageError: If the disk is full, read-only or closed to us.
    """
    make_folder(path.parent)
    with storage_errors(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
    beside = Path(name)
    try:
        with storage_errors(path):
            yield beside
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            beside.chmod(0o666 & ~_umask())
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, or leave what was there.

    Raises:
        StorageError: If the disk is full, read-only or closed to us.
    """
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path, *, waiting: Callable[[], None] | None = None) -> Generator[bool]:
    """Hold a lock on `path` for the block, and tell whether it was free at once.

    A process that dies lets go of its lock.

    Args:
        path: What is locked.
        waiting: Called before it waits for another process.

    Raises:
        StorageError: If the lock file cannot be made.
    """
    make_folder(path.parent)
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    with storage_errors(path):
        try:
            lock.acquire(timeout=0)
            free = True
        except Timeout:
            if waiting is not None:
                waiting()
            lock.acquire()
            free = False
    try:
        yield free
    finally:
        lock.release()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
