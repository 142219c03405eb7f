import pytest
import torch
from torchvision.models import resnet18, resnet50

from carp_eval.cards.recipe import TrunkCard
from carp_eval.models import trunks


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
