"""What every data set looks like to the rest: numbered images with labels and keys."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int8, Int64
from PIL import Image
from torch import Tensor


class Images(ABC):
    """One split of a data set: its images in a fixed order, each with a label and a key.

    Attributes:
        name: The data set as the user spells it.
        split: The split's name.
        labels: Class of each image; -1 where there is none. Known without decoding an image.
        class_names: Names of the classes, by number.
        targets: Where an image may have several classes, 1 for each it has, 0 where that is hard to tell, -1 for those
            it has not; its label is then -1. None for other data sets.
        partial: How much of the split is there, in words, where some of it is missing; empty where it is whole.
        shard_sizes: Images of each file or stretch of one that is best read at one time, in order; None where any image
            is as near as another.
    """

    name: str
    split: str
    labels: Int64[np.ndarray, " image"]
    class_names: tuple[str, ...]
    targets: Int8[np.ndarray, "image class"] | None = None
    partial: str = ""
    shard_sizes: Int64[np.ndarray, " shard"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """Decode one image, in the mode its file has.

        Raises:
            BadImageError: If it cannot be decoded; the message names the file or row.
        """

    @abstractmethod
    def key(self, index: int) -> str:
        """Return what tells an image from all others of the split: a relative path, a row."""

    def file_name(self, index: int) -> str:
        """Return what the image's makers called its file, as far as the copy tells; else its key."""
        return self.key(index)

    @cached_property
    def manifest_sha256(self) -> str:
        """What `hash_manifest` found, the first time that it was asked."""
        return self.hash_manifest()

    @abstractmethod
    def hash_manifest(self) -> str:
        """Hash what makes the split what it is: order, keys, labels and the content as far as it is cheap to know."""


@dataclass(frozen=True)
class ModelInput:
    """What a model owns of preprocessing.

    Attributes:
        native_size: Side of the square images it was trained on, in pixels.
        mean: Subtracted from each channel of values in [0, 1]; one entry per channel.
        std: Divided by, after that.
    """

    native_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """Colour channels: 1 or 3."""
        return len(self.mean)


class Batch(NamedTuple):
    """Some images of a split, ready for a model.

    Attributes:
        images: The pixels, normalised.
        index: Each image's number in the split.
    """

    images: Float[Tensor, "image channel height width"]
    index: Int64[Tensor, " image"]  # pyright: ignore[reportIncompatibleMethodOverride]
