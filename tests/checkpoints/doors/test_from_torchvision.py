import pickle

import pytest
import torch
import torchvision
from torch import nn

from carp_eval.checkpoints import opening
from carp_eval.checkpoints.doors.from_torchvision import cut_classifier
from carp_eval.data.images import ModelInput
from carp_eval.errors import CheckpointError, UnknownNameError, UsageError
from tests.checkpoints import pretend

SMALL = ModelInput(native_size=64, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    """Where torch keeps what it fetched; a file there is not fetched again."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def put(folder, network, weights):
    torch.save(network.state_dict(), folder / weights.url.rpartition("/")[2])


def test_a_resnet_is_opened_at_its_pooled_features_with_the_input_its_weights_tell(torch_home):
    theirs = pretend.trained(torchvision.models.resnet18(weights=None))
    put(torch_home, theirs, torchvision.models.ResNet18_Weights.IMAGENET1K_V1)
    model = opening.open_model("torchvision:resnet18")
    assert torch.equal(
        pretend.features(model.network, pretend.images()), pretend.pooled(theirs, pretend.images())
    )
    assert (model.name, model.branch, model.feature_dim, model.folder) == (
        "torchvision:resnet18",
        "",
        512,
        None,
    )
    assert model.dataset == "imagenet"
    assert (model.input.native_size, model.input.mean, model.input.std) == (
        224,
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    )
    assert "ResNet18_Weights.IMAGENET1K_V1" in model.notes[0]
    assert not any(entry.requires_grad for entry in model.network.parameters())


def test_weights_are_chosen_by_name(torch_home):
    first, second = (
        pretend.trained(torchvision.models.mobilenet_v2(weights=None), seed=seed) for seed in (1, 2)
    )
    put(torch_home, first, torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1)
    put(torch_home, second, torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V2)
    newest = opening.open_model("torchvision:mobilenet_v2")
    older = opening.open_model("torchvision:mobilenet_v2/IMAGENET1K_V1")
    for model, theirs in ((older, first), (newest, second)):
        expected = theirs.features(pretend.images()).mean(dim=(2, 3))
        torch.testing.assert_close(pretend.features(model.network, pretend.images()), expected)
    assert older.weights_sha256 != newest.weights_sha256
    assert any("classifier.1" in note for note in newest.notes)


@pytest.mark.parametrize(
    ("name", "place", "expected"),
    [
        ("densenet121", "classifier", lambda n, x: n.features(x).relu().mean(dim=(2, 3))),
        ("shufflenet_v2_x0_5", "fc", lambda n, x: n.conv5(
            n.stage4(n.stage3(n.stage2(n.maxpool(n.conv1(x)))))).mean(dim=(2, 3))),
        ("regnet_y_400mf", "fc", lambda n, x: n.trunk_output(n.stem(x)).mean(dim=(2, 3))),
        ("convnext_tiny", "classifier.2", lambda n, x: n.classifier[:2](n.avgpool(n.features(x)))),
        ("efficientnet_b0", "classifier.1", lambda n, x: n.features(x).mean(dim=(2, 3))),
        ("swin_t", "head", lambda n, x: n.norm(n.features(x)).mean(dim=(1, 2))),
    ],
)  # fmt: skip
def test_a_classifier_is_cut_before_its_last_layer(name, place, expected):
    network = torchvision.models.get_model(name, weights=None).eval()
    with torch.inference_mode():
        features = expected(network, pretend.images())
    assert cut_classifier(network, SMALL, classes=1000, name=name) == place
    torch.testing.assert_close(pretend.features(network, pretend.images()), features)


def test_where_no_last_layer_can_be_told_nothing_is_guessed():
    squeezenet = torchvision.models.squeezenet1_0(weights=None)
    with pytest.raises(UsageError, match="no linear layer of 1000 classes"):
        cut_classifier(squeezenet, SMALL, classes=1000, name="squeezenet")
    after = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10), nn.Softmax(dim=1))
    with pytest.raises(UsageError, match=r"something with the scores of 2"):
        cut_classifier(after, SMALL, classes=10, name="after")


def test_what_torchvision_lacks_is_said():
    with pytest.raises(UnknownNameError, match="Did you mean resnet50"):
        opening.open_model("torchvision:resnet500")
    with pytest.raises(UnknownNameError, match="IMAGENET1K_V2"):
        opening.open_model("torchvision:resnet50/IMAGENET1K_V3")
    with pytest.raises(UsageError, match="leave --branch out"):
        opening.open_model("torchvision:resnet50", branch="student")
    with pytest.raises(UsageError, match="no layer 'projection'"):
        opening.open_model("torchvision:resnet50", layer="projection")


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_kept_file_does_not_run(torch_home, tmp_path):
    weights = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1
    (torch_home / weights.url.rpartition("/")[2]).write_bytes(pickle.dumps({"x": Hostile(tmp_path / "ran")}))
    with pytest.raises(CheckpointError):
        opening.open_model("torchvision:mobilenet_v2/IMAGENET1K_V1")
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_network_are_refused(torch_home):
    put(
        torch_home,
        torchvision.models.resnet18(weights=None),
        torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1,
    )
    with pytest.raises(CheckpointError, match="does not fit torchvision's mobilenet_v2"):
        opening.open_model("torchvision:mobilenet_v2/IMAGENET1K_V1")


def test_weights_that_cannot_be_fetched_are_told_with_their_address(torch_home, monkeypatch):
    from carp_eval.checkpoints.doors import from_torchvision

    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    # Nobody listens on this port.
    with pytest.raises(CheckpointError, match=r"fetch http://127\.0\.0\.1:9/resnet18-f37072fd\.pth by hand"):
        from_torchvision._file(
            weights.url.replace("https://download.pytorch.org/models", "http://127.0.0.1:9"), name="x"
        )
    assert not list(torch_home.iterdir())
