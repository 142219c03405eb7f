"""Which images a training on few labels sees: a draw by class, or a list of names.

The field's 1 % and 10 % of ImageNet are two lists that came with SimCLR; all else is drawn.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Int64

from carp_eval import files, seeds
from carp_eval.data.images import Images
from carp_eval.errors import DataError

LIST_FOLDER = "imagenet_subsets"
LIST_ORIGIN = "https://github.com/google-research/simclr/tree/master/imagenet_subsets"


@dataclass(frozen=True)
class KnownList:
    """A list of images that came with a paper.

    Attributes:
        file: Its name.
        lines: How many images it names.
        sha256: Hash of its bytes.
    """

    file: str
    lines: int
    sha256: str


# By data set and share of its training images (Chen et al., ICML 2020).
KNOWN_LISTS = {
    ("imagenet", 0.01): KnownList(
        "1percent.txt", 12_811, "71e82a48ba78252683ae334c4d019ebd5c6e855b9599c1389fbe83eb9549cf17"
    ),
    ("imagenet", 0.1): KnownList(
        "10percent.txt", 128_116, "6d09de11e7bdaf5b1f3b1f249b6183695f97310cdd20f0c03e7235b6b9392091"
    ),
}


@dataclass(frozen=True)
class Listed:
    """A list that was read.

    Attributes:
        names: The images' file names.
        sha256: Hash of the file's bytes.
        known: Whether it is the paper's.
    """

    names: tuple[str, ...]
    sha256: str
    known: bool


def known_list(dataset: str, fraction: float | None) -> KnownList | None:
    """Return the list that the field uses for this share of this data set; None where it uses none."""
    return None if fraction is None else KNOWN_LISTS.get((dataset, fraction))


def read_list(path: Path | None, known: KnownList | None, *, data_root: Path | None = None) -> Listed:
    """Read a list of images, and hold it against the paper's where that is what is wanted.

    Args:
        path: The file; None looks for the known list in `imagenet_subsets` in the folder of data sets.
        known: What it must be; None takes any list.
        data_root: Where to look first.

    Raises:
        DataError: If it is not there or is not the known list; the message says where to get it.
    """
    places = [path] if path is not None else []
    if path is None and known is not None:
        roots = [root for root in (data_root, files.home() / "data") if root is not None]
        places = [root / LIST_FOLDER / known.file for root in roots]
    found = next((place.expanduser() for place in places if place.expanduser().is_file()), None)
    if found is None:
        looked = ", ".join(map(str, places))
        how = (
            ""
            if known is None
            else f". Get {known.file} from {LIST_ORIGIN} and put it there, or name it with --list"
        )
        raise DataError(f"there is no list of images at {looked}{how}")
    content = found.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if known is not None and sha256 != known.sha256:
        raise DataError(
            f"{found} is not SimCLR's list {known.file}: its SHA-256 is {sha256}, expected {known.sha256} "
            f"({known.lines:,} lines). Get it from {LIST_ORIGIN}"
        )
    names = tuple(line.strip() for line in content.decode("utf-8", "replace").splitlines() if line.strip())
    return Listed(names, sha256, known is not None)


def listed(images: Images, names: Sequence[str]) -> Int64[np.ndarray, " chosen"]:
    """Find the images that a list names, in the split's order.

    Args:
        images: The whole split; its keys must end in file names.
        names: File names, with folders or without; what comes before the name, and its case, plays no part.

    Raises:
        DataError: If a name is not found, or an image is named twice or not uniquely.
    """
    wanted = [_file_name(name) for name in names]
    numbers: dict[str, list[int]] = {name: [] for name in wanted}
    if len(numbers) < len(wanted):
        raise DataError(f"{len(wanted) - len(numbers)} of {len(wanted)} names of the list are there twice")
    for number in range(len(images)):
        found = numbers.get(_file_name(images.key(number)))
        if found is not None:
            found.append(number)
    missing = [name for name, found in numbers.items() if not found]
    if missing:
        raise DataError(
            f"{len(missing):,} of {len(wanted):,} images of the list are not in {images.name} ({images.split}), such "
            f"as {missing[0]}; its images are called like {images.key(0)}. A list needs a copy with the original "
            f"file names: a folder for each class"
        )
    twice = [name for name, found in numbers.items() if len(found) > 1]
    if twice:
        raise DataError(
            f"{len(twice):,} names of the list fit several images of {images.name}, such as {twice[0]}"
        )
    return np.array(sorted(found[0] for found in numbers.values()), dtype=np.int64)


def share_of_each_class(
    labels: Int64[np.ndarray, " image"], fraction: float, *, seed: int
) -> Int64[np.ndarray, " chosen"]:
    """Draw a share of each class, rounded to the nearest, one image at least; a larger share holds a smaller.

    Args:
        labels: Class of each image.
        fraction: The share, in (0, 1].
        seed: Of the draw.

    Returns:
        The chosen images' numbers, ascending.
    """
    counts = np.bincount(labels)
    return _first_of_each(labels, np.maximum(np.floor(counts * fraction + 0.5), 1), seed=seed)


def some_of_each_class(
    labels: Int64[np.ndarray, " image"], count: int, *, seed: int
) -> Int64[np.ndarray, " chosen"]:
    """Draw a number of images of each class, or all where it has fewer; a larger number holds a smaller.

    Args:
        labels: Class of each image.
        count: How many.
        seed: Of the draw.

    Returns:
        The chosen images' numbers, ascending.
    """
    return _first_of_each(labels, np.full(labels.max() + 1, count), seed=seed)


def classes_below(labels: Int64[np.ndarray, " image"], count: int, *, num_classes: int) -> int:
    """Count the classes that have fewer images than this."""
    return int((np.bincount(labels, minlength=num_classes) < count).sum())


def _first_of_each(
    labels: Int64[np.ndarray, " image"], quota: np.ndarray, *, seed: int
) -> Int64[np.ndarray, " chosen"]:
    shuffled = torch.randperm(len(labels), generator=seeds.generator(seed, "subset")).numpy()
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[place < np.repeat(quota, counts)])


def _file_name(name: str) -> str:
    return PurePosixPath(name).stem.lower()
