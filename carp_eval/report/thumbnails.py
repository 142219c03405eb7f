"""The small pictures of a page: each made once, and as many as the page has room for."""

import base64
import hashlib
import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, features

from carp_eval.data.decoding import with_channels
from carp_eval.data.images import Images
from carp_eval.errors import BadImageError
from carp_eval.report.svg import plain

# Of the longer side, in pixels; what is smaller stays as it is.
SIDE = 56
QUALITY = 72

# Right, wrong, of those that count neither way, or no question of it.
Mark = Literal["right", "wrong", "junk", ""]


@dataclass(frozen=True)
class Shown:
    """A picture where it is shown.

    Attributes:
        id: Of the thumbnail; empty where the image could not be read.
        alt: What it shows, in words.
        caption: What stands below it.
        mark: Whether it is right, wrong, or counts neither way; empty where that is no question.
    """

    id: str
    alt: str
    caption: str = ""
    mark: Mark = ""


@dataclass(frozen=True)
class Thumbnail:
    """A small picture.

    Attributes:
        width: In pixels.
        height: In pixels.
        address: The picture itself, as a `data:` address.
    """

    width: int
    height: int
    address: str


class Thumbnails:
    """The pictures that the parts of a page ask for, each image once."""

    def __init__(self) -> None:
        self._pictures: dict[str, Thumbnail] = {}
        self._importance: dict[str, int] = {}
        self._id_of: dict[tuple[str, int], str] = {}
        self.unreadable = 0

    def __len__(self) -> int:
        return len(self._pictures)

    def add(self, images: Images, index: int, *, importance: int) -> str:
        """Take an image in, and return its id; empty if it cannot be read.

        Args:
            images: The split.
            index: The image's number there.
            importance: Where there is no room for all, those of the least go first.
        """
        place = (images.manifest_sha256, index)
        if place not in self._id_of:
            try:
                small = shrunk(images.image(index), SIDE)
            except BadImageError:
                self.unreadable += 1
                self._id_of[place] = ""
                return ""
            content = encoded(small)
            name = f"p{hashlib.sha256(content).hexdigest()[:16]}"
            self._pictures.setdefault(name, Thumbnail(small.width, small.height, address(content)))
            self._id_of[place] = name
        name = self._id_of[place]
        if name:
            self._importance[name] = max(importance, self._importance.get(name, importance))
        return name

    def shown(
        self,
        images: Images | None,
        index: int,
        *,
        alt: str,
        caption: str = "",
        mark: Mark = "",
        importance: int = 0,
    ) -> Shown:
        """Take an image in, and return how it is shown; without images, its words alone."""
        name = "" if images is None else self.add(images, index, importance=importance)
        return Shown(name, plain(alt), plain(caption), mark)

    def within(self, size: int) -> dict[str, Thumbnail]:
        """Return the pictures that fit into so many bytes, the most important first, then those that came first."""
        kept: dict[str, Thumbnail] = {}
        for name in sorted(self._pictures, key=lambda name: -self._importance[name]):
            picture = self._pictures[name]
            # What stands around a picture in the page.
            size -= len(picture.address) + 160
            if size < 0:
                break
            kept[name] = picture
        return kept


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """Return an image in colour, its longer side no more than so many pixels."""
    image = with_channels(image, 3)
    if max(image.size) <= side:
        return image
    return ImageOps.contain(image, (side, side), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, *, quality: int = QUALITY) -> bytes:
    """Return a picture as WebP, or as JPEG where this Pillow has none."""
    into = io.BytesIO()
    picture.save(into, format="WEBP" if features.check("webp") else "JPEG", quality=quality)
    return into.getvalue()


def address(content: bytes) -> str:
    """Return a picture as a `data:` address."""
    kind = "webp" if content[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def sheet(pictures: list[Image.Image], *, side: int, columns: int) -> str:
    """Lay pictures side by side on one, row by row, and return it as an address: one header instead of many.

    Args:
        pictures: The pictures, no side of any longer than `side`.
        side: Of a field, in pixels.
        columns: Fields in a row.
    """
    rows = -(-len(pictures) // columns)
    whole = np.full((rows * side, columns * side, 3), 128, dtype=np.uint8)
    for place, picture in enumerate(pictures):
        top, left = (place // columns) * side, (place % columns) * side
        top, left = top + (side - picture.height) // 2, left + (side - picture.width) // 2
        whole[top : top + picture.height, left : left + picture.width] = np.asarray(picture)
    return address(encoded(Image.fromarray(whole), quality=55))
