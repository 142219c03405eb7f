"""What chance decides of a view once its part of the image is cut out: colours, blur, solarising, erasing.

All of it is drawn before a pixel is touched, so that it can be done where the view is made or later and elsewhere, to a
whole batch at once (`finishing`).
"""

import math
import random
from typing import NamedTuple

import torch
from jaxtyping import Float32
from torch import Tensor

from carp_eval.cards.recipe import ViewCard

# Sigma is given for views of this side.
BLUR_SIZE = 224
# The changes of a jitter, by number.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
NUM_JITTERS = 4
# A rectangle to erase takes this share of the view and has this width over height (Zhong et al., 2017).
_ERASE_AREA = (0.02, 1 / 3)
_ERASE_RATIO = (0.3, 1 / 0.3)


class Changes(NamedTuple):
    """What becomes of one view.

    Attributes:
        jitter: Which change of brightness, contrast, saturation and hue, and its amount, in the order they come in; a
            factor around 1, of hue the share of a full turn.
        grey: Whether its colour is lost.
        sigma: Width of its blur in pixels; 0 for none.
        solarise: Whether values above one half are inverted.
        erased: Top, left, height and width of the rectangle that is painted over; all 0 for none.
    """

    jitter: tuple[tuple[int, float], ...]
    grey: bool
    sigma: float
    solarise: bool
    erased: tuple[int, int, int, int]

    def packed(self) -> Float32[Tensor, " number"]:
        """Lay everything out in numbers, as `finishing` reads them: which, amounts, and the rest in order."""
        absent = NUM_JITTERS - len(self.jitter)
        which = [*(number for number, _ in self.jitter), *[-1] * absent]
        amounts = [*(amount for _, amount in self.jitter), *[0.0] * absent]
        return torch.tensor(
            [*which, *amounts, self.grey, self.sigma, self.solarise, *self.erased], dtype=torch.float32
        )


def draw(card: ViewCard, chance: random.Random) -> Changes:
    """Draw what becomes of one view.

    Args:
        card: The kind of view.
        chance: What is drawn from.
    """
    jitter = _jitter(card, chance) if chance.random() < card.jitter_probability else ()
    grey = chance.random() < card.grey
    sigma = 0.0
    if chance.random() < card.blur:
        narrow, wide = card.blur_sigma
        sigma = chance.uniform(narrow, wide) * card.size / BLUR_SIZE
    solarise = chance.random() < card.solarise
    erased = _rectangle(card.size, chance) if chance.random() < card.erase else (0, 0, 0, 0)
    return Changes(jitter, grey, sigma, solarise, erased)


def blur_weights(sigma: float, *, size: int) -> list[float]:
    """Return a Gaussian's weights at steps of 0, 1, ... pixels, not yet divided by their sum over both sides.

    The kernel is a tenth of the view's side wide: 23 pixels at 224 (BYOL, appendix B).
    """
    return [math.exp(-(step**2) / (2 * sigma**2)) for step in range(blur_radius(size) + 1)]


def blur_radius(size: int) -> int:
    """Return how many pixels a blur reaches to each side in a view of this side."""
    return size // 20


def _jitter(card: ViewCard, chance: random.Random) -> tuple[tuple[int, float], ...]:
    *strengths, hue = card.jitter
    ranges = [(max(0.0, 1 - strength), 1 + strength) for strength in strengths] + [(-hue, hue)]
    jitter = [
        (number, chance.uniform(*between)) for number, between in enumerate(ranges) if between[0] < between[1]
    ]
    chance.shuffle(jitter)
    return tuple(jitter)


def _rectangle(size: int, chance: random.Random) -> tuple[int, int, int, int]:
    area = chance.uniform(*_ERASE_AREA) * size**2
    ratio = math.exp(chance.uniform(*map(math.log, _ERASE_RATIO)))
    width, height = (min(size, max(1, round(math.sqrt(side)))) for side in (area * ratio, area / ratio))
    top, left = chance.randint(0, size - height), chance.randint(0, size - width)
    return top, left, height, width
