"""Views at test time: an image seen flipped and at several scales, and the mean of what the network says of each."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from carp_eval.errors import UsageError
from carp_eval.models.model import Model
from carp_eval.models.pooling import scaled


class Views(NamedTuple):
    """How an image is seen.

    Attributes:
        flip: Whether its mirror image is seen too.
        scales: Factors on the sides of the network's input.
    """

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    @property
    def number(self) -> int:
        """Times that the network sees an image."""
        return len(self.scales) * (2 if self.flip else 1)

    def describe(self) -> str:
        """Say all of it, for a fingerprint."""
        flipped = " and flipped" if self.flip else ""
        return f"mean of unit features at {'+'.join(map(repr, self.scales))}{flipped}"


PLAIN = Views()


def seen(model: Model, views: Views) -> Model:
    """Return a model that shares another's network and gives the mean of its features over views of an image.

    Each view's features are brought to unit length before the mean, so that none counts the more for its length, as
    retrieval's descriptors over scales are (`models/pooling`). The mean is stored as it is, shorter than one where
    views disagree. Scaled views are made of the network's input, after resize, crop and normalisation: bilinear, not
    antialiased. An image is read, decoded and prepared once.

    Args:
        model: The model.
        views: How an image is seen; of the plain view alone, the model is returned as it is.

    Returns:
        The model; its `layer` says all of this, so that no bank of it is taken for a plain one.

    Raises:
        UsageError: If a scale cannot be, or the network does not take images of that size.
    """
    scales = views.scales
    if not scales or not all(0 < scale < math.inf for scale in scales) or len(set(scales)) < len(scales):
        raise UsageError(f"scales are different positive numbers, one or more, got {scales}")
    if views == PLAIN:
        return model
    network = _Averaged(model.network, views)
    _try(model, scales)
    return dataclasses.replace(model, network=network, layer=f"{model.layer}, {views.describe()}")


class _Averaged(nn.Module):
    def __init__(self, network: nn.Module, views: Views) -> None:
        super().__init__()
        self.network = network
        self._views = views

    def forward(self, images: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image dim"]:
        total: Tensor | None = None
        for scale in self._views.scales:
            view = scaled(images, scale)
            for side in (view, view.flip(-1)) if self._views.flip else (view,):
                # In float32, also where the network runs in bfloat16.
                unit = functional.normalize(self.network(side).float(), dim=1)
                total = unit if total is None else total + unit
        assert total is not None
        return total / self._views.number


def _try(model: Model, scales: Sequence[float]) -> None:
    """Show the network a black image at each scale, on the processor or wherever it is."""
    device = next((parameter.device for parameter in model.network.parameters()), torch.device("cpu"))
    side = model.input.native_size
    for scale in scales:
        black = torch.zeros(1, model.input.channels, side, side, device=device)
        modes = [(module, module.training) for module in model.network.modules()]
        model.network.eval()
        try:
            with torch.inference_mode():
                model.network(scaled(black, scale))
        # What networks raise on a size that is not theirs.
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UsageError(
                f"{model.name} does not take images of {int(side * scale)} pixels, its {side} at scale {scale:g} "
                f"({str(error).partition(chr(10))[0]}): leave --scales out"
            ) from error
        finally:
            for module, training in modes:
                module.training = training
