"""Images that a program hands over one by one: files, or pictures that are open already."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from carp_eval.data.decoding import decode
from carp_eval.data.images import Images


class GivenImages(Images):
    """Files and pictures in the order they were given; no image has a class."""

    def __init__(self, given: Sequence[str | Path | Image.Image]) -> None:
        self.name = "given images"
        self.split = ""
        self.labels = np.full(len(given), -1, dtype=np.int64)
        self.class_names = ()
        self._given = given

    def image(self, index: int) -> Image.Image:
        """Decode a file, or return a picture as it is."""
        one = self._given[index]
        return one if isinstance(one, Image.Image) else decode(Path(one).expanduser(), where=str(one))

    def key(self, index: int) -> str:
        """Return a file's path, or a picture's number."""
        one = self._given[index]
        return str(index) if isinstance(one, Image.Image) else str(one)

    def hash_manifest(self) -> str:
        """Hash every picture's pixels."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            image = self.image(index)
            digest.update(f"{self.key(index)} {image.mode} {image.size}\n".encode())
            digest.update(image.tobytes())
        return digest.hexdigest()
