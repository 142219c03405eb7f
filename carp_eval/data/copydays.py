"""INRIA Copydays as its archives unpack: photographs, and copies of them in blocks of one edit and strength each."""

from itertools import pairwise
from pathlib import Path

import numpy as np

from carp_eval.data.images import Images
from carp_eval.data.listed import ListedImages
from carp_eval.data.source import Source
from carp_eval.errors import DataError

ORIGINAL = "original"
STRONG = "strong"
FOLDERS = {
    ORIGINAL: "original",
    STRONG: "strong",
    **{f"jpegqual-{quality}": f"jpegqual/{quality}" for quality in (3, 5, 8, 10, 15, 20, 30, 50, 75)},
    **{f"crops-{removed}": f"crops/{removed}" for removed in (10, 15, 20, 30, 40, 50, 60, 70, 80)},
}
# All that is searched with; the originals are what is searched.
BLOCKS = tuple(block for block in FOLDERS if block != ORIGINAL)
# Names are 200000.jpg, 200100.jpg ...: the last two digits count the copies of one original.
COPIES_PER_ORIGINAL = 100


class CopydaysSource(Source):
    """A folder with `original/` and blocks of copies beside it, each block a split (`strong`, `jpegqual-3`).

    An image's label is the original it is, or is a copy of, and -1 for a copy whose original is not there. Classes are
    named by the originals' numbers.

    Attributes:
        folder: The folder.
    """

    def __init__(self, name: str, folder: Path) -> None:
        """See which blocks are there.

        Args:
            name: The data set as the user spells it.
            folder: The folder.

        Raises:
            DataError: If originals are missing or doubled, there is no block of copies, or a file name is no number.
        """
        self.name = name
        self.folder = folder
        self._numbers = {split: _numbers(folder, place) for split, place in FOLDERS.items()}
        self.splits = tuple(split for split, numbers in self._numbers.items() if numbers)
        shown = f"{folder} is not a copy of Copydays:"
        if ORIGINAL not in self.splits:
            raise DataError(f"{shown} its folder original/ has no .jpg. {HOW}")
        if len(self.splits) == 1:
            raise DataError(f"{shown} beside original/ it has no block of copies, such as strong/. {HOW}")
        blocks = sorted(number // COPIES_PER_ORIGINAL for number in self._numbers[ORIGINAL].values())
        doubled = [after for before, after in pairwise(blocks) if before == after]
        if doubled:
            raise DataError(
                f"{shown} original/ has several images of the number {doubled[0]}.., of which all but one are "
                f"copies: the archives were unpacked into one folder. {HOW}"
            )
        self._label_of = {block: label for label, block in enumerate(blocks)}

    def open_split(self, split: str) -> Images:
        """List the images of one block, or the originals, by their numbers."""
        numbers = sorted(self._numbers[split].items(), key=lambda item: (item[1], item[0]))
        labels = [self._label_of.get(number // COPIES_PER_ORIGINAL, -1) for _, number in numbers]
        return ListedImages(
            self.name,
            split,
            self.folder,
            [f"{FOLDERS[split]}/{file}" for file, _ in numbers],
            np.array(labels, dtype=np.int64),
            tuple(f"{block}{0:02d}" for block in self._label_of),
        )


def read(name: str, place: Path) -> Source | None:
    """Read a folder as Copydays; None if it has no folder `original`.

    Raises:
        DataError: If it has, but is not a copy of Copydays.
    """
    return CopydaysSource(name, place) if (place / FOLDERS[ORIGINAL]).is_dir() else None


HOW = (
    "Unpack each of INRIA's archives into its own folder: copydays_original.tar.gz into original/, "
    "copydays_strong.tar.gz into strong/, so that copies lie in strong/200001.jpg, jpegqual/3/200000.jpg, "
    "crops/10/200000.jpg"
)


def _numbers(folder: Path, place: str) -> dict[str, int]:
    """Return the number of each image in a folder, by its file's name; none if there is no folder."""
    where = folder / place
    numbers: dict[str, int] = {}
    try:
        names = [path.name for path in where.iterdir()] if where.is_dir() else []
    except OSError as error:
        raise DataError(f"cannot list the folder {where}: {error.strerror}") from error
    for name in names:
        stem, _, extension = name.rpartition(".")
        if extension.lower() not in ("jpg", "jpeg") or name.startswith("."):
            continue
        if not (stem.isascii() and stem.isdigit()):
            raise DataError(
                f"{where / name} has no number for a name, such as 200000.jpg: {folder} is not Copydays"
            )
        numbers[name] = int(stem)
    return numbers
