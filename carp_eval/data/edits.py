"""Copies of images, made by edits of chance and of a named strength: what copy detection must see through.

An edit is named by what it does and how much, `jpegqual-10` or `crops-50`. Where, and with what colours, is drawn from
the seed, the edit's name and the image's key: the same in every process, and whatever else is edited.
"""

import hashlib
import io
import math
import random
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from carp_eval import seeds
from carp_eval.data.decoding import with_channels
from carp_eval.data.images import Images
from carp_eval.errors import UsageError

# Raised when an edit of the same name and seed would give other pixels.
VERSION = 1
STRONG = "strong"
_GREY_MODES = frozenset(("1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N"))

# Long side of what is edited, in pixels: larger photographs are shrunk first. What is done at full size would be gone
# once a model has shrunk it; Copydays shrinks its photographs to about this size before JPEG.
LONGEST = 1024


class Given(NamedTuple):
    """What an edit is made with.

    Attributes:
        chance: What is drawn from.
        background: Decodes what the copy may be put on.
    """

    chance: random.Random
    background: Callable[[], Image.Image]


# Edits an image, to a strength.
Edit = Callable[[Image.Image, float, Given], Image.Image]


class EditedImages(Images):
    """A split whose every image is an edited copy, with the label and key of the image it was made of.

    Attributes:
        backgrounds: What copies may be pasted on.
    """

    def __init__(self, originals: Images, edit: str, *, backgrounds: Images, seed: int) -> None:
        """Choose an edit.

        Args:
            originals: The images that are copied.
            edit: What is done to them: `strong`, or one of `EDITS` and its strength.
            backgrounds: What copies may be pasted on; one image at least.
            seed: Of all chance.

        Raises:
            UsageError: If there is no such edit, or there is nothing to paste on.
        """
        check(edit)
        if not len(backgrounds):
            raise UsageError("a copy is pasted on a background: give one image or more for that")
        self.name = originals.name
        self.split = edit
        self.labels = originals.labels
        self.class_names = originals.class_names
        self._originals = originals
        self.backgrounds = backgrounds
        self._seed = seed

    def image(self, index: int) -> Image.Image:
        """Decode one image and edit it."""
        chance = random.Random(seeds.derive(self._seed, "edit", self.split, self.key(index)))
        background = chance.randrange(len(self.backgrounds))
        given = Given(chance, lambda: self.backgrounds.image(background))
        return edited(self._originals.image(index), self.split, given)

    def key(self, index: int) -> str:
        """Return the key of the image it was made of."""
        return self._originals.key(index)

    def hash_manifest(self) -> str:
        """Hash the originals' and the backgrounds' manifests, the edit and the seed."""
        parts = (VERSION, self.split, self._seed, self._originals.manifest_sha256)
        return hashlib.sha256(repr((*parts, self.backgrounds.manifest_sha256)).encode()).hexdigest()


def edited(image: Image.Image, edit: str, given: Given) -> Image.Image:
    """Make a copy of an image: in 8 bits, grey if it is grey, its long side at most `LONGEST`.

    Args:
        image: The image.
        edit: `strong`, or one of `EDITS` and its strength.
        given: What it is made with.

    Raises:
        UsageError: If there is no such edit.
    """
    kind, strength = check(edit)
    channels = 1 if image.mode in _GREY_MODES else 3
    image = with_channels(image, channels)
    if max(image.size) > LONGEST:
        image = ImageOps.contain(image, (LONGEST, LONGEST), Image.Resampling.BICUBIC)
    return EDITS[kind](image, strength, given)


def check(edit: str) -> tuple[str, float]:
    """Return the kind and the strength of an edit.

    Raises:
        UsageError: If there is no such kind, or not of that strength.
    """
    if edit == STRONG:
        return STRONG, 0.0
    kind, _, number = edit.rpartition("-")
    known = ", ".join(f"{name}-{low:g} to {name}-{high:g}" for name, (low, high) in STRENGTHS.items())
    if kind not in STRENGTHS:
        raise UsageError(f"there is no edit {edit!r}; known: {STRONG}, {known}")
    low, high = STRENGTHS[kind]
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if not low <= strength <= high:
        raise UsageError(f"the edit {edit!r} has no strength that can be; known: {STRONG}, {known}")
    return kind, strength


def _jpegqual(image: Image.Image, strength: float, given: Given) -> Image.Image:  # noqa: ARG001
    """Compress to a JPEG quality: the lower, the stronger."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=round(strength))
    with Image.open(buffer) as compressed:
        compressed.load()
    return compressed


def _crops(image: Image.Image, strength: float, given: Given) -> Image.Image:
    """Remove so many per cent of the surface, the shape kept; what stays may lie anywhere."""
    width, height = _shrunk_surface(image, strength)
    left, top = _place(image, width, height, given.chance)
    return image.crop((left, top, left + width, top + height))


def _blur(image: Image.Image, strength: float, given: Given) -> Image.Image:  # noqa: ARG001
    """Blur by a Gaussian whose deviation is so many per cent of the short side."""
    return image.filter(ImageFilter.GaussianBlur(min(image.size) * strength / 100))


def _paste(image: Image.Image, strength: float, given: Given) -> Image.Image:
    """Shrink the image and paste it on another, of whose surface so many per cent stay to be seen."""
    width, height = _shrunk_surface(image, strength)
    page = with_channels(given.background(), len(image.getbands())).resize(
        image.size, Image.Resampling.BICUBIC
    )
    page.paste(
        image.resize((width, height), Image.Resampling.BICUBIC), _place(image, width, height, given.chance)
    )
    return page


def _overlay(image: Image.Image, strength: float, given: Given) -> Image.Image:
    """Draw bars and ellipses, of one colour each, whose boxes have so many per cent of the surface between them."""
    chance = given.chance
    image = image.copy()
    canvas = ImageDraw.Draw(image)
    surface = image.width * image.height * strength / 100
    left = surface
    while left > 0:
        area = max(surface / 8, left * chance.uniform(0.3, 0.7))
        stretch = math.exp(chance.uniform(-1, 1))
        width, height = (
            min(math.sqrt(area * stretch), image.width),
            min(math.sqrt(area / stretch), image.height),
        )
        x, y = chance.uniform(0, image.width - width), chance.uniform(0, image.height - height)
        grey, *others = (chance.randrange(256) for _ in range(3))
        colour = grey if image.mode == "L" else (grey, *others)
        draw = chance.choice((canvas.rectangle, canvas.ellipse))
        draw((x, y, x + width, y + height), fill=colour)
        left -= width * height
    return image


def _colours(image: Image.Image, strength: float, given: Given) -> Image.Image:
    """Multiply brightness, contrast and saturation by a factor each, at most 1 + strength / 100 or its inverse."""
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        exponent = given.chance.choice((-1, 1)) * given.chance.uniform(0.5, 1)
        image = enhance(image).enhance((1 + strength / 100) ** exponent)
    return image


def _rotate(image: Image.Image, strength: float, given: Given) -> Image.Image:
    """Turn by so many degrees, left or right; what comes in at the corners is black."""
    return image.rotate(given.chance.choice((-1, 1)) * strength, Image.Resampling.BICUBIC)


def _strong(image: Image.Image, strength: float, given: Given) -> Image.Image:  # noqa: ARG001
    """Do three different edits in an order of chance, each to a strength of chance, and compress the result."""
    for kind in given.chance.sample(sorted(_STRONG), 3):
        image = EDITS[kind](image, given.chance.uniform(*_STRONG[kind]), given)
    return _jpegqual(image, given.chance.uniform(10, 40), given)


def _shrunk_surface(image: Image.Image, removed: float) -> tuple[int, int]:
    """Return the sides of an image of the same shape, with so many per cent less of surface."""
    side = math.sqrt(1 - removed / 100)
    return max(1, round(image.width * side)), max(1, round(image.height * side))


def _place(image: Image.Image, width: int, height: int, chance: random.Random) -> tuple[int, int]:
    """Draw where in an image a smaller one lies."""
    return chance.randint(0, image.width - width), chance.randint(0, image.height - height)


EDITS: dict[str, Edit] = {
    STRONG: _strong,
    "jpegqual": _jpegqual,
    "crops": _crops,
    "blur": _blur,
    "paste": _paste,
    "overlay": _overlay,
    "colours": _colours,
    "rotate": _rotate,
}
STRENGTHS: dict[str, tuple[float, float]] = {
    "jpegqual": (1, 100),
    "crops": (0, 99),
    "blur": (0, 100),
    "paste": (0, 99),
    "overlay": (0, 100),
    "colours": (0, 400),
    "rotate": (0, 180),
}
_STRONG = {
    "crops": (10, 50),
    "blur": (0.5, 2),
    "paste": (20, 60),
    "overlay": (10, 30),
    "colours": (30, 100),
    "rotate": (3, 15),
}
