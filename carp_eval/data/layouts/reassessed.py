"""ImageNet's validation images with the labels of "Are we done with ImageNet?" (Beyer et al., 2020)."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int8, Int64
from PIL import Image

from carp_eval.data.images import Images
from carp_eval.data.layouts.lists import json_of
from carp_eval.data.source import Source
from carp_eval.errors import DataError

_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


class ReassessedImages(Images):
    """The images of another split, with several labels each.

    Attributes:
        targets: 1 where the image has the class, -1 where it has not; images that nobody could label have none.
    """

    targets: Int8[np.ndarray, "image class"] | None
    labels: Int64[np.ndarray, " image"]

    def __init__(
        self, name: str, split: str, original: Images, targets: Int8[np.ndarray, "image class"]
    ) -> None:
        """Join images and labels.

        Args:
            name: The data set as the user spells it.
            split: The split's name.
            original: The images.
            targets: The classes of each.
        """
        self.name = name
        self.split = split
        self.labels = np.full(len(original), -1, dtype=np.int64)
        self.class_names = original.class_names
        self.targets = targets
        self._original = original

    def image(self, index: int) -> Image.Image:
        """Decode one image."""
        return self._original.image(index)

    def key(self, index: int) -> str:
        """Return the original's key."""
        return self._original.key(index)

    def hash_manifest(self) -> str:
        """Hash the original's hash and the labels."""
        assert self.targets is not None
        digest = hashlib.sha256(self._original.manifest_sha256.encode())
        digest.update(np.ascontiguousarray(self.targets).data)
        return digest.hexdigest()


def read_real(name: str, place: Path, base: Callable[[], Source]) -> Source | None:
    """Read ReaL: `real.json`, and ImageNet's validation images wherever they are."""
    return _Reassessed(name, place / "real.json", base) if (place / "real.json").exists() else None


class _Reassessed(Source):
    def __init__(self, name: str, path: Path, base: Callable[[], Source]) -> None:
        self.name = name
        self.splits = ("validation",)
        self._path = path
        self._base = base

    def open_split(self, split: str) -> ReassessedImages:
        try:
            original = self._base().open("validation")
        except DataError as error:
            raise DataError(
                f"{self.name} cannot be read without imagenet, whose images it labels. {error}"
            ) from error
        labels = json_of(self._path)
        count, classes = len(original), len(original.class_names)
        if not isinstance(labels, list) or len(labels) != count:
            raise DataError(
                f"{self._path} should be a list of the labels of imagenet's {count} validation images, but has "
                f"{len(labels)} entries; get it again"
            )
        targets = np.full((count, classes), -1, dtype=np.int8)
        for index in range(count):
            for label in labels[_number(original, index) - 1]:
                if not (isinstance(label, int) and 0 <= label < classes):
                    raise DataError(f"{self._path} has a label {label!r}, but imagenet has {classes} classes")
                targets[index, label] = 1
        return ReassessedImages(self.name, split, original, targets)


def _number(images: Images, index: int) -> int:
    """Return the number of a validation image, from 1 on, which only its file's name tells."""
    name = images.file_name(index)
    found = _NUMBER.search(name)
    if found is None or not 1 <= int(found.group(1)) <= len(images):
        raise DataError(
            f"the labels of ReaL go by the names of imagenet's validation images, such as "
            f"ILSVRC2012_val_00000001.JPEG; this copy calls one {name!r}: use a copy that keeps the names"
        )
    return int(found.group(1))
