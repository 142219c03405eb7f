"""Random views of one image, as BYOL makes them (Grill et al., 2020, appendix B), and a little more.

In this order: the image is turned, sheared and shifted; a random part of it is cropped and resized to the view's size;
then mirror, jitter, grey, blur, solarise; then normalisation, and erasing.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from carp_eval.cards.recipe import ViewCard
from carp_eval.data import changes
from carp_eval.data.decoding import with_channels
from carp_eval.data.preprocessing import normalise
from carp_eval.errors import CardError

# Its annotations know tensors alone; every function used here takes Pillow's images too.
F = cast(Any, functional)

_CROP_TRIES = 10


class Views:
    """Makes the views that the cards describe; a seed fixes every choice, and no global random state is touched.

    Attributes:
        cards: The kinds of view; each is made `count` times.
        labels: A short name for each view, in the order they come in.
        mean: Mean of each channel in [0, 1], which normalisation subtracts.
        std: Deviation of each channel, which normalisation divides by.
    """

    def __init__(self, cards: Sequence[ViewCard], *, mean: Sequence[float], std: Sequence[float]) -> None:
        """Check that the cards fit the images.

        Args:
            cards: The kinds of view.
            mean: Mean of each channel in [0, 1]; their number decides between grey and RGB.
            std: Deviation of each channel.

        Raises:
            CardError: If a card asks for a change of colours and the images have one channel.
        """
        self.cards = tuple(cards)
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.labels = tuple(
            f"view {number} ({card.size} px{', teacher too' if card.to_teacher else ''})"
            for number, card in enumerate((card for card in cards for _ in range(card.count)), start=1)
        )
        for number, card in enumerate(self.cards):
            if len(self.mean) == 1 and (card.jitter[2] or card.jitter[3] or card.grey):
                raise CardError(
                    f"views.{number} changes colours (jitter = {list(card.jitter)}, grey = {card.grey}), and the "
                    f"images have 1 channel: set the jitter's last two values and grey to 0"
                )

    def __call__(self, image: Image.Image, seed: int) -> list[Float[Tensor, "channel _ _"]]:
        """Make every view of an image, in the order of the cards.

        Args:
            image: In any mode.
            seed: Fixes all that is left to chance.
        """
        image = with_channels(image, len(self.mean))
        # Python's generator: 8 microseconds to seed, and its stream of random() is promised to stay.
        chance = random.Random(seed)
        return [self._view(image, card, chance) for card in self.cards for _ in range(card.count)]

    def _view(
        self, image: Image.Image, card: ViewCard, chance: random.Random
    ) -> Float[Tensor, "channel _ _"]:
        view = cropped(image, card, chance)
        drawn = changes.draw(card, chance)
        tensor = normalise(F.pil_to_tensor(_changed(view, drawn)), mean=self.mean, std=self.std)
        top, left, height, width = drawn.erased
        # 0 is the data's mean: the grey that says least.
        tensor[:, top : top + height, left : left + width] = 0.0
        return tensor


@dataclass(frozen=True)
class UnfinishedViews:
    """Makes the views of an image as far as a worker of few means should: cut out, resized and mirrored.

    The rest is drawn here and done later (`finishing.Finishing`); the same seed leads to the view that `Views` makes.

    Attributes:
        views: The whole views.
    """

    views: Views

    def __call__(self, image: Image.Image, seed: int) -> list[Tensor]:
        """Return every view's 8-bit pixels, in the order of the cards, and at last what is to become of each.

        Args:
            image: In any mode.
            seed: Fixes all that is left to chance.
        """
        image = with_channels(image, len(self.views.mean))
        chance = random.Random(seed)
        pixels: list[Tensor] = []
        drawn: list[Tensor] = []
        for card in self.views.cards:
            for _ in range(card.count):
                pixels.append(F.pil_to_tensor(cropped(image, card, chance)))
                drawn.append(changes.draw(card, chance).packed())
        return [*pixels, torch.stack(drawn)]


def picture(image: Image.Image, card: ViewCard, chance: random.Random) -> Image.Image:
    """Make one view, up to normalisation.

    Args:
        image: Grey or RGB.
        card: The kind of view.
        chance: What is drawn from.
    """
    view = cropped(image, card, chance)
    return _changed(view, changes.draw(card, chance))


def cropped(image: Image.Image, card: ViewCard, chance: random.Random) -> Image.Image:
    """Cut a view out of an image: turned, sheared and shifted, cropped, resized and mirrored, its colours untouched.

    Args:
        image: Grey or RGB.
        card: The kind of view.
        chance: What is drawn from.
    """
    if card.rotation or card.shear or card.translation:
        image = _moved(image, card, chance)
    view = F.resized_crop(
        image,
        *_crop(image, card, chance),
        [card.size, card.size],
        interpolation=InterpolationMode(card.interpolation),
    )
    return F.horizontal_flip(view) if chance.random() < card.flip else view


def blurred(view: Image.Image, *, sigma: float) -> Image.Image:
    """Blur a square image with a Gaussian kernel a tenth of its side wide: 23 x 23 at 224 (BYOL, appendix B).

    Args:
        view: Grey or RGB.
        sigma: Width of the Gaussian, in pixels.
    """
    # torchvision convolves with the whole square: 20 ms for a view of 224 pixels. Two passes are the same
    # but for the rounding, and sliding sums of 23 shifted copies take 2.5 ms.
    radius = changes.blur_radius(view.width)
    weights = changes.blur_weights(sigma, size=view.width)
    total = weights[0] + 2 * sum(weights[1:])
    planes = F.pil_to_tensor(view).to(torch.float32)
    for axis, padding in ((-1, (radius, radius, 0, 0)), (-2, (0, 0, radius, radius))):
        padded = torch.nn.functional.pad(planes, padding, mode="reflect")
        side = planes.shape[axis]
        planes = padded.narrow(axis, radius, side) * (weights[0] / total)
        for step in range(1, radius + 1):
            pair = padded.narrow(axis, radius - step, side) + padded.narrow(axis, radius + step, side)
            planes.add_(pair, alpha=weights[step] / total)
    return F.to_pil_image(planes.round_().to(torch.uint8))


def _moved(image: Image.Image, card: ViewCard, chance: random.Random) -> Image.Image:
    """Shear, turn and shift an image about its centre; what comes in from outside is black."""
    width, height = image.size
    shift = [side * chance.uniform(-card.translation, card.translation) for side in (width, height)]
    return F.affine(
        image,
        angle=chance.uniform(-card.rotation, card.rotation),
        shear=[chance.uniform(-card.shear, card.shear), 0.0],
        translate=shift,
        scale=1.0,
        interpolation=InterpolationMode.BILINEAR,
    )


def _crop(image: Image.Image, card: ViewCard, chance: random.Random) -> tuple[int, int, int, int]:
    """Draw the part of an image that a view shows: top, left, height, width.

    Area and ratio are drawn until they fit, ten times; then the largest central part of an allowed ratio is taken. A
    part larger than the image (a `scale` above 1) shows all of it, smaller, somewhere on black.
    """
    width, height = image.size
    low, high = card.scale
    flat, wide = card.ratio
    largest = max(1.0, math.sqrt(high))
    for _ in range(_CROP_TRIES):
        area = width * height * chance.uniform(low, high)
        ratio = math.exp(chance.uniform(math.log(flat), math.log(wide)))
        cropped_width, cropped_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < cropped_width <= largest * width and 0 < cropped_height <= largest * height:
            left = chance.randint(*sorted((0, width - cropped_width)))
            top = chance.randint(*sorted((0, height - cropped_height)))
            return top, left, cropped_height, cropped_width
    ratio = min(max(width / height, flat), wide)
    cropped_width = max(1, min(width, round(height * ratio)))
    cropped_height = max(1, min(height, round(width / ratio)))
    return (height - cropped_height) // 2, (width - cropped_width) // 2, cropped_height, cropped_width


def _changed(view: Image.Image, drawn: changes.Changes) -> Image.Image:
    """Do to a view what was drawn, but for erasing."""
    # In the order of the numbers that `changes` gives them.
    adjust: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
        F.adjust_brightness,
        F.adjust_contrast,
        F.adjust_saturation,
        F.adjust_hue,
    )
    for which, amount in drawn.jitter:
        view = adjust[which](view, amount)
    if drawn.grey:
        view = F.rgb_to_grayscale(view, num_output_channels=3)
    if drawn.sigma:
        view = blurred(view, sigma=drawn.sigma)
    if drawn.solarise:
        view = F.solarize(view, 128)
    return view
