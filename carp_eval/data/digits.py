"""The embedded data set: small handwritten digits, each thrown onto a canvas by random affines.

Made from the 1,797 digits of 8 x 8 pixels that scikit-learn ships, as affNIST is made from MNIST. Where a digit
lies, how large it is and how it leans says nothing of its class, so raw pixels represent it poorly.
"""

import functools
import hashlib

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float64, Int64, UInt8
from PIL import Image
from torch import Tensor

from carp_eval.data.images import Images
from carp_eval.errors import DataError

NAME = "digits"
SIDE = 28
PLACEMENTS = 4
SPLITS = ("train", "test")
TEST_SHARE = 0.25

# Ranges of the placements, lengths in pixels of the canvas: wide enough that a pixel tells little, narrow
# enough that a person reads every digit (a 6 must not turn into a 9).
HEIGHT = (15.0, 19.0)
STRETCH = (0.85, 1.18)
ROTATION = 25.0
SHEAR = 0.25
SHIFT = 4.0
# Empty border that every digit keeps.
MARGIN = 1.0

_SEED = 2023


class DigitImages(Images):
    """One split of the placed digits, in memory.

    Attributes:
        pixels: Every image, bright on black; an original's placements follow one another.
    """

    pixels: UInt8[Tensor, "image 1 height width"]

    def __init__(
        self,
        split: str,
        pixels: UInt8[Tensor, "image 1 height width"],
        labels: Int64[np.ndarray, " image"],
        originals: Int64[np.ndarray, " image"],
    ) -> None:
        """Hold a split that has been made.

        Args:
            split: The split's name.
            pixels: Every image.
            labels: Digit that each shows.
            originals: Row of scikit-learn's table that each shows.
        """
        self.name = NAME
        self.split = split
        self.pixels = pixels
        self.labels = labels
        self.class_names = tuple("0123456789")
        self._originals = originals

    def image(self, index: int) -> Image.Image:
        """Return one image, in greys."""
        return Image.fromarray(self.pixels[index, 0].numpy())

    def key(self, index: int) -> str:
        """Return which original an image shows, and the how-manyeth placement of it this is."""
        return f"digit-{self._originals[index]:04d}-placement-{index % PLACEMENTS}"

    def hash_manifest(self) -> str:
        """Hash every pixel, label and original."""
        digest = hashlib.sha256(f"{self.name} {self.split} {tuple(self.pixels.shape)}\n".encode())
        for content in (self.pixels.numpy(), self.labels, self._originals):
            digest.update(np.ascontiguousarray(content).data)
        return digest.hexdigest()


def open_split(split: str) -> DigitImages:
    """Make one split of the embedded digits: the same images on every call and machine.

    Raises:
        DataError: If there is no such split.
    """
    if split not in SPLITS:
        raise DataError(f"the data set {NAME!r} has the splits {' and '.join(SPLITS)}, not {split!r}")
    digits, classes = _originals()
    chosen = split_originals(classes)[split]
    rows = np.repeat(chosen, PLACEMENTS)
    # A stream of its own for each split: changing one split's size leaves the other's placements alone.
    random = np.random.RandomState(_SEED + 1 + SPLITS.index(split))
    return DigitImages(split, place(digits[rows], random), classes[rows], rows)


def split_originals(classes: Int64[np.ndarray, " digit"]) -> dict[str, Int64[np.ndarray, " original"]]:
    """Deal the originals of every class to train and test, in a fixed random way.

    Args:
        classes: Class of each original.

    Returns:
        Numbers of the originals of each split, ascending; no original is in both.
    """
    random = np.random.RandomState(_SEED)
    held_out = np.zeros(len(classes), dtype=bool)
    for label in np.unique(classes):
        members = random.permutation(np.flatnonzero(classes == label))
        held_out[members[: round(TEST_SHARE * len(members))]] = True
    return {"train": np.flatnonzero(~held_out), "test": np.flatnonzero(held_out)}


def place(
    digits: Float64[np.ndarray, "image 8 8"], random: np.random.RandomState
) -> UInt8[Tensor, "image 1 height width"]:
    """Throw each digit onto a black canvas by a random affine of its own.

    The digit is turned, sheared, scaled and stretched, then shifted as far as it stays whole.

    Args:
        digits: Ink in [0, 1].
        random: Where the placements come from.
    """
    count = len(digits)

    def draw(low: float, high: float) -> Float64[np.ndarray, " image"]:
        return random.uniform(low, high, count)

    # NumPy's old generator, because its stream is frozen for good; float64, because a rounding that
    # differs between machines then practically never crosses a grey level.
    turn = np.deg2rad(draw(-ROTATION, ROTATION))
    lean = draw(-SHEAR, SHEAR)
    height = draw(*HEIGHT)
    stretch = np.exp(draw(*np.log(STRETCH)))
    cos, sin = np.cos(turn), np.sin(turn)
    rotate = np.stack([cos, -sin, sin, cos], axis=-1).reshape(-1, 2, 2)
    one, zero = np.ones(count), np.zeros(count)
    shear = np.stack([one, lean, zero, one], axis=-1).reshape(-1, 2, 2)
    # Half a digit is one unit of the source's coordinates, half a canvas one of the target's.
    scale = np.stack([height * stretch / SIDE, zero, zero, height / SIDE], axis=-1).reshape(-1, 2, 2)
    forward = rotate @ shear @ scale
    low, high = _extent(digits, forward)
    centre = random.uniform(-2 * SHIFT / SIDE, 2 * SHIFT / SIDE, (count, 2))
    # A digit too large for the border is centred.
    limit = np.maximum(1 - 2 * MARGIN / SIDE, (high - low) / 2)
    shift = np.clip(centre - (low + high) / 2, -limit - low, limit - high)
    backward = np.linalg.inv(forward)
    matrix = np.concatenate([backward, -backward @ shift[:, :, None]], axis=-1)
    grid = F.affine_grid(torch.from_numpy(matrix), [count, 1, SIDE, SIDE], align_corners=False)
    source = torch.from_numpy(digits[:, None])
    ink = F.grid_sample(source, grid, mode="bicubic", padding_mode="zeros", align_corners=False)
    return ink.clamp(0, 1).mul(255).round().to(torch.uint8)


def _extent(
    digits: Float64[np.ndarray, "image 8 8"], forward: Float64[np.ndarray, "image 2 2"]
) -> tuple[Float64[np.ndarray, "image 2"], Float64[np.ndarray, "image 2"]]:
    """Return the corners (x, y) of the box around each digit's ink once it is transformed."""
    centres = (np.arange(8) + 0.5) / 4 - 1
    points = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
    moved = np.einsum("nij,pj->npi", forward, points)
    inked = (digits.reshape(len(digits), -1) > 0.25)[:, :, None]
    return np.where(inked, moved, np.inf).min(axis=1), np.where(inked, moved, -np.inf).max(axis=1)


@functools.cache
def _originals() -> tuple[Float64[np.ndarray, "digit 8 8"], Int64[np.ndarray, " digit"]]:
    """Read scikit-learn's table: ink in [0, 1] and classes."""
    # Half a second of import that only this data set needs.
    from sklearn.datasets import load_digits

    ink, classes = load_digits(return_X_y=True)
    return np.asarray(ink, dtype=np.float64).reshape(-1, 8, 8) / 16, np.asarray(classes, dtype=np.int64)
