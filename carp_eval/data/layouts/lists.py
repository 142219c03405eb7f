"""What readers of list files share: lists read whole or refused, and a source that is opened list by list."""

import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from carp_eval.data.folders import FolderImages
from carp_eval.data.listed import ListedImages
from carp_eval.data.source import Source
from carp_eval.errors import DataError


class Listing(NamedTuple):
    """What a list says.

    Attributes:
        paths: The images, below the source's folder.
        labels: Class of each.
        class_names: Names of the classes.
        list_name: The file that lists them; empty where they were found by looking into folders.
    """

    paths: list[str]
    labels: list[int]
    class_names: tuple[str, ...]
    list_name: str = ""


class Lists(Source):
    """A data set whose splits are lists of files; a list is read when its split is opened.

    Attributes:
        folder: What the lists' paths are relative to.
    """

    def __init__(self, name: str, folder: Path, read: Mapping[str, Callable[[], Listing]]) -> None:
        """Name the splits.

        Args:
            name: The data set as the user spells it.
            folder: What the lists' paths are relative to.
            read: Reads the list of each split.
        """
        self.name = name
        self.folder = folder
        self.splits = tuple(read)
        self._read = read

    def open_split(self, split: str) -> ListedImages:
        """Read the list of one split.

        Raises:
            DataError: If the list is not there, is cut short, or names a class that there is not.
        """
        paths, labels, class_names, list_name = self._read[split]()
        numbers = np.array(labels, dtype=np.int64)
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= len(class_names)):
            raise DataError(
                f"{list_name or self.folder} has classes numbered from {numbers.min()} to {numbers.max()} in {split}, "
                f"but there are {len(class_names)} classes: it is damaged, or of something else"
            )
        return ListedImages(self.name, split, self.folder, paths, numbers, class_names, list_name=list_name)


def joined(first: Callable[[], Listing], second: Callable[[], Listing]) -> Callable[[], Listing]:
    """Return what reads two lists as one."""

    def read() -> Listing:
        one, two = first(), second()
        names = " and ".join(dict.fromkeys((one.list_name, two.list_name)))
        return Listing(one.paths + two.paths, one.labels + two.labels, one.class_names, names)

    return read


def in_folders(root: Path, inside: str, class_names: tuple[str, ...]) -> Listing:
    """List the images of class folders.

    Args:
        root: What paths shall be relative to.
        inside: The folder below it that holds the class folders.
        class_names: The class folders, by number.
    """
    images = FolderImages("", "", root / inside, class_names)
    paths = [f"{inside}/{images.key(index)}" for index in range(len(images))]
    return Listing(paths, images.labels.tolist(), class_names)


def first_there(*paths: Path) -> Path:
    """Return the first of some paths that is there, or the first of all."""
    return next((path for path in paths if path.exists()), paths[0])


def fields(
    path: Path, at_least: int, *, separator: str | None = None, at_most: int = 0
) -> Iterator[list[str]]:
    """Yield the fields of each line of a text list that is not empty.

    Args:
        path: The list.
        at_least: How many fields a line must have.
        separator: What stands between them; left out, white space.
        at_most: How many to split it into, the last keeping its separators; 0 for all.

    Raises:
        DataError: If the list cannot be read, or a line has too few fields.
    """
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        parts = line.strip().split(separator, at_most - 1)
        if len(parts) < at_least:
            raise DataError(
                f"line {number} of {path} has {len(parts)} fields, but {at_least} are expected: the list is cut short, "
                f"or of something else; get it again"
            )
        yield parts


def whole_number(text: str, path: Path) -> int:
    """Read the number of a class.

    Raises:
        DataError: If it is none; the message names the list.
    """
    if not text.strip().isdecimal():
        raise DataError(f"{path} has {text!r} where the number of a class is expected; get it again")
    return int(text)


def json_of(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: If it cannot be read, or is cut short.
    """
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not whole JSON ({error}): it is cut short; get it again") from error


def matlab(path: Path, key: str) -> Any:
    """Read one variable of a Matlab file.

    Raises:
        DataError: If the file cannot be read, or has no such variable.
    """
    # Imported here: each evaluation knows this module, few read a Matlab file.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    bad = (
        OSError,
        MatReadError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        NotImplementedError,
        EOFError,
        zlib.error,
    )
    try:
        content = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        return np.atleast_1d(loadmat(content, squeeze_me=True, variable_names=[key])[key])
    except bad as error:
        raise DataError(
            f"{path} cannot be read as a Matlab file with {key!r} ({error}): it is cut short, or something else; "
            f"get it again"
        ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file ({error}); get it again") from error


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot read the list {path}: {error.strerror or error}; without it nothing tells "
        f"the images' classes and splits"
    )
