"""The quickstart's network: small enough to be trained in two minutes on two cores."""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

WIDTHS = (16, 32, 64)
# Halved twice only: the coarser the last map, the more its mean tells where in the image a digit lies.
STRIDES = (2, 1, 2, 1)


class SmallTrunk(nn.Sequential):
    """Four 3 x 3 convolutions, each with BatchNorm and ReLU, then the mean over all places.

    A side of 28 pixels becomes 14, 14, 7, 7; each place of the last sees 19 x 19 pixels.

    Attributes:
        feature_dim: Width of the features.
    """

    def __init__(self, channels: int, feature_dim: int = 256) -> None:
        """Build the network, with PyTorch's initialisation.

        Args:
            channels: Colour channels of the input.
            feature_dim: Width of the features.
        """
        layers: list[nn.Module] = []
        for (wide_in, wide_out), stride in zip(
            pairwise((channels, *WIDTHS, feature_dim)), STRIDES, strict=True
        ):
            layers += [
                nn.Conv2d(wide_in, wide_out, kernel_size=3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(wide_out),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.feature_dim = feature_dim

    def forward(self, input: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image feature"]:
        """Return the features of each image."""
        return super().forward(input)
