"""Whether a copy of a data set is whole: its images and classes counted, its files hashed, its images decoded."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from carp_eval import files
from carp_eval.data import opening
from carp_eval.data.images import Images
from carp_eval.data.listed import ListedImages
from carp_eval.data.skipping import SkippedImage
from carp_eval.data.source import Source
from carp_eval.data.table import TABLE, Row, how_to_get
from carp_eval.errors import BadImageError, DataError, UnknownNameError, UsageError

# Makes a bar for work of a name; the bar is told how much is done, of how much.
Bars = Callable[[str], Callable[[int, int], None]]
SHOWN = 3
_AT_ONCE = 256
_CHUNK = 2**24


@dataclass(frozen=True)
class SplitCheck:
    """What was found of one split.

    Attributes:
        split: The split.
        expected: Images it should have.
        found: Images that are there.
        classes: Classes that its images show.
        expected_classes: Classes they should show; 0 where that is not known.
        missing: The first listed files that are not there.
        unreadable: Images that cannot be decoded; empty if none was tried.
        problem: Why it cannot be opened; empty if it can.
    """

    split: str
    expected: int
    found: int = 0
    classes: int = 0
    expected_classes: int = 0
    missing: tuple[str, ...] = ()
    unreadable: tuple[SkippedImage, ...] = ()
    problem: str = ""

    @property
    def whole(self) -> bool:
        """Whether it is as the table says."""
        classes_known = self.expected_classes or self.classes
        right = (self.found, self.classes) == (self.expected, classes_known)
        return right and not (self.problem or self.unreadable)


@dataclass(frozen=True)
class FileCheck:
    """What was found of one archive or list whose hash is known.

    Attributes:
        path: The file.
        expected: The MD5 it should have.
        found: The MD5 it has.
    """

    path: Path
    expected: str
    found: str

    @property
    def whole(self) -> bool:
        """Whether it is the file that it should be."""
        return self.expected == self.found


@dataclass(frozen=True)
class Check:
    """What was found of a data set.

    Attributes:
        name: The data set.
        place: Where; empty if nowhere.
        splits: Each split of the table.
        files: Each file whose hash is known and that is there.
        how: What to do where it is not whole.
    """

    name: str
    place: str
    splits: tuple[SplitCheck, ...]
    files: tuple[FileCheck, ...]
    how: str

    @property
    def whole(self) -> bool:
        """Whether all of it is there."""
        return bool(self.place) and all(part.whole for part in (*self.splits, *self.files))


def check(
    name: str, *, data_root: Path | None = None, decode: bool = False, progress: Bars | None = None
) -> Check:
    """Look whether a data set of the table is on this machine, and whole.

    Args:
        name: The data set.
        data_root: Where to look first.
        decode: Whether to decode every image.
        progress: Shows what takes long.

    Raises:
        UnknownNameError: If the table has no such data set.
        UsageError: If it is spelled as a folder or the like, of which nothing is known to be checked.
    """
    row = TABLE.get(name)
    if row is None and ":" in name:
        raise UsageError(
            f"a check holds a data set to what the table says of it, and takes a name from `carp data list`; of {name} "
            f"the table says nothing. Copies elsewhere are found with --data-root; `carp extract -d {name} --skip-bad` "
            "decodes every image, and lists those that cannot be read"
        )
    if row is None:
        raise UnknownNameError("data set", name, TABLE)
    bars = progress or _no_bars
    try:
        source = opening.locate(name, data_root=data_root)
    except DataError as error:
        parts = (SplitCheck(split, expected) for split, expected in row.splits.items())
        return Check(name, "", tuple(parts), (), str(error))
    named = isinstance(source, opening.NamedSource)
    splits = tuple(_split(source, row, split, decode=decode, bars=bars) for split in row.splits)
    folder = source.folder if named else None
    hashed = tuple(_hashed(row, folder, data_root or files.home() / "data", bars)) if folder else ()
    return Check(name, source.place if named else "the package", splits, hashed, how_to_get(name))


def _no_bars(_: str) -> Callable[[int, int], None]:
    return lambda *_: None


def _split(source: Source, row: Row, split: str, *, decode: bool, bars: Bars) -> SplitCheck:
    expected = row.splits[split]
    try:
        if split not in source.splits:
            return SplitCheck(split, expected, problem=f"there is no split {split} in this copy")
        opened = source.open_as_it_is if isinstance(source, opening.NamedSource) else source.open_split
        images = opened(split)
    except DataError as error:
        return SplitCheck(split, expected, problem=str(error))
    # Train and validation images are decoded as such.
    decode = decode and not (split == "trainval" and "train" in row.splits)
    gone = list(images.missing()) if isinstance(images, ListedImages) else []
    labelled = bool((images.labels >= 0).any())
    return SplitCheck(
        split,
        expected,
        found=len(images) - len(gone),
        classes=_classes(images),
        # Of what is searched, and of several labels an image, not every class need be in every split.
        expected_classes=row.num_classes if labelled and row.metric != "map" else 0,
        missing=tuple(gone[:SHOWN]),
        unreadable=tuple(_unreadable(images, bars(f"decoding {split}"))) if decode else (),
    )


def _classes(images: Images) -> int:
    if images.targets is not None:
        return int((images.targets == 1).any(axis=0).sum())
    return len(np.unique(images.labels[images.labels >= 0]))


def _unreadable(images: Images, tell: Callable[[int, int], None]) -> Iterator[SkippedImage]:
    """Decode every image, some at a time, and yield those that cannot be."""

    def reason(index: int) -> str:
        try:
            images.image(index)
        except BadImageError as error:
            return str(error)
        return ""

    numbers = iter(range(len(images)))
    # Pillow lets go of the interpreter while it decodes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while some := list(islice(numbers, _AT_ONCE)):
            for index, why in zip(some, pool.map(reason, some), strict=True):
                if why:
                    yield SkippedImage(index, images.key(index), why)
            tell(some[-1] + 1, len(images))


def _hashed(row: Row, folder: Path, root: Path, bars: Bars) -> Iterator[FileCheck]:
    """Hash the files whose hash is known, where archives are unpacked to or beside it."""
    for file, md5 in row.md5.items():
        for place in dict.fromkeys((folder, folder.parent, root)):
            if (place / file).is_file():
                yield FileCheck(place / file, md5, _md5(place / file, bars(f"hashing {file}")))


def _md5(path: Path, tell: Callable[[int, int], None]) -> str:
    digest, size, done = hashlib.md5(usedforsecurity=False), path.stat().st_size, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            tell(done, size)
    return digest.hexdigest()
