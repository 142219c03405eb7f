"""How an image becomes a frozen model's input: resized, cropped, scaled to [0, 1], normalised."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor

from carp_eval.cards.protocol import PreprocessingCard
from carp_eval.data import decoding
from carp_eval.data.decoding import with_channels
from carp_eval.data.images import ModelInput
from carp_eval.errors import BadImageError

# Cards give their sizes for this one. Below the other, a border cut off is too much of the image to lose.
CARD_SIZE = 224
SMALLEST_CROPPED_SIZE = 128

Interpolation = Literal["bilinear", "bicubic", "lanczos"]
_INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Pillow's weights of red, green and blue in grey, in units of 2^-16.
_LUMA = (19595, 38470, 7471)


@dataclass(frozen=True)
class Preprocessing:
    """One way from an image to a tensor.

    Attributes:
        resize: Length of the side that is resized, in pixels; None leaves all.
        crop: Side of the centre crop that follows; None leaves all.
        interpolation: How pixels are resampled, always with a filter as wide as the shrinking asks (antialiased).
        mean: Subtracted from each channel of values in [0, 1]; their number decides between grey and RGB.
        std: Divided by, after that.
        side: Which side is resized: the short or the long one, the shape kept, or both. The long one is only shrunk.
        squash: Side of the square that all is then squashed to; None leaves it.
    """

    resize: int | None
    crop: int | None
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: Literal["short", "long", "both"] = "short"
    squash: int | None = None

    def __call__(self, image: Image.Image) -> Float32[Tensor, "channel height width"]:
        """Prepare one image.

        Raises:
            BadImageError: As `pixels`.
        """
        return normalise(self.pixels(image), mean=self.mean, std=self.std)

    def pixels(self, image: Image.Image) -> UInt8[Tensor, "channel height width"]:
        """Resize and crop one image, and leave the rest, which can be done for a batch: `normalise`.

        Raises:
            BadImageError: If the image is smaller than the crop, or so long and thin that its resized form would
                not be safe to hold.
        """
        image = with_channels(image, len(self.mean))
        if self.resize is not None:
            image = _resized(image, self.resize, self.side, _INTERPOLATIONS[self.interpolation])
        if self.crop is not None:
            if min(image.size) < self.crop:
                raise BadImageError(
                    f"the image has {image.width} x {image.height} pixels, the crop takes {self.crop}"
                )
            image = _center(image, self.crop)
        if self.squash is not None:
            image = _resized(image, self.squash, "both", _INTERPOLATIONS[self.interpolation])
        return decoding.pixels(image)

    def keeps(self, height: int, width: int) -> bool:
        """Tell whether images of this size are neither resized nor cropped."""
        resized = {"short": min(height, width), "long": max(height, width)}
        square = height if height == width else None
        return self.resize in (None, resized.get(self.side, square)) and all(
            side is None or side == square for side in (self.crop, self.squash)
        )

    @property
    def gives_one_size(self) -> bool:
        """Whether images of any size come out in one size, so that they make a batch."""
        return self.crop is not None or self.squash is not None or self.side == "both"

    def of_pixels(
        self, pixels: UInt8[Tensor, "image channel height width"]
    ) -> Float32[Tensor, "image channels height width"]:
        """Prepare a batch whose size is right as it is (`keeps`): to the bit what the images give one by one."""
        return normalise(self.in_channels(pixels), mean=self.mean, std=self.std)

    def in_channels(
        self, pixels: UInt8[Tensor, "image channel height width"]
    ) -> UInt8[Tensor, "image channels height width"]:
        """Bring a batch to grey or RGB, as `pixels` brings an image."""
        return _with_channels(pixels, len(self.mean))

    def finisher(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return what normalises batches of `pixels` on a device, with its constants there."""
        return partial(
            _normalise, shift=_of_channels(self.mean, device), scale=_of_channels(self.std, device)
        )

    def describe(self) -> dict[str, Any]:
        """Say all of it in plain values, for a fingerprint or a record."""
        return {
            "resize": self.resize,
            # What most protocols do goes without saying: their banks are older than the choice.
            **({} if self.side == "short" else {"side": self.side}),
            "crop": self.crop,
            **({} if self.squash is None else {"squash": self.squash}),
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }


def for_model(card: PreprocessingCard, model_input: ModelInput) -> Preprocessing:
    """Join what the protocol owns with what the model owns.

    A card's sizes are for models of native size 224. For another native size they are scaled in proportion. For
    one below 128, where all images come out in one size, that is the native size and nothing more is cut off than
    the shape asks, because small images have no border to spare.

    Args:
        card: The protocol's part.
        model_input: The model's part.
    """
    native = model_input.native_size
    one_size = card.crop is not None or card.squash is not None or card.side == "both"
    whole = native < SMALLEST_CROPPED_SIZE and one_size
    resize, crop, squash = (
        None if size is None else native if whole else round(size * native / CARD_SIZE)
        for size in (card.resize, card.crop, card.squash)
    )
    return Preprocessing(
        resize,
        crop,
        card.interpolation,
        model_input.mean,
        model_input.std,
        side=card.side,
        squash=squash,
    )


def normalise(
    pixels: UInt8[Tensor, "*batch channel height width"], *, mean: Sequence[float], std: Sequence[float]
) -> Float32[Tensor, "*batch channel height width"]:
    """Scale 8-bit pixels to [0, 1], subtract each channel's mean and divide by its deviation."""
    return _normalise(pixels, shift=_of_channels(mean), scale=_of_channels(std))


def _normalise(pixels: Tensor, *, shift: Tensor, scale: Tensor) -> Tensor:
    return pixels.to(torch.float32).div_(255).sub_(shift).div_(scale)


def _of_channels(values: Sequence[float], device: torch.device | None = None) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


def _resized(
    image: Image.Image, length: int, side: Literal["short", "long", "both"], interpolation: Image.Resampling
) -> Image.Image:
    if side == "short":
        return _with_short_side(image, length, interpolation)
    if side == "both":
        size = (length, length)
    else:
        shrunk = min(1.0, length / max(image.size))
        size = (max(1, round(image.width * shrunk)), max(1, round(image.height * shrunk)))
    return image if size == image.size else image.resize(size, interpolation)


def _with_short_side(image: Image.Image, short_side: int, interpolation: Image.Resampling) -> Image.Image:
    width, height = image.size
    if min(width, height) == short_side:
        return image
    long_side = int(short_side * max(width, height) / min(width, height))
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and short_side * long_side > limit:
        raise BadImageError(
            f"the image has {width} x {height} pixels; resized to a short side of {short_side} its long side would "
            f"be {long_side}: crop it before"
        )
    size = (short_side, long_side) if width <= height else (long_side, short_side)
    return image.resize(size, interpolation)


def _center(image: Image.Image, side: int) -> Image.Image:
    """Cut out the middle; of an odd border, `round` decides, as in the field's own crop (torchvision)."""
    left, top = (round((length - side) / 2) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def _with_channels(
    pixels: UInt8[Tensor, "image channel height width"], channels: int
) -> UInt8[Tensor, "image channels height width"]:
    """Do for a batch what `decoding.with_channels` does for an image."""
    if pixels.shape[1] == channels:
        return pixels
    if channels == 3:
        return pixels.expand(-1, 3, -1, -1)
    weights = torch.tensor(_LUMA, dtype=torch.int32)[:, None, None]
    return ((pixels.to(torch.int32) * weights).sum(dim=1, keepdim=True) + 2**15 >> 16).to(torch.uint8)
