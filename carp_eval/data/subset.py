"""Some images of a split, drawn by chance, as a split of their own."""

import hashlib
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from carp_eval import seeds
from carp_eval.data.images import Images
from carp_eval.data.pixels import pixels_of
from carp_eval.errors import DataError


class Subset(Images):
    """Some images of a split, in an order of their own.

    Attributes:
        numbers: Each image's number in the whole split.
    """

    numbers: Int64[np.ndarray, " image"]

    def __init__(
        self,
        whole: Images,
        numbers: Int64[np.ndarray, " image"],
        *,
        split: str,
        each_its_own_class: bool = False,
    ) -> None:
        """Choose images.

        Args:
            whole: The split.
            numbers: Which of its images, in which order.
            split: What they are called.
            each_its_own_class: Whether an image's label is its number among these, and its key the name of its
                class; otherwise labels stay.
        """
        self.name = whole.name
        self.split = split
        self.numbers = numbers
        self._whole = whole
        own = each_its_own_class
        self.labels = np.arange(len(numbers)) if own else whole.labels[numbers]
        self.class_names = tuple(map(whole.key, numbers.tolist())) if own else whole.class_names

    def image(self, index: int) -> Image.Image:
        """Decode one image."""
        return self._whole.image(int(self.numbers[index]))

    def key(self, index: int) -> str:
        """Return the image's key in the whole split."""
        return self._whole.key(int(self.numbers[index]))

    @cached_property
    def pixels(self) -> UInt8[Tensor, "image channel height width"] | None:
        """Every image, where the whole split has its pixels in memory."""
        pixels = pixels_of(self._whole)
        return None if pixels is None else pixels[torch.from_numpy(self.numbers)]

    def hash_manifest(self) -> str:
        """Hash the whole split's manifest, which images were chosen, and their labels."""
        digest = hashlib.sha256(self._whole.manifest_sha256.encode())
        for values in (self.numbers, self.labels):
            digest.update(np.ascontiguousarray(values, dtype="<i8").data)
        return digest.hexdigest()


def some(images: Images, count: int) -> Images:
    """Return so many images of a split, in its order, drawn without regard to classes; the same draw at every call.

    Raises:
        DataError: If the split has fewer.
    """
    if count > len(images):
        raise DataError(
            f"{images.name} ({images.split}) has {len(images)} images and {count} were asked for (data.num_images): "
            "ask for fewer, or leave it out to take all"
        )
    numbers = np.sort(draw(count, of=len(images), seed=0, what="images of a split"))
    chosen = Subset(images, numbers, split=images.split)
    if count < len(images):
        chosen.partial = f"{count:,} of {len(images):,} {images.split} images"
    return chosen


def draw(count: int, *, of: int, seed: int, what: str) -> Int64[np.ndarray, " image"]:
    """Draw some numbers below `of` without replacement: the first of one order, so that a larger draw holds a smaller.

    Args:
        count: How many; at most `of`.
        of: How many there are.
        seed: Of the draw.
        what: What is drawn; another name draws others.
    """
    order = torch.randperm(of, generator=seeds.generator(seed, what))
    return order[:count].numpy()
