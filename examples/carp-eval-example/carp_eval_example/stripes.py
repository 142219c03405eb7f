"""The data set `stripes`: three directions, each image with a shift and a width of its own."""

import hashlib
import random
from pathlib import Path

import numpy as np
from PIL import Image

from carp_eval.data.images import Images
from carp_eval.data.source import Source
from carp_eval_example.plugins import STRIPES

DIRECTIONS = ("across", "down", "aslant")
SIDE = 28


class Stripes(Images):
    """One split; an image depends on the split's name and its number alone."""

    def __init__(self, name: str, split: str) -> None:
        self.name = name
        self.split = split
        self.class_names = DIRECTIONS
        self.labels = np.arange(STRIPES.row.splits[split]) % len(DIRECTIONS)

    def image(self, index: int) -> Image.Image:
        """Draw one image."""
        chance = random.Random(self.key(index))
        down, across = np.mgrid[:SIDE, :SIDE]
        place = {"across": down, "down": across, "aslant": down + across}[DIRECTIONS[self.labels[index]]]
        wave = np.sin(place * chance.uniform(0.6, 1.2) + chance.uniform(0, 6.28))
        return Image.fromarray((wave * 127 + 128).astype(np.uint8))

    def key(self, index: int) -> str:
        """Return the image's place in the data set."""
        return f"{self.split}/{index}"

    def hash_manifest(self) -> str:
        """Hash what decides the images: raise the number when they are drawn otherwise."""
        return hashlib.sha256(f"stripes 1 {self.split} {len(self)}".encode()).hexdigest()


class StripesSource(Source):
    """The data set."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.splits = tuple(STRIPES.row.splits)

    def open_split(self, split: str) -> Stripes:
        """Open one split."""
        return Stripes(self.name, split)


def locate(name: str, data_root: Path | None) -> StripesSource:
    """Find the data set; one that lies on disk would look in `data_root / name`."""
    del data_root
    return StripesSource(name)
