"""A bank with its images, as far as these are at hand."""

import threading
from functools import cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image

from carp_eval.data.images import Images
from carp_eval.errors import BadImageError, UsageError
from carp_eval.features.bank import Bank
from carp_eval.report import thumbnails
from carp_eval.report.svg import plain

# Of the longer side of a picture, in pixels; and pictures that are kept.
SIDE, KEPT = 112, 4096


class Exhibit:
    """A bank's images by their number in the split: names, classes, pictures.

    Attributes:
        bank: The bank.
        images: The images; None where they are not at hand.
        missing: Why they are not; empty where they are.
        labels: Class of each row; -1 where there is none.
        numbers: Each row's image, by its number in the split.
    """

    def __init__(self, bank: Bank, images: Images | None, *, missing: str = "") -> None:
        self.bank = bank
        self.images = images
        self.missing = missing
        self.labels: Int64[np.ndarray, " row"] = bank.labels.numpy()
        self.numbers: Int64[np.ndarray, " row"] = bank.index.numpy()
        # Readers of data sets keep files open: two threads must not move in one.
        self._reading = threading.Lock()
        self.picture = lru_cache(KEPT)(self._picture)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, fit to be shown."""
        names = tuple(plain(name) for name in self.bank.class_names)
        count = int(self.labels.max(initial=-1)) + 1
        return names + tuple(f"class {label}" for label in range(len(names), count))

    def name_of(self, label: int) -> str:
        """Return what a class is called."""
        return self.class_names[label] if label >= 0 else "no class"

    def key(self, row: int) -> str:
        """Return a row's key, fit to be shown."""
        return plain(self.bank.keys[row])

    def row_of(self, number: int) -> int:
        """Return the row of an image.

        Args:
            number: Of the image in the split.

        Raises:
            UsageError: If the bank has no such image.
        """
        if not self.has(number):
            raise UsageError(f"there is no image {number} in this bank")
        return int(self._order[np.searchsorted(self._sorted, number)])

    def has(self, number: int) -> bool:
        """Tell whether an image is in the bank; one that could not be read is not."""
        place = int(np.searchsorted(self._sorted, number))
        return place < len(self._sorted) and int(self._sorted[place]) == number

    def image(self, number: int) -> Image.Image:
        """Decode an image.

        Raises:
            BadImageError: If it is not at hand or cannot be read.
            UsageError: If the bank has no such image.
        """
        self.row_of(number)
        if self.images is None:
            raise BadImageError(f"the images are not on this machine: {self.missing}")
        with self._reading:
            return self.images.image(number)

    def _picture(self, number: int) -> bytes:
        """Return a small picture of an image, as a file."""
        return thumbnails.encoded(thumbnails.shrunk(self.image(number), SIDE), quality=80)

    @cached_property
    def _order(self) -> Int64[np.ndarray, " row"]:
        return torch.from_numpy(self.numbers).sort(stable=True).indices.numpy()

    @cached_property
    def _sorted(self) -> Int64[np.ndarray, " row"]:
        return self.numbers[self._order]
