"""The end of a view's way, for whole batches on any device: jitter, grey, blur, solarising, normalisation, erasing.

What becomes of each image was drawn before (`changes`), so a view does not depend on the batch it is in, nor, beyond
rounding, on the device. The same draws lead to what `views` makes of an image by itself, except that values are not
rounded to 8 bits after each change.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor

from carp_eval.cards.recipe import ViewCard
from carp_eval.data.changes import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    NUM_JITTERS,
    SATURATION,
    blur_radius,
    blur_weights,
)
from carp_eval.data.moving import moved

Pixels = Float32[Tensor, "image channel size size"]

# A CPU is quickest while what it works on lies in its cache.
IMAGES_AT_ONCE_ON_CPU = 4
_LUMA = (0.299, 0.587, 0.114)


class Finishing:
    """Finishes the views that the cards describe."""

    def __init__(
        self,
        cards: Sequence[ViewCard],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        images_at_once: int | None = None,
    ) -> None:
        """Make ready.

        Args:
            cards: The kinds of view; each is made `count` times.
            mean: Mean of each channel in [0, 1], which normalisation subtracts.
            std: Deviation of each channel, which normalisation divides by.
            device: Where views are finished, and lie in the end.
            images_at_once: Images to work on at a time; None is what suits the device.
        """
        self._sizes = [card.size for card in cards for _ in range(card.count)]
        self._mean, self._std = (torch.tensor(values, device=device)[:, None, None] for values in (mean, std))
        self._device = device
        self._at_once = images_at_once or (IMAGES_AT_ONCE_ON_CPU if device.type == "cpu" else 2**20)
        self._spreads = {
            size: _spread(size).to(device) for size in {card.size for card in cards if card.blur}
        }

    def __call__(
        self,
        views: Sequence[UInt8[Tensor, "image channel _ _"]],
        drawn: Float32[Tensor, "image view number"],
    ) -> list[Float32[Tensor, "image channel _ _"]]:
        """Finish every view of a batch.

        Args:
            views: Their pixels, on any device.
            drawn: What is to become of each (`Changes.packed`), in main memory.

        Returns:
            The views, normalised.
        """
        return [
            self._finish(pixels, drawn[:, number])
            for number, (pixels, _) in enumerate(zip(views, self._sizes, strict=True))
        ]

    def _finish(
        self, pixels: UInt8[Tensor, "image channel size size"], drawn: Float32[Tensor, "image number"]
    ) -> Pixels:
        pixels = moved(pixels, self._device)
        view = torch.empty(pixels.shape, device=self._device)
        for some, pixels_of_some, drawn_of_some in zip(
            *(tensor.split(self._at_once) for tensor in (view, pixels, drawn)), strict=True
        ):
            torch.div(pixels_of_some, 255, out=some)
            self._change(some, drawn_of_some)
        return view

    def _change(self, view: Pixels, drawn: Float32[Tensor, "image number"]) -> None:
        """Change the views of some images in place."""
        which, amounts, rest = drawn.split(
            [NUM_JITTERS, NUM_JITTERS, drawn.shape[1] - 2 * NUM_JITTERS], dim=1
        )
        for turn in range(NUM_JITTERS):
            self._jitter(view, which[:, turn], amounts[:, turn])
        grey, sigma, solarise = rest[:, 0], rest[:, 1], rest[:, 2]
        if (rows := self._rows(grey != 0)) is not None:
            view[rows] = _luma(view[rows]).expand(-1, view.shape[1], -1, -1)
        if (rows := self._rows(sigma != 0)) is not None:
            view[rows] = self._blurred(view[rows], sigma[sigma != 0].tolist())
        if (rows := self._rows(solarise != 0)) is not None:
            bright = view[rows]
            view[rows] = torch.where(bright >= 0.5, 1 - bright, bright)
        view.sub_(self._mean).div_(self._std)
        if rest[:, 3:].any():
            view.masked_fill_(_rectangles(moved(rest[:, 3:], self._device), view.shape[-1]), 0.0)

    def _rows(self, chosen: Bool[Tensor, " image"]) -> Int64[Tensor, " row"] | None:
        """Return the numbers of the chosen images; None for none. What is chosen lies in main memory."""
        rows = chosen.nonzero()[:, 0]
        return moved(rows, self._device) if len(rows) else None

    def _jitter(
        self, view: Pixels, which: Float32[Tensor, " image"], amounts: Float32[Tensor, " image"]
    ) -> None:
        """Take one turn of the jitter, in which each image goes through a change of its own."""
        blends = (which >= BRIGHTNESS) & (which <= SATURATION)
        if blends.any():
            # Each is a way from some grey through the image: from black, its mean grey, or each pixel's own.
            factors = torch.where(blends, amounts, 1.0)
            mixed = moved(torch.stack([factors, which == CONTRAST, which == SATURATION]), self._device)
            factor, contrast, saturation = mixed[:, :, None, None, None]
            luma = _luma(view)
            start = saturation * luma + contrast * luma.mean(dim=(2, 3), keepdim=True)
            torch.lerp(start, view, factor, out=view).clamp_(0, 1)
        if (rows := self._rows(which == HUE)) is not None:
            turn = moved(amounts[which == HUE], self._device)
            view[rows] = _turned(view[rows], turn)

    def _blurred(
        self, view: Float32[Tensor, "row channel size size"], sigmas: list[float]
    ) -> Float32[Tensor, "row channel size size"]:
        """Blur each image: on either axis, a matrix that holds the kernel and the reflection at the edges."""
        size = view.shape[-1]
        weights = torch.tensor([blur_weights(sigma, size=size) for sigma in sigmas])
        weights /= 2 * weights.sum(dim=1, keepdim=True) - weights[:, :1]
        spread = self._spreads[size]
        blur = (moved(weights, self._device) @ spread.flatten(1)).unflatten(1, (1, size, size))
        return blur @ view @ blur.transpose(2, 3)


def _luma(view: Float32[Tensor, "image channel size size"]) -> Float32[Tensor, "image 1 size size"]:
    if view.shape[1] == 1:
        return view
    red, green, blue = view.split(1, dim=1)
    weight_red, weight_green, weight_blue = _LUMA
    return (red * weight_red).add_(green, alpha=weight_green).add_(blue, alpha=weight_blue)


def _turned(
    view: Float32[Tensor, "row 3 size size"], turn: Float32[Tensor, " row"]
) -> Float32[Tensor, "row 3 size size"]:
    """Turn the hue of each image by a share of the full circle, in HSV's hexagon."""
    red, green, blue = view.unbind(dim=1)
    highest, lowest = view.amax(dim=1), view.amin(dim=1)
    chroma = highest - lowest
    # Of grey all of this is 0 whatever the divisor.
    divisor = torch.where(chroma > 0, chroma, 1.0)
    # In sixths of the circle: red is at 0, green at 2, blue at 4.
    hue = torch.where(highest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    hue = torch.where(highest == red, (green - blue) / divisor, hue)
    hue += 6 * turn[:, None, None]
    # A channel falls from the highest to the lowest value within one sixth, and stays there for two.
    colours = [
        highest - chroma * torch.minimum(away, 4 - away).clamp_(0, 1)
        for away in ((hue + start).remainder_(6) for start in (5, 3, 1))
    ]
    return torch.stack(colours, dim=1)


def _spread(size: int) -> Float[Tensor, "step size size"]:
    """Return, of each step away, how often a pixel (row) takes from each (column), reflected at the edges."""
    places = torch.arange(size)
    steps: list[Tensor] = []
    for step in range(blur_radius(size) + 1):
        taken = torch.zeros(size, size)
        for offset in {-step, step}:
            inside = (places + offset).abs()
            inside = torch.where(inside < size, inside, 2 * (size - 1) - inside)
            taken += torch.nn.functional.one_hot(inside, size)
        steps.append(taken)
    return torch.stack(steps)


def _rectangles(edges: Float[Tensor, "image 4"], size: int) -> Bool[Tensor, "image 1 size size"]:
    """Return which pixels lie in each image's rectangle of a top, left, height and width."""
    place = torch.arange(size, device=edges.device)
    top, left, height, width = edges[:, :, None].unbind(dim=1)
    rows, columns = (
        (place >= first) & (place < first + length) for first, length in ((top, height), (left, width))
    )
    return (rows[:, :, None] & columns[:, None, :])[:, None]
