"""Revisited Oxford and Paris, and any landmarks in their layout: photographs, and which of them show the same place.

A folder `jpg` of images, and beside it the ground truth: `gnd_NAME.pkl`, as the benchmark's authors ship it, or the
same as `gnd_NAME.json` (see `ground_truth`).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from carp_eval.data import ground_truth
from carp_eval.data.ground_truth import GroundTruth
from carp_eval.data.images import Images
from carp_eval.data.listed import ListedImages
from carp_eval.data.source import Source
from carp_eval.errors import BadImageError, DataError

DATABASE = "database"
QUERY = "query"
WHOLE_QUERY = "query-whole"


class LandmarkImages(ListedImages):
    """The database, or the queries.

    Attributes:
        ground_truth: What shows what; image i of a query split is its query i.
        cropped: Whether images are cut to their query's box.
        longest: Long side that the whole photograph of a cropped query is shrunk to; None leaves it.
    """

    def __init__(
        self,
        name: str,
        split: str,
        folder: Path,
        truth: GroundTruth,
        *,
        cropped: bool = False,
        longest: int | None = None,
    ) -> None:
        """List the images of a split.

        Args:
            name: The data set as the user spells it.
            split: `database`, `query` or `query-whole`.
            folder: The folder that holds `jpg`.
            truth: What shows what.
            cropped: Whether images are cut to their query's box.
            longest: Long side that the whole photograph of a cropped query is shrunk to.
        """
        names = truth.database if split == DATABASE else [query.name for query in truth.queries]
        super().__init__(
            name,
            split,
            folder,
            [f"jpg/{file}.jpg" for file in names],
            np.full(len(names), -1, dtype=np.int64),
            (),
            list_name=truth.path.name,
        )
        self.ground_truth = truth
        self.cropped = cropped
        self.longest = longest

    def image(self, index: int) -> Image.Image:
        """Decode one file; a cropped query is cut to its box, whose sides are rounded to whole pixels.

        What of the box lies outside the photograph is left out, as by the MATLAB code of the benchmark's authors; their
        Python code would fill it with black.

        Raises:
            BadImageError: If nothing of the box lies inside.
        """
        image = super().image(index)
        if not self.cropped:
            return image
        full = max(image.size)
        box = self.ground_truth.queries[index].box
        left, upper = (max(0, round(side)) for side in box[:2])
        right, lower = (min(limit, round(side)) for side, limit in zip(box[2:], image.size, strict=True))
        if left >= right or upper >= lower:
            raise BadImageError(
                f"the box {tuple(box)} of the query {self.key(index)} lies outside its {image.width} x {image.height} "
                f"pixels ({self.ground_truth.path})"
            )
        image = image.crop((left, upper, right, lower))
        if self.longest is not None and full > self.longest:
            side = max(1, round(self.longest * max(image.size) / full))
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
        return image

    def of_photographs(self, longest: int | None) -> "LandmarkImages":
        """Return the same queries, shrunk by what brings the whole photograph's long side to a length, if it is longer.

        A building then has the size that it has in the database, as the benchmark's authors' code has it.

        Args:
            longest: In pixels; None leaves all.
        """
        return LandmarkImages(
            self.name, self.split, self.folder, self.ground_truth, cropped=self.cropped, longest=longest
        )

    def whole(self) -> "LandmarkImages":
        """Return the same images, not cropped."""
        return LandmarkImages(self.name, WHOLE_QUERY, self.folder, self.ground_truth)

    def hash_manifest(self) -> str:
        """Hash the files, and for queries what is searched for and what shows it, which are their labels."""
        files = super().hash_manifest()
        if self.split == DATABASE:
            return files
        told = f"{files} {self.ground_truth.sha256} {self.cropped} {self.longest}"
        return hashlib.sha256(told.encode()).hexdigest()


class LandmarkSource(Source):
    """A folder in the benchmark's layout: the splits `database`, `query` and `query-whole`, queries not cropped.

    Attributes:
        folder: The folder.
        ground_truth: What shows what.
    """

    def __init__(self, name: str, folder: Path) -> None:
        """Read the ground truth.

        Args:
            name: The data set as the user spells it.
            folder: The folder.

        Raises:
            DataError: If there is no ground truth, or it is broken; or there are no images.
        """
        self.name = name
        self.folder = folder
        self.splits = (DATABASE, QUERY, WHOLE_QUERY)
        files = _files(folder)
        if not files:
            raise DataError(
                f"{folder} has no ground truth; expected gnd_NAME.pkl or gnd_NAME.json, and a folder jpg"
            )
        if not (folder / "jpg").is_dir():
            raise DataError(
                f"{folder} has no folder jpg with the images that {files[0].name} names: unpack them there"
            )
        self.ground_truth = ground_truth.read(_chosen(files, folder))

    def open_split(self, split: str) -> Images:
        """List the database's images, or the queries."""
        return LandmarkImages(self.name, split, self.folder, self.ground_truth, cropped=split == QUERY)


def read(name: str, place: Path) -> Source | None:
    """Read a folder in the benchmark's layout; None if it has no ground truth.

    Raises:
        DataError: If it has, but is broken.
    """
    return LandmarkSource(name, place) if _files(place) else None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("gnd_*") if path.suffix in (".json", ".pkl"))


def _chosen(files: Sequence[Path], folder: Path) -> Path:
    """Choose among files of one name the one that needs no unpickling."""
    names = {path.stem for path in files}
    if len(names) > 1 and f"gnd_{folder.name}" in names:
        names = {f"gnd_{folder.name}"}
    if len(names) > 1:
        raise DataError(f"{folder} has several ground truths: {', '.join(sorted(names))}; leave one")
    return min((path for path in files if path.stem in names), key=lambda path: path.suffix)
