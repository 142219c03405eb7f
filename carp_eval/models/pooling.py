"""Descriptors for retrieval: a trunk's last feature map, pooled by its mean or otherwise, at one scale or several."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from carp_eval.errors import UsageError
from carp_eval.models.model import Model

Pooling = Literal["gap", "gem", "rmac", "places"]

SMALLEST = 1e-6
OVERLAP = 0.4


class Region(NamedTuple):
    """A square of a feature map.

    Attributes:
        top: Its first row.
        left: Its first column.
        side: Rows and columns it has.
    """

    top: int
    left: int
    side: int


def pooled(
    model: Model,
    *,
    pooling: Pooling,
    p: float = 3.0,
    levels: int = 3,
    places: int = 2,
    scales: tuple[float, ...] = (1.0,),
    per_scale_unit: bool = True,
    scale_power: float = 1.0,
) -> Model:
    """Return a model that shares another's trunk and pools its last feature map.

    The map is what goes into the trunk's last adaptive average pooling, as in ResNets. An image is seen at each scale
    (bilinear, not antialiased, as retrieval's reference codes do it), and the descriptors are added up. What
    comes out is not of unit length: who compares it brings it there.

    Args:
        model: The model, whose features are those of its trunk.
        pooling: `gap` takes the mean, `gem` the generalised mean, `rmac` the maxima of regions, `places`
            the means of overlapping windows, one after another.
        p: Exponent of the generalised mean.
        levels: Sizes of regions of R-MAC.
        places: Windows along each side.
        scales: Factors on the sides of the input.
        per_scale_unit: Whether each scale's descriptor is brought to length 1 before they are added; else a scale
            counts the more, the longer its descriptor is.
        scale_power: Exponent of a generalised mean over scales, which takes the place of the sum where it is not 1.

    Returns:
        The model; its `layer` says all of this, so that no two descriptors share a bank.

    Raises:
        UsageError: If the network has no such pooling, or a setting cannot be.
    """
    if model.layer != "pool":
        raise UsageError(
            f"a descriptor is pooled from the trunk's feature map; {model.name} was opened at {model.layer!r}"
        )
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise UsageError(f"scales are positive numbers, one or more, got {scales}")
    if not 0 < scale_power < math.inf:
        raise UsageError(f"the exponent over scales is a positive number, got {scale_power}")
    pool, told = _pooling(pooling, p=p, levels=levels, places=places)
    network = PooledTrunk(
        model.network,
        pool,
        scales=scales,
        per_scale_unit=per_scale_unit,
        scale_power=scale_power,
        name=model.name,
    )
    told += f" at {'+'.join(map(repr, scales))}"
    told += (" unit" if per_scale_unit else "") + (f" power {scale_power!r}" if scale_power != 1 else "")
    return dataclasses.replace(
        model,
        network=network,
        layer=told,
        feature_dim=network.width(model.input.channels, model.input.native_size),
    )


class PooledTrunk(nn.Module):
    """A trunk whose last feature map is pooled anew, at several scales of the image.

    Attributes:
        trunk: The trunk, shared and left as it is.
    """

    def __init__(
        self,
        trunk: nn.Module,
        pool: Callable[[Tensor], Tensor],
        *,
        scales: Sequence[float],
        per_scale_unit: bool,
        scale_power: float,
        name: str,
    ) -> None:
        """Find where the trunk's last feature map is.

        Args:
            trunk: Maps images to features, by way of an adaptive average pooling.
            pool: From maps to descriptors.
            scales: Factors on the sides of the input.
            per_scale_unit: Whether each scale's descriptor is brought to length 1.
            scale_power: Exponent of the generalised mean over scales; 1 adds them up.
            name: What to call the trunk in an error.

        Raises:
            UsageError: If it has no such pooling.
        """
        super().__init__()
        self.trunk = trunk
        self._pool = pool
        self._scales = tuple(scales)
        self._per_scale_unit = per_scale_unit
        self._power = scale_power
        self._name = name
        places = [path for path, module in trunk.named_modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
        if not places:
            raise UsageError(
                f"{name} has no feature map to pool: its network ends in no adaptive average pooling, as a ResNet does"
            )
        # The path, not the module: a module would be registered a second time.
        self._place = places[-1]

    def forward(self, images: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image dim"]:
        """Return the descriptors of images.

        Raises:
            UsageError: If an image is too small for a scale.
        """
        descriptors = torch.stack([self._descriptor(scaled(images, scale)) for scale in self._scales])
        if self._power == 1:
            return descriptors.sum(dim=0)
        return descriptors.clamp(min=0).pow(self._power).mean(dim=0).pow(1 / self._power)

    def feature_map(
        self, images: Float[Tensor, "image channel height width"]
    ) -> Float[Tensor, "image feature rows columns"]:
        """Return the trunk's last feature map.

        Raises:
            UsageError: If the trunk does not use its last adaptive average pooling.
        """
        seen: list[Tensor] = []

        def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:  # noqa: ARG001
            seen.append(arguments[0])

        hook = self.trunk.get_submodule(self._place).register_forward_pre_hook(keep)
        try:
            self.trunk(images)
        finally:
            hook.remove()
        if not seen:
            raise UsageError(f"{self._name} does not use its pooling {self._place}: there is no map to pool")
        return seen[-1]

    def _descriptor(self, images: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image dim"]:
        # In float32, also where the trunk runs in bfloat16: powers and sums would lose what tells images apart.
        descriptor = self._pool(self.feature_map(images).float())
        return functional.normalize(descriptor, dim=1) if self._per_scale_unit else descriptor

    def width(self, channels: int, side: int) -> int:
        """Return the width of the descriptors, from a black image of a size that the trunk takes."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        device = next((parameter.device for parameter in self.parameters()), torch.device("cpu"))
        try:
            with torch.inference_mode():
                black = torch.zeros(1, channels, side, side, device=device)
                return self._pool(self.feature_map(black)).shape[1]
        finally:
            for module, training in modes:
                module.training = training


def gap(maps: Float[Tensor, "image feature rows columns"]) -> Float[Tensor, "image feature"]:
    """Return the mean over all places."""
    return maps.mean(dim=(2, 3))


def gem(maps: Float[Tensor, "image feature rows columns"], *, p: float) -> Float[Tensor, "image feature"]:
    """Return the generalised mean, `(mean of x^p)^(1/p)` (Radenović et al., PAMI 2019, equation 3).

    p = 1 is the mean, p towards infinity the maximum; values below 1e-6 are raised to it, as by the authors.
    """
    return maps.clamp(min=SMALLEST).pow(p).mean(dim=(2, 3)).pow(1 / p)


def rmac(maps: Float[Tensor, "image feature rows columns"], *, levels: int) -> Float[Tensor, "image feature"]:
    """Return the sum over regions of each one's maxima, brought to unit length (Tolias et al., ICLR 2016, section 3).

    The paper whitens between two normalisations of a region; here none is whitened. Its authors' later code adds the
    maxima of the whole map as one region more, the paper does not.
    """
    rows, columns = maps.shape[2:]
    total = torch.zeros_like(maps[:, :, 0, 0])
    for top, left, side in regions(rows, columns, levels=levels):
        maxima = maps[:, :, top : top + side, left : left + side].amax(dim=(2, 3))
        total += functional.normalize(maxima, dim=1)
    return total


def regions(rows: int, columns: int, *, levels: int) -> list[Region]:
    """List R-MAC's regions of a map.

    Level 1 lays squares of the short side along the long one, as many as make neighbours' overlap the nearest to 40 %;
    level l has l - 1 squares more along each side, of the short side times 2 / (l + 1). Levels whose squares would have
    no place have none.
    """
    short, long = min(rows, columns), max(rows, columns)
    more = 0
    if long > short:
        # Seven squares and fewer in the authors' code, which differs only for maps five times as long as wide.
        counts = range(2, 2 * long // short + 3)
        more = min(counts, key=lambda count: abs(1 - (long - short) / (count - 1) / short - OVERLAP)) - 1
    found: list[Region] = []
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        down, across = (level + (more if size > short else 0) for size in (rows, columns))
        if side:
            found += [
                Region(top, left, side)
                for top in _starts(rows, side, down)
                for left in _starts(columns, side, across)
            ]
    return found


def _starts(length: int, side: int, count: int) -> list[int]:
    """Spread squares evenly over a side, the first at its start and the last at its end."""
    return [number * (length - side) // max(count - 1, 1) for number in range(count)]


def windows(maps: Float[Tensor, "image feature rows columns"], *, places: int) -> Float[Tensor, "image mean"]:
    """Return the means of windows that are `places` - 1 shorter than the map and move by one: places x places of them.

    A ResNet-50's map of 7 x 7 at two places is the mean of 6 x 6, four times: 8,192 values, as VISSL's linear
    machines learn from.

    Raises:
        UsageError: If the map has fewer places.
    """
    rows, columns = maps.shape[2:]
    if min(rows, columns) < places:
        raise UsageError(
            f"a feature map of {rows} x {columns} has no {places} windows along a side: take larger images, or a "
            "variant that averages the whole map"
        )
    return functional.avg_pool2d(maps, (rows - places + 1, columns - places + 1), stride=1).flatten(1)


def _pooling(
    pooling: Pooling, *, p: float, levels: int, places: int
) -> tuple[Callable[[Tensor], Tensor], str]:
    """Return a pooling and what says all of it."""
    if pooling == "gap":
        return gap, "gap"
    if pooling == "places":
        return partial(windows, places=places), f"windows {places}"
    if pooling == "gem":
        if not 0 < p < math.inf:
            raise UsageError(f"the exponent of the generalised mean is a positive number, got {p}")
        return partial(gem, p=p), f"gem {p!r}"
    if levels < 1:
        raise UsageError(f"R-MAC has at least one level of regions, got {levels}")
    return partial(rmac, levels=levels), f"rmac {levels}"


def scaled(
    images: Float[Tensor, "image channel height width"], scale: float
) -> Float[Tensor, "image channel rows columns"]:
    """Return images at a scale, bilinear and not antialiased.

    Raises:
        UsageError: If nothing of them is left.
    """
    if scale == 1:
        return images
    height, width = images.shape[2:]
    if int(min(height, width) * scale) < 1:
        raise UsageError(
            f"an image of {width} x {height} pixels is too small to be seen at scale {scale:.3g}"
        )
    return functional.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
