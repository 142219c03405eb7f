"""Data sets whose pixels lie in memory, all of one size, and torchvision's that come so."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from carp_eval.data.images import Images
from carp_eval.data.source import Source
from carp_eval.errors import DataError
from carp_eval.files import make_folder, storage_errors


class PixelImages(Images):
    """One split in memory.

    Attributes:
        pixels: Every image, grey or RGB.
    """

    pixels: UInt8[Tensor, "image channel height width"]

    def __init__(
        self,
        name: str,
        split: str,
        pixels: UInt8[Tensor, "image channel height width"],
        labels: Int64[np.ndarray, " image"],
        class_names: tuple[str, ...],
    ) -> None:
        """Hold a split.

        Args:
            name: The data set as the user spells it.
            split: The split's name.
            pixels: Every image.
            labels: Class of each.
            class_names: Names of the classes.
        """
        self.name = name
        self.split = split
        self.pixels = pixels
        self.labels = labels
        self.class_names = class_names

    def image(self, index: int) -> Image.Image:
        """Return one image."""
        pixels = self.pixels[index]
        return Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())

    def key(self, index: int) -> str:
        """Return the image's number."""
        return f"{index:08d}"

    def hash_manifest(self) -> str:
        """Hash every pixel, label and class name."""
        digest = hashlib.sha256(f"{tuple(self.pixels.shape)} {self.class_names}\n".encode())
        digest.update(self.pixels.contiguous().numpy().data)
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()


class DecodedImages(PixelImages):
    """A split that was decoded whole; its keys and hash stay those of the original."""

    def __init__(self, original: Images, pixels: UInt8[Tensor, "image channel height width"]) -> None:
        """Join a split with its pixels.

        Args:
            original: The split.
            pixels: Every image of it, in order.
        """
        super().__init__(original.name, original.split, pixels, original.labels, original.class_names)
        self._original = original

    def key(self, index: int) -> str:
        """Return the original's key."""
        return self._original.key(index)

    def hash_manifest(self) -> str:
        """Return the original's hash."""
        return self._original.manifest_sha256


def pixels_of(images: Images) -> UInt8[Tensor, "image channel height width"] | None:
    """Return all pixels of a split that holds them in memory (as an attribute `pixels`); None for others."""
    return getattr(images, "pixels", None)


class TorchvisionSource(Source):
    """A data set in the layout that torchvision downloads, read whole into memory."""

    def __init__(self, name: str, kind: str, root: Path, splits: tuple[str, ...]) -> None:
        """Name what will be read.

        Args:
            name: The data set as the user spells it.
            kind: One of `READERS`.
            root: The folder that torchvision calls `root`.
            splits: Its splits.
        """
        self.name = name
        self.splits = splits
        self._read = READERS[kind]
        self._root = root

    def open_split(self, split: str) -> PixelImages:
        """Read one split.

        Raises:
            DataError: If files are missing, or not what torchvision's checksums say.
        """
        try:
            pixels, labels, class_names = self._read(self._root, split)
        except RuntimeError as error:
            raise DataError(
                f"{self.name} in {self._root} is incomplete or damaged (torchvision: {error}); "
                f"remove it and get it again"
            ) from error
        return PixelImages(self.name, split, pixels, labels, class_names)


Read = tuple[UInt8[Tensor, "image channel height width"], Int64[np.ndarray, " image"], tuple[str, ...]]


def _read_cifar(kind: Literal["CIFAR10", "CIFAR100"], root: Path, split: str) -> Read:
    # Imported here as in the functions below: it takes seconds, and evaluations on ready banks decode nothing.
    from torchvision import datasets

    table = {"CIFAR10": datasets.CIFAR10, "CIFAR100": datasets.CIFAR100}[kind](root, train=split == "train")
    pixels = torch.from_numpy(table.data).permute(0, 3, 1, 2).contiguous()
    return pixels, np.array(table.targets, dtype=np.int64), tuple(table.classes)


def _read_stl10(root: Path, split: str) -> Read:
    from torchvision import datasets

    table = datasets.STL10(root, split=split)
    labels = np.array(table.labels, dtype=np.int64)
    return torch.from_numpy(table.data).contiguous(), labels, tuple(table.classes)


READERS: dict[str, Callable[[Path, str], Read]] = {
    "CIFAR10": partial(_read_cifar, "CIFAR10"),
    "CIFAR100": partial(_read_cifar, "CIFAR100"),
    "STL10": _read_stl10,
}


def download(kind: str, root: Path, *, splits: Sequence[str] = ()) -> None:
    """Download a data set with torchvision.

    Args:
        kind: Its class in `torchvision.datasets`.
        root: The folder to put it into.
        splits: The splits to ask for one by one; none where all come at once.

    Raises:
        DataError: If it cannot be had.
        StorageError: If the disk refuses.
    """
    from torchvision import datasets

    make_folder(root)
    with storage_errors(root):
        try:
            if not splits:
                getattr(datasets, kind)(root, download=True)
            for split in splits:
                getattr(datasets, kind)(root, split=split, download=True)
        except (URLError, RuntimeError) as error:
            raise DataError(f"torchvision could not download {kind}: {error}") from error
