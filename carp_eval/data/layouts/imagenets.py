"""ImageNet's relatives: Tiny-ImageNet, and the sets that test its classes on other images."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from carp_eval.data.folders import FolderImages, FolderSource
from carp_eval.data.layouts.lists import Listing, Lists, fields, in_folders
from carp_eval.data.source import Source
from carp_eval.errors import DataError

_WNID = re.compile(r"n\d{8}")


def read_tiny(name: str, place: Path) -> Source | None:
    """Read Tiny-ImageNet: class folders to train on, a list for the validation images, test images without labels.

    Classes are numbered in the order of their names, as ImageNet's are, not in that of `wnids.txt`.
    """
    if not (place / "wnids.txt").exists():
        return None
    names = tuple(sorted(line[0] for line in fields(place / "wnids.txt", 1)))
    number = {name: label for label, name in enumerate(names)}

    def validation() -> Listing:
        path = place / "val" / "val_annotations.txt"
        if not path.exists() and (place / "val" / names[0]).is_dir():
            return in_folders(place, "val", names)
        rows = [(file, wnid) for file, wnid, *_ in fields(path, 2)]
        for _, wnid in rows:
            if wnid not in number:
                raise DataError(f"{path} has the class {wnid!r}, which wnids.txt has not; get both again")
        paths = [f"val/images/{file}" for file, _ in rows]
        return Listing(paths, [number[wnid] for _, wnid in rows], names, str(path))

    return Lists(name, place, {"train": partial(in_folders, place, "train", names), "validation": validation})


def read_one_test_split(name: str, place: Path) -> Source | None:
    """Read class folders that lie in no folder of a split, and are all to test on."""
    if not any(_WNID.fullmatch(path.name) for path in place.iterdir() if path.is_dir()):
        return None
    return _TestFolders(FolderSource(name, place))


class _TestFolders(Source):
    """One folder of class folders, as a test split."""

    def __init__(self, source: FolderSource) -> None:
        self.name = source.name
        self.splits = ("test",)
        self._source = source

    def open_split(self, split: str) -> FolderImages:
        images = self._source.open_split("train")
        images.split = split
        return images


def read_v2(name: str, place: Path, base: Callable[[], Source]) -> Source | None:
    """Read ImageNet-V2: its folders are numbers, the places of their classes in ImageNet's sorted folders."""
    if not (place / "0").is_dir():
        return None
    return _NumberedFolders(name, place, base)


class _NumberedFolders(Source):
    """Class folders that are numbers, named by another data set."""

    def __init__(self, name: str, folder: Path, base: Callable[[], Source]) -> None:
        self.name = name
        self.splits = ("test",)
        self._folder = folder
        self._base = base

    def open_split(self, split: str) -> FolderImages:
        try:
            names = self._base().open("validation").class_names
        except DataError as error:
            raise DataError(
                f"{self.name} numbers its classes, and only imagenet's folders, sorted, name them. {error}"
            ) from error
        numbers = tuple(str(number) for number in range(len(names)))
        strange = {path.name for path in self._folder.iterdir() if path.is_dir()} - set(numbers)
        if strange:
            raise DataError(
                f"{self._folder} has a folder {min(strange)!r}, but classes are numbered 0 to {numbers[-1]}"
            )
        images = FolderImages(self.name, split, self._folder, numbers)
        images.class_names = names
        return images
