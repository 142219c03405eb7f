import pytest
import torch
from torchvision.models import get_model, resnet18, resnet50

from carp_eval.cards.recipe import TrunkCard
from carp_eval.models import trunks
from carp_eval.models.wide import WideResNet50


@pytest.mark.parametrize(
    ("name", "make", "width"), [("resnet18", resnet18, 512), ("resnet50", resnet50, 2048)]
)
def test_a_resnet_bears_torchvisions_names_and_gives_its_pooled_features(name, make, width):
    torch.manual_seed(0)
    trunk = trunks.build(TrunkCard(architecture=name)).eval()
    theirs = make(weights=None).eval()
    known = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    assert list(trunk.state_dict()) == list(known)
    if name == "resnet50":
        assert len(known) == 318
    trunk.load_state_dict(known)
    theirs.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(trunk(images), theirs(images))
    assert trunks.feature_dim(trunk) == width


def test_the_small_stem_keeps_small_images_large():
    trunk = trunks.build(TrunkCard(architecture="resnet18", stem="small"))
    images = torch.randn(2, 3, 32, 32)
    assert trunk.maxpool(trunk.conv1(images)).shape == (2, 64, 32, 32)
    assert trunk(images).shape == (2, 512)


@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_grey_images_fit(stem):
    trunk = trunks.build(TrunkCard(architecture="resnet18", stem=stem, channels=1))
    assert trunk(torch.randn(2, 1, 32, 32)).shape == (2, 512)


def test_residual_branches_start_at_zero_where_the_card_says_so():
    for zero in (True, False):
        trunk = trunks.build(TrunkCard(architecture="resnet50", zero_init_residual=zero))
        assert bool((trunk.layer1[0].bn3.weight == 0).all()) is zero


def test_pixels_are_their_own_features():
    images = torch.arange(24.0).view(2, 3, 2, 2)
    assert trunks.Pixels()(images).tolist() == images.view(2, 12).tolist()


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_a_released_trunk_is_torchvisions_network_without_its_classifier(name):
    theirs = get_model(name, weights=None).eval()
    known = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    trunk = trunks.released(name).eval()
    assert list(trunk.state_dict()) == list(known)
    trunk.load_state_dict(known)
    width = theirs.fc.in_features
    theirs.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(trunk(images), theirs(images))
    assert trunks.feature_dim(trunk) == width


# Parameters in millions, as SwAV's authors tell them of their RN50-w2, -w4 and -w5.
@pytest.mark.parametrize(("factor", "millions"), [(2, 94), (4, 375), (5, 586)])
def test_a_wide_trunk_has_every_channel_as_many_times(factor, millions):
    with torch.device("meta"):
        trunk = trunks.released(f"resnet50w{factor}")
        narrow = resnet50(weights=None)
    assert trunks.feature_dim(trunk) == 2048 * factor
    wide = {name: tuple(value.shape) for name, value in trunk.state_dict().items()}
    expected = {}
    for name, value in narrow.state_dict().items():
        if name.startswith("fc."):
            continue
        shape = list(value.shape)
        for axis in range(min(len(shape), 2)):
            # The three colours that the first convolution takes are what they are.
            shape[axis] *= 1 if (name, axis) == ("conv1.weight", 1) else factor
        expected[name] = tuple(shape)
    assert wide == expected
    assert round(sum(entry.numel() for entry in trunk.parameters()) / 1e6) == millions


def test_a_wide_trunk_of_factor_one_computes_what_torchvisions_does():
    theirs = resnet50(weights=None).eval()
    known = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    trunk = WideResNet50(1).eval()
    trunk.load_state_dict(known)
    theirs.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(trunk(images), theirs(images))


@pytest.mark.parametrize("factor", [2, 4, 5])
def test_a_wide_trunk_of_a_recipe_is_the_released_one(factor):
    name = f"resnet50w{factor}"
    with torch.device("meta"):
        ours, theirs = trunks.build(TrunkCard(architecture=name)), trunks.released(name)
    assert trunks.feature_dim(ours) == 2048 * factor
    shapes = [{key: value.shape for key, value in trunk.state_dict().items()} for trunk in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_a_wide_trunk_of_a_recipe_has_its_stem_its_channels_and_its_start(monkeypatch):
    monkeypatch.setattr("carp_eval.models.wide.STEM", 2)
    for zero in (True, False):
        card = TrunkCard(architecture="resnet50w2", stem="small", channels=1, zero_init_residual=zero)
        trunk = trunks.build(card)
        assert bool((trunk.layer3[5].bn3.weight == 0).all()) is zero
        assert bool((trunk.layer3[5].bn2.weight == 1).all())
        images = torch.randn(2, 1, 16, 16)
        assert trunk.maxpool(trunk.conv1(images)).shape == (2, 4, 16, 16)
        assert trunk(images).shape == (2, 2 * 2 * 8 * 4)


def test_a_released_trunks_weights_depend_on_the_seed_alone():
    before = torch.random.get_rng_state()
    first, same, other = (trunks.released("resnet18", seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_a_trunk_to_be_filled_is_the_released_one_once_it_is():
    released = trunks.released("resnet18").eval()
    before = torch.random.get_rng_state()
    trunk = trunks.unfilled("resnet18").eval()
    assert torch.equal(torch.random.get_rng_state(), before)
    trunk.load_state_dict(released.state_dict())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(trunk(images), released(images))
    assert trunks.feature_dim(trunk) == trunks.feature_dim(released)
