import pytest
import torch
import torch.nn.functional as F

from carp_eval.models.small import SmallTrunk


@pytest.mark.parametrize(("channels", "feature_dim", "side"), [(1, 256, 28), (3, 32, 32), (1, 8, 9)])
def test_features_are_the_layers_written_out_one_by_one(channels, feature_dim, side):
    torch.manual_seed(0)
    trunk = SmallTrunk(channels, feature_dim)
    state = trunk.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            value.copy_(
                torch.rand_like(value) + 0.5 if "running_var" in name else torch.randn_like(value) * 0.3
            )
    images = torch.randn(5, channels, side, side)

    x = images.double()
    for layer, stride in ((0, 2), (3, 1), (6, 2), (9, 1)):
        convolution, norm = f"{layer}.", f"{layer + 1}."
        x = F.conv2d(x, state[convolution + "weight"].double(), stride=stride, padding=1)
        mean, var, gain, bias = (
            state[norm + name].double()[:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = ((x - mean) / (var + 1e-5).sqrt() * gain + bias).clamp(min=0)
    expected = x.mean(dim=(2, 3))

    with torch.inference_mode():
        features = trunk.eval()(images)
    assert features.shape == (5, feature_dim)
    assert trunk.feature_dim == feature_dim
    torch.testing.assert_close(features.double(), expected, rtol=1e-4, atol=1e-5)


def test_every_parameter_learns():
    torch.manual_seed(0)
    trunk = SmallTrunk(1)
    trunk(torch.randn(8, 1, 28, 28)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in trunk.parameters())


def test_a_shifted_shape_keeps_its_features():
    torch.manual_seed(0)
    trunk = SmallTrunk(1).eval()
    image = torch.zeros(1, 1, 48, 48)
    image[..., 16:24, 16:24] = torch.rand(8, 8)
    with torch.inference_mode():
        # Four pixels are one step of the last map.
        here, there = trunk(image), trunk(image.roll((4, 8), dims=(2, 3)))
    torch.testing.assert_close(here, there)
