"""Data sets that are folders of image files: a folder for each class, with or without a folder for each split above."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from carp_eval.data.decoding import EXTENSIONS
from carp_eval.data.listed import ListedImages, shown
from carp_eval.data.source import SPLIT_NAMES, Source
from carp_eval.errors import DataError

WHOLE = "train"
_ENDINGS = tuple(EXTENSIONS)


class FolderImages(ListedImages):
    """The image files of one split.

    Attributes:
        num_ignored: Files that were passed over because they are not images by their extension.
    """

    def __init__(self, name: str, split: str, folder: Path, class_names: tuple[str, ...]) -> None:
        """List the files of a split; class folders count as classes in the order of `class_names`.

        Args:
            name: The data set as the user spells it.
            split: The split's name.
            folder: The folder that holds the class folders, or the images themselves.
            class_names: The folders that are classes, in all splits; empty if no image has a class.

        Raises:
            DataError: If there are images both in class folders and beside them.
        """
        self.num_ignored = 0
        files = self._list(folder, nested=False)
        if files and class_names:
            raise DataError(
                f"{folder} has class folders, but also {len(files)} images beside them ({shown(files[0])}); "
                f"move those into a class folder or away"
            )
        labels = [-1] * len(files)
        for label, class_name in enumerate(class_names):
            inside = self._list(folder / class_name, nested=True) if (folder / class_name).is_dir() else []
            files += [os.fsencode(class_name) + b"/" + file for file in inside]
            labels += [label] * len(inside)
        names = tuple(shown(os.fsencode(class_name)) for class_name in class_names)
        super().__init__(name, split, folder, files, np.array(labels, dtype=np.int64), names)

    def _list(self, folder: Path, *, nested: bool) -> list[bytes]:
        """List the images under a folder, sorted by their bytes, and count the other files."""
        images: list[bytes] = []
        for file in _walk(folder, nested=nested):
            if _is_image(file):
                images.append(os.fsencode(file))
            else:
                self.num_ignored += 1
        return sorted(images)


class FolderSource(Source):
    """A folder of class folders, or of split folders that hold class folders.

    Attributes:
        folder: The folder.
        class_names: Names of the class folders of all splits together, sorted: a class has the same number in
            every split. Empty where no image lies in a class folder.
    """

    def __init__(self, name: str, folder: Path) -> None:
        """Look at a folder's layout.

        The folder holds splits if every subfolder with images has a split's name (`train`, `val`, `test`, ...);
        otherwise it is one split, `train`. A class is a first-level folder; files may lie deeper in it.

        Args:
            name: The data set as the user spells it.
            folder: The folder.

        Raises:
            DataError: If the folder is not there, holds no image, or its layout can be read in two ways.
        """
        self.name = name
        self.folder = folder
        self._split_folders = _split_folders(folder) or {WHOLE: folder}
        self.splits = tuple(self._split_folders)
        names = {name for place in self._split_folders.values() for name in _subfolders(place)}
        self.class_names = tuple(sorted(names, key=os.fsencode))
        for class_name in self.class_names:
            if not any(_has_images(place / class_name) for place in self._split_folders.values()):
                raise DataError(
                    f"{folder} has a class folder {shown(os.fsencode(class_name))!r} without any image "
                    f"({', '.join(sorted(EXTENSIONS))}); fill it or remove it"
                )
        if not self.class_names and not _has_images(folder):
            endings = {file.rpartition(".")[2] for file in _walk(folder, nested=True)}
            hint = f"; it holds tar files: say wds:{folder}" if "tar" in endings else ""
            hint = f"; it holds Parquet files: say hf:{folder}" if "parquet" in endings else hint
            raise DataError(
                f"{folder} has no images; expected class folders, such as {folder}/cat/1.jpg{hint}"
            )

    def open_split(self, split: str) -> FolderImages:
        """List the files of one split; without class folders of its own, as test images often are, none has a class."""
        folder = self._split_folders[split]
        labelled = self.class_names if _subfolders(folder) else ()
        return FolderImages(self.name, split, folder, labelled)


class PhotographSource(Source):
    """All image files under a folder, however deep and however its subfolders are called: no image has a class.

    Attributes:
        folder: The folder.
    """

    def __init__(self, name: str, folder: Path) -> None:
        """Look for images.

        Args:
            name: The data set as the user spells it.
            folder: The folder.

        Raises:
            DataError: If the folder is not there or holds no image.
        """
        self.name = name
        self.folder = folder
        self.splits = (WHOLE,)
        # First, because what keeps a folder from being listed has words of its own.
        _entries(folder)
        files = [os.fsencode(file) for file in _walk(folder, nested=True) if _is_image(file)]
        if not files:
            raise DataError(
                f"{folder} has no images ({', '.join(sorted(EXTENSIONS))}), however deep one looks"
            )
        self._files = sorted(files)

    def open_split(self, split: str) -> ListedImages:
        """List the files, sorted by their paths' bytes."""
        labels = np.full(len(self._files), -1, dtype=np.int64)
        return ListedImages(self.name, split, self.folder, self._files, labels, ())


def _split_folders(folder: Path) -> dict[str, Path]:
    """Return the folders of splits, by name; none if the subfolders are classes."""
    filled = [name for name in _subfolders(folder) if _has_images(folder / name)]
    splits = sorted(name for name in filled if name.lower() in SPLIT_NAMES)
    others = sorted(set(filled) - set(splits), key=os.fsencode)
    if others and any(_subfolders(folder / name) for name in splits):
        some = ", ".join(shown(os.fsencode(name)) for name in others[:3])
        raise DataError(
            f"{folder} has folders of splits ({', '.join(splits)}) and others with images ({some}); move the others "
            f"away, or, if {splits[0]} is a class, put all classes into a folder `train`"
        )
    return {} if others else {name: folder / name for name in splits}


def _subfolders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if not entry.name.startswith(".") and _is_folder(entry)]


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and any(_is_image(file) for file in _walk(folder, nested=True))


def _walk(folder: Path, *, nested: bool) -> Iterator[str]:
    """Yield the paths of all files under a folder, relative to it, in no order; symbolic links are followed.

    A link that leads back to a folder it lies in is not followed round; hidden folders are left out.
    """

    def visit(place: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
        status = place.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        for entry in _entries(place):
            if not _is_folder(entry):
                yield prefix + entry.name
            elif nested and not entry.name.startswith("."):
                yield from visit(place / entry.name, f"{prefix}{entry.name}/", (*above, here))

    yield from visit(folder, "", ())


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"cannot list the folder {shown(os.fsencode(folder))}: {error.strerror}") from error


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself. What it is shows when it is read.
        return False


def _is_image(file: str) -> bool:
    # Not Path(file).suffix: this is asked of every file, a million times in large sets.
    name = file.rpartition("/")[2].lower()
    return not name.startswith(".") and name.endswith(_ENDINGS)
