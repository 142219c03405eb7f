"""PASCAL VOC 2007 as its makers pack it: a folder of photographs, and for each class a list of who shows it.

`ImageSets/Main/<class>_<split>.txt` has a line for each photograph: its name, and 1 where it shows the class, -1 where
it does not, and 0 where all it shows of it is marked as difficult (VOC2007 development kit).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int8

from carp_eval.data.listed import ListedImages
from carp_eval.data.source import Source
from carp_eval.errors import DataError

CLASS_NAMES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
# Photographs in each split of the whole data set.
SPLITS: Mapping[str, int] = {"trainval": 5011, "test": 4952, "train": 2501, "val": 2510}
_LISTS = Path("ImageSets/Main")
_PHOTOGRAPHS = Path("JPEGImages")


def read(name: str, place: Path) -> Source | None:
    """Read a folder that holds VOC2007, or is it; None if it holds no lists of VOC's."""
    for folder in (place, place / "VOC2007", place / "VOCdevkit" / "VOC2007"):
        if (folder / _LISTS).is_dir():
            return VocSource(name, folder)
    return None


class VocSource(Source):
    """A copy of VOC2007, whole or a part of it.

    Attributes:
        folder: The one that holds `ImageSets` and `JPEGImages`.
    """

    def __init__(self, name: str, folder: Path) -> None:
        """Look which splits are listed.

        Args:
            name: The data set as the user spells it.
            folder: The one that holds `ImageSets` and `JPEGImages`.

        Raises:
            DataError: If no split is.
        """
        self.name = name
        self.folder = folder
        first = CLASS_NAMES[0]
        self.splits = tuple(split for split in SPLITS if (folder / _LISTS / f"{first}_{split}.txt").is_file())
        if not self.splits:
            raise DataError(
                f"{folder / _LISTS} lists no split: expected files such as {first}_trainval.txt; "
                "unpack VOC2007's archives again"
            )

    def open_split(self, split: str) -> ListedImages:
        """Open the photographs of a split that are there; `partial` says how many, if not all.

        Raises:
            DataError: If a class has no list, lists do not fit together, or no photograph is there.
        """
        names, targets = read_lists(self.folder, split)
        there = np.array([(self.folder / _PHOTOGRAPHS / f"{name}.jpg").is_file() for name in names])
        count, expected = int(there.sum()), max(len(names), SPLITS[split])
        if not count:
            raise DataError(
                f"{self.folder / _PHOTOGRAPHS} has none of the {len(names)} photographs that are listed for {split}: "
                "unpack VOC2007's archive of photographs beside its lists"
            )
        images = ListedImages(
            self.name,
            split,
            self.folder / _PHOTOGRAPHS,
            [f"{name}.jpg" for name, is_there in zip(names, there, strict=True) if is_there],
            np.full(count, -1, dtype=np.int64),
            CLASS_NAMES,
            targets=targets[there],
        )
        if count < expected:
            images.partial = f"{count:,} of {expected:,} {split} images"
        return images


def read_lists(folder: Path, split: str) -> tuple[list[str], Int8[np.ndarray, "image class"]]:
    """Read who shows what in a split, whether or not the photographs are there.

    Args:
        folder: The one that holds `ImageSets`.
        split: The split.

    Returns:
        The photographs' names, in the lists' order, and their targets: 1, 0 or -1 for each class.

    Raises:
        DataError: If a list is missing or broken, or classes list different photographs.
    """
    names: list[str] = []
    columns: list[list[int]] = []
    for class_name in CLASS_NAMES:
        path = folder / _LISTS / f"{class_name}_{split}.txt"
        listed = _read_list(path)
        if not columns:
            names = list(listed)
        if listed.keys() != set(names):
            odd = sorted(listed.keys() ^ set(names))
            raise DataError(
                f"{path} lists other photographs than {CLASS_NAMES[0]}_{split}.txt: {len(odd)} are in one of the two "
                f"alone, such as {odd[0]}; get the lists again"
            )
        columns.append([listed[name] for name in names])
    return names, np.array(columns, dtype=np.int8).T


def _read_list(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read VOC2007's list {path}: {error}; unpack its archive again") from error
    listed: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        match line.split():
            case []:
                continue
            case [name, "1" | "0" | "-1" as told] if name not in listed:
                listed[name] = int(told)
            case _:
                raise DataError(
                    f"line {number} of {path} is {line!r}; expected a photograph's name, once, and 1, 0 or -1: "
                    "unpack the archive again"
                )
    if not listed:
        raise DataError(f"{path} lists no photograph; it is empty or cut short: unpack the archive again")
    return listed
