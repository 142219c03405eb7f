"""Random views of whole batches at once, for images too small to be worth a worker each.

All geometry of a view (crop, turn, shear, shift, mirror) is one affine per image, so that pixels are
interpolated once. Colours follow, in BYOL's order: jitter, grey, blur, solarise; then normalisation and erasing.
"""

import math
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from carp_eval.cards.recipe import ViewCard
from carp_eval.data.moving import moved
from carp_eval.errors import CardError

Pixels = Float[Tensor, "image channel height width"]
PerImage = Float[Tensor, " image"]

_CROP_TRIES = 10
_LUMA = (0.299, 0.587, 0.114)
# A rectangle to erase takes this share of the view and has this width over height (Zhong et al., 2017).
_ERASE_AREA = (0.02, 1 / 3)
_ERASE_RATIO = (0.3, 1 / 0.3)


class BatchViews:
    """Makes the views that the cards describe.

    Three things differ from the same card's views made image by image: the jitter's four changes come in a fixed
    order, hue is turned about the grey axis of RGB rather than in HSV, and nothing is smoothed before it is
    shrunk, which matters where a view has less than half the resolution of its crop.
    """

    def __init__(self, cards: Sequence[ViewCard], *, mean: Sequence[float], std: Sequence[float]) -> None:
        """Check that the cards fit the images.

        Args:
            cards: The kinds of view; each is made `count` times.
            mean: Mean of each channel in [0, 1], which normalisation subtracts.
            std: Deviation of each channel, which normalisation divides by.

        Raises:
            CardError: If a card asks for a change of colours and the images have one channel.
        """
        self.cards = tuple(cards)
        self._mean, self._std = tuple(mean), tuple(std)
        for number, card in enumerate(self.cards):
            if len(mean) != 3 and (card.jitter[2] or card.jitter[3] or card.grey):
                raise CardError(
                    f"views.{number} changes colours (jitter = {list(card.jitter)}, grey = {card.grey}), and the "
                    f"images have {len(mean)} channel: set the jitter's last two values and grey to 0"
                )

    def __call__(
        self, pixels: UInt8[Tensor, "image channel height width"], generator: torch.Generator
    ) -> list[Float[Tensor, "image channel size size"]]:
        """Make every view of every image, normalised, in the order of the cards.

        Args:
            pixels: The images, on the device where views are made.
            generator: Where chance comes from; the same state gives the same views.

        Returns:
            One batch for each view, `count` of them for each card.
        """
        images = pixels.float() / 255
        return [self._view(images, card, generator) for card in self.cards for _ in range(card.count)]

    def _view(
        self, images: Pixels, card: ViewCard, generator: torch.Generator
    ) -> Float[Tensor, "image channel size size"]:
        chance = _Chance(generator, images)
        grid_size = [len(images), images.shape[1], card.size, card.size]
        grid = F.affine_grid(_geometry(card, chance), grid_size, align_corners=False)
        view = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        if any(card.jitter) and card.jitter_probability:
            view = torch.where(chance.happens(card.jitter_probability), _jitter(view, card, chance), view)
        if card.grey:
            view = torch.where(chance.happens(card.grey), _luma(view).expand_as(view), view)
        if card.blur:
            view = torch.where(chance.happens(card.blur), _blur(view, card, chance), view)
        if card.solarise:
            inverted = torch.where(view >= 0.5, 1 - view, view)
            view = torch.where(chance.happens(card.solarise), inverted, view)
        mean, std = (_constant(values, view.device)[:, None, None] for values in (self._mean, self._std))
        view = (view - mean) / std
        if card.erase:
            erased = chance.happens(card.erase) & _rectangle(card.size, chance)
            # 0 is the data's mean: the grey that says least.
            view = view.masked_fill(erased, 0.0)
        return view


class _Chance:
    """Draws one number for each image, on the generator's device, and brings it to the images'.

    So what is drawn on a CPU's generator is the same on any device.
    """

    def __init__(self, generator: torch.Generator, images: Pixels) -> None:
        self._generator = generator
        self._images = images

    def uniform(self, low: float, high: float) -> PerImage:
        return low + (high - low) * self.tries(1)[0]

    def tries(self, count: int) -> Float[Tensor, "try image"]:
        shape = (count, len(self._images))
        drawn = torch.rand(shape, generator=self._generator, device=self._generator.device)
        return moved(drawn, self._images.device)

    def happens(self, probability: float) -> Bool[Tensor, "image 1 1 1"]:
        return (self.tries(1)[0] < probability)[:, None, None, None]


def _geometry(card: ViewCard, chance: _Chance) -> Float[Tensor, "image 2 3"]:
    """Draw the affine that leads from each point of a view to the point of the image it shows.

    Points are (x, y) in [-1, 1]. The image is mirrored, sheared, turned and shifted about its own centre, then
    cropped; what lies outside of it is black.
    """
    angle = chance.uniform(-card.rotation, card.rotation).deg2rad()
    lean = chance.uniform(-card.shear, card.shear).deg2rad().tan()
    shift = torch.stack([2 * chance.uniform(-card.translation, card.translation) for _ in "xy"], dim=-1)
    mirror = 1 - 2 * chance.happens(card.flip).flatten().to(lean)
    cos, sin = angle.cos(), angle.sin()
    one, zero = torch.ones_like(lean), torch.zeros_like(lean)
    # The inverses, last change first: turn back, shear back, mirror back.
    turn_back = torch.stack([cos, sin, -sin, cos], dim=-1).view(-1, 2, 2)
    shear_back = torch.stack([mirror, -mirror * lean, zero, one], dim=-1).view(-1, 2, 2)
    back = shear_back @ turn_back
    extent, centre = _crop(card, chance)
    return torch.cat([back * extent[:, None, :], back @ (centre - shift)[:, :, None]], dim=-1)


def _crop(card: ViewCard, chance: _Chance) -> tuple[Float[Tensor, "image 2"], Float[Tensor, "image 2"]]:
    """Draw each crop: its width and height as shares of the image's, and its centre.

    A crop of more than the whole image (a `scale` above 1) shows all of it, smaller, somewhere in the view.
    """
    low, high = card.scale
    area = low + (high - low) * chance.tries(_CROP_TRIES)
    flat, wide = (math.log(bound) for bound in card.ratio)
    ratio = (flat + (wide - flat) * chance.tries(_CROP_TRIES)).exp()
    tried = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=-1)
    largest = max(1.0, math.sqrt(high))
    first_that_fits = (tried <= largest).all(dim=-1).int().argmax(dim=0)
    extent = tried[first_that_fits, torch.arange(len(first_that_fits), device=tried.device)].clamp(
        max=largest
    )
    place = torch.stack([chance.uniform(-1.0, 1.0) for _ in "xy"], dim=-1)
    return extent, place * (1 - extent).abs()


def _jitter(view: Pixels, card: ViewCard, chance: _Chance) -> Pixels:
    """Change brightness, contrast, saturation and hue, each by a factor of its own for each image."""
    brightness, contrast, saturation, hue = card.jitter

    def factor(strength: float) -> Float[Tensor, "image 1 1 1"]:
        return chance.uniform(max(0.0, 1 - strength), 1 + strength)[:, None, None, None]

    if brightness:
        view = (view * factor(brightness)).clamp(0, 1)
    if contrast:
        middle = _luma(view).mean(dim=(1, 2, 3), keepdim=True)
        view = torch.lerp(middle, view, factor(contrast)).clamp(0, 1)
    if saturation:
        view = torch.lerp(_luma(view), view, factor(saturation)).clamp(0, 1)
    if hue:
        turn = _turn_hue(2 * math.pi * chance.uniform(-hue, hue))
        view = torch.einsum("nij,njhw->nihw", turn, view).clamp(0, 1)
    return view


def _turn_hue(angle: PerImage) -> Float[Tensor, "image 3 3"]:
    """Return the rotations of RGB about its grey axis, by Rodrigues' formula."""
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    identity = torch.eye(3, device=angle.device)
    cyclic = identity.roll(1, dims=0)
    cross = (cyclic - cyclic.T) / math.sqrt(3)
    return cos * identity + (1 - cos) / 3 + sin * cross


def _luma(view: Pixels) -> Float[Tensor, "image 1 height width"]:
    if view.shape[1] == 1:
        return view
    return torch.einsum("c,nchw->nhw", _constant(_LUMA, view.device), view)[:, None]


@cache
def _constant(values: tuple[float, ...], device: torch.device) -> Float[Tensor, " value"]:
    """Put numbers on a device once: each time would make a GPU wait."""
    return torch.tensor(values, device=device)


def _blur(view: Pixels, card: ViewCard, chance: _Chance) -> Pixels:
    """Blur each image by a Gaussian of its own width, which the card gives for views of 224 pixels."""
    narrow, wide = (sigma * card.size / 224 for sigma in card.blur_sigma)
    sigma = chance.uniform(narrow, wide)[:, None]
    radius = min(math.ceil(3 * wide), card.size - 1)
    steps = torch.arange(-radius, radius + 1, device=view.device).float()
    kernel = (-(steps**2) / (2 * sigma**2)).softmax(dim=-1)
    images, channels = view.shape[:2]
    kernel = kernel.repeat_interleave(channels, dim=0)[:, None, None, :]
    # Every plane has a kernel of its own: one group each.
    planes = F.pad(view, [radius] * 4, mode="reflect").flatten(0, 1)[None]
    planes = F.conv2d(planes, kernel, groups=len(kernel))
    planes = F.conv2d(planes, kernel.transpose(2, 3), groups=len(kernel))
    return planes[0].unflatten(0, (images, channels))


def _rectangle(size: int, chance: _Chance) -> Bool[Tensor, "image 1 height width"]:
    """Draw a rectangle for each image, inside the view."""
    area = chance.uniform(*_ERASE_AREA)
    ratio = chance.uniform(math.log(_ERASE_RATIO[0]), math.log(_ERASE_RATIO[1])).exp()
    centres = (torch.arange(size, device=area.device) + 0.5) / size

    def inside(length: PerImage) -> Bool[Tensor, "image side"]:
        length = length.clamp(max=1)
        start = chance.uniform(0.0, 1.0) * (1 - length)
        return (centres >= start[:, None]) & (centres < (start + length)[:, None])

    columns, rows = inside((area * ratio).sqrt()), inside((area / ratio).sqrt())
    return (rows[:, :, None] & columns[:, None, :])[:, None]
