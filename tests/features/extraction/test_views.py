"""Views at test time, against means taken by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from carp_eval.errors import BankError, UsageError
from carp_eval.features.extraction.running import fingerprint_of
from carp_eval.features.extraction.views import PLAIN, Views, seen
from tests.features.scene import DIM, PREPROCESSING, Net, Noise, expected, model, take


class Changed(Noise):
    """The same images with their pixels changed; counts how often one is decoded."""

    def __init__(self, change=lambda pixels: pixels, count=12):
        super().__init__(count)
        self.content = np.stack([change(pixels) for pixels in self.content])
        self.decoded = 0

    def image(self, index):
        self.decoded += 1
        return super().image(index)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def plain_rows(images):
    return np.stack([expected(images, number) for number in range(len(images))])


def test_a_row_is_the_mean_of_the_unit_rows_of_an_image_and_its_mirror_image(tmp_path):
    images = Changed()
    bank = take(tmp_path, images, dtype="float32", views=Views(flip=True))
    mirrored = Changed(lambda pixels: pixels[:, ::-1])
    wanted = (unit(plain_rows(Changed())) + unit(plain_rows(mirrored))) / 2
    np.testing.assert_allclose(bank.features().numpy(), wanted, atol=1e-6)
    assert np.abs(wanted - unit(plain_rows(Changed()))).max() > 1e-3
    assert images.decoded == 12


class Means(nn.Module):
    """The mean of each quarter of an image of any size."""

    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1) + images[:, :, :1, :1].flatten(1)


def test_a_scale_is_of_the_networks_input():
    images = torch.randn(3, 1, 8, 8)
    found = seen(model(Means()), Views(scales=(1.0, 0.5))).network(images)
    # Half the size, not antialiased: the mean of each 2 x 2 pixels.
    half = images.reshape(3, 1, 4, 2, 4, 2).mean(dim=(3, 5))
    wanted = sum(unit(Means()(view).numpy()) for view in (images, half)) / 2
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)


def test_flip_and_scales_are_seen_each_with_each():
    both = Views(flip=True, scales=(1.0, 0.5, 2.0))
    network = Net().eval()
    seen(model(network), both).network(torch.randn(3, 1, 8, 8))
    # Three images in six views, and a black one at each scale before.
    assert (both.number, network.seen) == (6, 18 + 3)


def test_views_make_another_bank_that_is_not_compared_with_a_plain_one(tmp_path):
    plain, flipped = take(tmp_path), take(tmp_path, views=Views(flip=True))
    scaled = take(tmp_path, views=Views(scales=(1.0, 1.5)))
    assert len({bank.path for bank in (plain, flipped, scaled)}) == 3
    assert [bank.fingerprint.views for bank in (plain, flipped, scaled)] == [1, 2, 2]
    assert flipped.fingerprint.layer == "pool, mean of unit features at 1.0 and flipped"
    assert scaled.fingerprint.layer == "pool, mean of unit features at 1.0+1.5"
    with pytest.raises(BankError, match="differ in layer, views"):
        plain.check_comparable(flipped)


def test_the_plain_view_changes_no_fingerprint():
    images = Noise()
    told = fingerprint_of(
        seen(model(), PLAIN), images, PREPROCESSING, dtype="float16", precision="float32", views=PLAIN
    )
    assert told == fingerprint_of(model(), images, PREPROCESSING, dtype="float16", precision="float32")
    assert (told.layer, told.views) == ("pool", 1)


@pytest.mark.parametrize("scales", [(), (0.0,), (-1.0, 1.0), (float("inf"),), (float("nan"),), (1.0, 1.0)])
def test_scales_that_cannot_be_are_refused(scales):
    with pytest.raises(UsageError, match="scales are different positive numbers"):
        seen(model(), Views(scales=scales))


def test_a_network_of_one_size_refuses_scales():
    class OneSize(Net):
        def forward(self, images):
            assert images.shape[-1] == 8, f"8 pixels were expected, got {images.shape[-1]}"
            return super().forward(images)

    network = OneSize().train()
    with pytest.raises(
        UsageError, match=r"does not take images of 12 pixels.*8 pixels were expected.*--scales"
    ):
        seen(model(network), Views(scales=(1.0, 1.5)))
    assert network.training
    assert seen(model(network), Views(flip=True)).feature_dim == DIM
