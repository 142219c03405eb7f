import math

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import efficientnet_b0, resnet18

from carp_eval.cards.recipe import TrunkCard
from carp_eval.data.images import ModelInput
from carp_eval.errors import UsageError
from carp_eval.features.extraction.forward import forward
from carp_eval.models import pooling, trunks
from carp_eval.models.model import Model, weights_sha256
from carp_eval.models.pooling import pooled


def model(network, *, channels=1, width=5, layer="pool", side=8):
    return Model(
        name="net",
        network=network.eval(),
        input=ModelInput(native_size=side, mean=(0.5,) * channels, std=(0.25,) * channels),
        feature_dim=width,
        weights_sha256=weights_sha256(network.state_dict()),
        layer=layer,
    )


class Passing(nn.Sequential):
    """Its last feature map is the image itself."""

    def __init__(self):
        super().__init__(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def maps(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 3 - 1


def gap_by_loops(plane):
    return sum(value for row in plane for value in row) / (len(plane) * len(plane[0]))


def gem_by_loops(plane, p):
    values = [max(value, 1e-6) ** p for row in plane for value in row]
    return (sum(values) / len(values)) ** (1 / p)


def unit(values):
    length = math.sqrt(sum(value * value for value in values))
    return [value / length for value in values]


def rmac_by_loops(image, squares):
    total = [0.0] * len(image)
    for top, left, side in squares:
        maxima = [
            max(plane[row][column] for row in range(top, top + side) for column in range(left, left + side))
            for plane in image
        ]
        total = [before + value for before, value in zip(total, unit(maxima))]
    return total


def bilinear_by_loops(plane, scale):
    """Resampled as torch does with a given scale factor: centres of pixels, edges repeated."""
    height, width = len(plane), len(plane[0])
    rows, columns = int(height * scale), int(width * scale)

    def at(row, column):
        return plane[min(max(row, 0), height - 1)][min(max(column, 0), width - 1)]

    made = []
    for row in range(rows):
        y = max((row + 0.5) / scale - 0.5, 0.0)
        above, down = math.floor(y), y - math.floor(y)
        line = []
        for column in range(columns):
            x = max((column + 0.5) / scale - 0.5, 0.0)
            left, right = math.floor(x), x - math.floor(x)
            upper = at(above, left) * (1 - right) + at(above, left + 1) * right
            lower = at(above + 1, left) * (1 - right) + at(above + 1, left + 1) * right
            line.append(upper * (1 - down) + lower * down)
        made.append(line)
    return made


def test_poolings_are_those_of_loops():
    given = maps(2, 3, 5, 7)
    squares = [tuple(region) for region in pooling.regions(5, 7, levels=3)]
    for image, gap, gem, rmac in zip(
        given.double().tolist(),
        pooling.gap(given).tolist(),
        pooling.gem(given, p=3.5).tolist(),
        pooling.rmac(given, levels=3).tolist(),
    ):
        assert gap == pytest.approx([gap_by_loops(plane) for plane in image], rel=1e-5)
        assert gem == pytest.approx([gem_by_loops(plane, 3.5) for plane in image], rel=1e-5)
        assert rmac == pytest.approx(rmac_by_loops(image, squares), rel=1e-5)


def test_the_generalised_mean_lies_between_mean_and_maximum():
    given = maps(1, 2, 4, 4).abs()
    assert torch.allclose(pooling.gem(given, p=1.0), given.mean(dim=(2, 3)))
    assert torch.allclose(pooling.gem(given, p=60.0), given.amax(dim=(2, 3)), rtol=0.05)


def test_regions_of_a_square_by_hand():
    # Sides 6, 2 * 6 / 3 = 4 and 2 * 6 / 4 = 3; 1, 2 x 2 and 3 x 3 of them.
    found = [tuple(region) for region in pooling.regions(6, 6, levels=3)]
    by_fours = [(top, left, 4) for top in (0, 2) for left in (0, 2)]
    by_threes = [(top, left, 3) for top in (0, 1, 3) for left in (0, 1, 3)]
    assert found == [(0, 0, 6), *by_fours, *by_threes]


def test_regions_of_an_oblong_by_hand():
    # Two squares of 10 over 16 overlap by 4 of 10, which is the 40 % that are asked for.
    wide = [tuple(region) for region in pooling.regions(10, 16, levels=2)]
    sixes = [(top, left, 6) for top in (0, 4) for left in (0, 5, 10)]
    assert wide == [(0, 0, 10), (0, 6, 10), *sixes]
    tall = [tuple(region) for region in pooling.regions(16, 10, levels=2)]
    assert sorted(tall) == sorted((left, top, side) for top, left, side in wide)
    # Three over 20 overlap by half, two not at all: 50 % is nearer to 40 %.
    assert [region.left for region in pooling.regions(10, 20, levels=1)] == [0, 5, 10]
    # 2 x 1 / 3 is no pixel.
    assert [tuple(region) for region in pooling.regions(1, 1, levels=3)] == [(0, 0, 1)]


@pytest.mark.parametrize("per_scale_unit", [True, False])
@pytest.mark.parametrize("power", [1.0, 3.0])
def test_scales_are_joined_as_by_loops(per_scale_unit, power):
    given = maps(2, 3, 9, 12).abs()
    scales = (1.0, 1 / math.sqrt(2), 0.5)
    found = pooled(
        model(Passing(), channels=3),
        pooling="gem",
        p=2.0,
        scales=scales,
        per_scale_unit=per_scale_unit,
        scale_power=power,
    )
    for image, descriptor in zip(given.double().tolist(), found.network(given).tolist()):
        parts = []
        for scale in scales:
            seen = [plane if scale == 1 else bilinear_by_loops(plane, scale) for plane in image]
            part = [gem_by_loops(plane, 2.0) for plane in seen]
            parts.append(unit(part) if per_scale_unit else part)
        if power == 1:
            wanted = [sum(values) for values in zip(*parts)]
        else:
            wanted = [(sum(value**3 for value in values) / 3) ** (1 / 3) for values in zip(*parts)]
        assert descriptor == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("network", "channels", "width"),
    [
        (lambda: trunks.build(TrunkCard(architecture="small", channels=1)), 1, 256),
        (lambda: trunks.build(TrunkCard(architecture="resnet18")), 3, 512),
        # torchvision's, its classes still on it: the map has 512 channels whatever comes after.
        (lambda: resnet18(weights=None), 3, 512),
        # Each of its blocks has an average pooling too, of which none is the last.
        (lambda: efficientnet_b0(weights=None), 3, 1280),
    ],
)
def test_the_last_feature_map_of_trunks_is_found(network, channels, width):
    torch.manual_seed(0)
    trunk = network().eval()
    kept: list[torch.Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _given, out: kept.append(out.flatten(1)))
        for module in trunk.modules()
        if isinstance(module, nn.AdaptiveAvgPool2d)
    ]
    images = torch.randn(2, channels, 64, 48)
    with torch.inference_mode():
        trunk(images)
        for hook in hooks:
            hook.remove()
        found = pooled(model(trunk, channels=channels, side=32), pooling="gap", per_scale_unit=False)
        assert torch.allclose(found.network(images), kept[-1], atol=1e-6)
    assert found.feature_dim == width == kept[-1].shape[1]


def test_the_trunk_is_shared_and_left_as_it_is():
    trunk = trunks.build(TrunkCard(architecture="small", channels=1))
    trunk.train()
    given = model(trunk)
    trunk.train()
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    found = pooled(given, pooling="rmac")
    assert all(module.training for module in trunk.modules())
    found.network.eval()(torch.rand(2, 1, 20, 20))
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    assert not any(module._forward_pre_hooks for module in trunk.modules())
    assert found.network.trunk is trunk
    assert found.weights_sha256 == given.weights_sha256


def test_what_is_pooled_does_not_depend_on_the_batch():
    trunk = trunks.build(TrunkCard(architecture="small", channels=1)).eval()
    found = pooled(model(trunk), pooling="gem", scales=(1.0, 0.5)).network
    images = torch.rand(5, 1, 20, 24)
    with torch.inference_mode():
        together = found(images)
        alone = torch.cat([found(image[None]) for image in images])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-6)


def test_layers_of_different_descriptors_differ():
    given = model(Passing())
    options = [
        {"pooling": "gap"},
        {"pooling": "gem"},
        {"pooling": "gem", "p": 4.0},
        {"pooling": "rmac"},
        {"pooling": "rmac", "levels": 2},
        {"pooling": "gap", "scales": (1.0, 0.5)},
        {"pooling": "gap", "scales": (1.0, 0.25)},
        {"pooling": "gap", "per_scale_unit": False},
        {"pooling": "gap", "scales": (1.0, 0.5), "scale_power": 3.0},
    ]
    layers = [pooled(given, **chosen).layer for chosen in options]
    assert len({given.layer, *layers}) == len(options) + 1


def test_bfloat16_is_pooled_in_float32():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, images):
            return self.pool(images.bfloat16()).flatten(1).float()

    found = pooled(model(Half()), pooling="gem", p=3.0, per_scale_unit=False)
    images = torch.rand(1, 1, 6, 6)
    wanted = gem_by_loops(images.bfloat16().double()[0, 0].tolist(), 3.0)
    assert found.network(images).item() == pytest.approx(wanted, rel=1e-5)


def test_what_cannot_be_pooled_is_refused():
    with pytest.raises(UsageError, match="net has no feature map"):
        pooled(model(trunks.Pixels()), pooling="gap")
    with pytest.raises(UsageError, match="opened at 'projection'"):
        pooled(model(Passing(), layer="projection"), pooling="gap")
    for wrong, message in (
        ({"pooling": "gem", "p": 0.0}, "exponent"),
        ({"pooling": "rmac", "levels": 0}, "level"),
        ({"pooling": "gap", "scales": ()}, "scales"),
        ({"pooling": "gap", "scales": (1.0, -0.5)}, "scales"),
        ({"pooling": "gap", "scale_power": 0.0}, "over scales"),
    ):
        with pytest.raises(UsageError, match=message):
            pooled(model(Passing()), **wrong)

    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, images):
            return images.flatten(1)

    with pytest.raises(UsageError, match="does not use its pooling pool"):
        pooled(model(Unused()), pooling="gap")
    tiny = pooled(model(Passing()), pooling="gap", scales=(0.25,)).network
    with pytest.raises(UsageError, match="9 x 3 pixels is too small"):
        tiny(torch.rand(1, 1, 3, 9))


def test_it_runs_where_features_are_extracted():
    trunk = trunks.build(TrunkCard(architecture="small", channels=1))
    found = pooled(model(trunk), pooling="rmac", scales=(1.0, 0.5))
    from carp_eval.data.images import Batch

    batches = [Batch(torch.rand(3, 1, 16, 16), torch.arange(3))]
    (features, index), *_ = forward(found.network, batches, device=torch.device("cpu"))
    assert features.shape == (3, found.feature_dim)
    assert np.array_equal(index, [0, 1, 2])


def test_windows_are_the_means_of_parts_one_after_another():
    maps = torch.randn(2, 3, 7, 5, dtype=torch.float64)
    found = pooling.windows(maps, places=2)
    assert found.shape == (2, 12)
    for image in range(2):
        for feature in range(3):
            for down in range(2):
                for across in range(2):
                    part = [
                        maps[image, feature, row, column].item()
                        for row in range(down, down + 6)
                        for column in range(across, across + 4)
                    ]
                    expected = sum(part) / len(part)
                    assert found[image, 4 * feature + 2 * down + across].item() == pytest.approx(expected)
    assert torch.allclose(pooling.windows(maps, places=1), pooling.gap(maps))


def test_a_map_too_small_for_the_windows_is_refused():
    with pytest.raises(UsageError, match="no 3 windows"):
        pooling.windows(torch.zeros(1, 1, 2, 4), places=3)


def test_windows_have_a_width_and_a_layer_of_their_own():
    trunk = model(trunks.build(TrunkCard(architecture="small", channels=1)), side=32)
    wide = pooled(trunk, pooling="places", places=2, per_scale_unit=False)
    images = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        assert wide.network(images).shape == (2, wide.feature_dim)
        assert wide.feature_dim == 4 * trunk.network(images).shape[1]
    assert wide.layer != pooled(trunk, pooling="gap", per_scale_unit=False).layer
