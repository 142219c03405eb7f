import pytest
import torch
from torch import nn

from carp_eval.checkpoints import opening
from carp_eval.errors import UsageError


class Mean(nn.Module):
    """The mean of each channel, times something learnt."""

    def __init__(self, activation=None):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.activation = activation or nn.Identity()

    def forward(self, images):
        return self.activation(self.norm(images).mean(dim=(2, 3)) * self.scale)


class Doubled(Mean):
    def forward(self, images):
        return 2 * super().forward(images)


def network(give):
    class Gives(nn.Module):
        def forward(self, images):
            return give(images)

    return Gives()


def test_a_network_becomes_a_model_and_stays_as_it_was():
    module = Mean().train()
    images = torch.randn(4, 3, 32, 32)
    model = opening.wrap(
        module, name="mine", native_size=32, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0), dataset="digits"
    )
    assert (model.name, model.feature_dim, model.layer, model.dataset) == ("mine", 3, "pool", "digits")
    assert (model.input.native_size, model.input.mean, model.input.std) == (32, (0.5,) * 3, (1.0,) * 3)
    expected = images.mean(dim=(2, 3)) * torch.tensor([1.0, 2.0, 3.0]) / (1 + module.norm.eps) ** 0.5
    torch.testing.assert_close(model.network(images), expected)
    assert module.training
    assert module.scale.requires_grad
    assert not model.network.training
    assert not any(entry.requires_grad for entry in model.network.parameters())
    with torch.no_grad():
        module.scale.fill_(7)
    torch.testing.assert_close(model.network(images), expected)


def test_whatever_gives_other_features_is_another_model():
    first = opening.wrap(Mean(), name="a", native_size=8)
    assert opening.wrap(Mean(), name="another name", native_size=8).weights_sha256 == first.weights_sha256
    other = Mean()
    with torch.no_grad():
        other.scale[0] = 1.5
    # The same entries as the first, each of them.
    for module in (other, Mean(nn.ReLU()), Doubled()):
        assert opening.wrap(module, name="a", native_size=8).weights_sha256 != first.weights_sha256


@pytest.mark.parametrize(
    ("give", "told"),
    [
        (lambda images: images, r"shape \(2, 3, 8, 8\)"),
        (lambda images: {"features": images}, "gives a dict"),
        (lambda images: images.mean(dim=(1, 2, 3)), r"shape \(2,\)"),
        (lambda images: images.flatten(1).long(), "torch.int64"),
        (lambda images: images.flatten(1)[:1], r"shape \(1, 192\)"),
        (lambda images: images @ torch.zeros(5, 5), "does not take images"),
    ],
)
def test_what_gives_no_features_is_refused(give, told):
    with pytest.raises(UsageError, match=told):
        opening.wrap(network(give), name="mine", native_size=8)


def test_what_is_said_of_the_input_must_fit():
    with pytest.raises(UsageError, match="1 or 3 channels"):
        opening.wrap(Mean(), name="mine", mean=(0.5,), std=(1.0, 1.0, 1.0))
    with pytest.raises(UsageError, match="does not take images"):
        opening.wrap(Mean(), name="mine", mean=(0.5,), std=(1.0,))
    with pytest.raises(UsageError, match="width 3; feature_dim says 4"):
        opening.wrap(Mean(), name="mine", native_size=8, feature_dim=4)
