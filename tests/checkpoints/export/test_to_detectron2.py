import pytest
import torch

from carp_eval.checkpoints.export import resnets, to_detectron2
from carp_eval.checkpoints.export.form import Settings
from carp_eval.checkpoints.export.writing import export
from carp_eval.errors import UsageError
from carp_eval.models import wide
from tests.checkpoints.export import detectron, scene


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_what_is_written_gives_its_features_in_detectron2s_networks(tmp_path, architecture):
    model = scene.model(architecture)
    export(model, "detectron2", tmp_path / "trunk.pth")
    # As detectron2 reads it: no code runs.
    content = torch.load(tmp_path / "trunk.pth", weights_only=True)
    assert content["matching_heuristics"] is True
    assert content["__author__"] == "carp-eval"
    assert content["told"]["weights_sha256"] == model.weights_sha256
    images = scene.images()
    for network in (detectron.C4(int(architecture[6:])), detectron.Fpn(int(architecture[6:]))):
        assert detectron.load(network, content["model"]) == set()
        with torch.inference_mode():
            assert scene.relative(network(images), scene.features(model, images)) < 1e-5


def test_names_are_those_of_detectron2():
    assert {
        name: to_detectron2.called(name)
        for name in (
            "conv1.weight",
            "bn1.running_var",
            "layer1.0.conv3.weight",
            "layer4.2.bn3.bias",
            "layer3.11.bn2.running_mean",
            "layer2.0.downsample.0.weight",
            "layer2.0.downsample.1.weight",
            "layer2.0.downsample.1.running_mean",
        )
    } == {
        "conv1.weight": "stem.conv1.weight",
        "bn1.running_var": "stem.conv1.norm.running_var",
        "layer1.0.conv3.weight": "res2.0.conv3.weight",
        "layer4.2.bn3.bias": "res5.2.conv3.norm.bias",
        "layer3.11.bn2.running_mean": "res4.11.conv2.norm.running_mean",
        "layer2.0.downsample.0.weight": "res3.0.shortcut.weight",
        "layer2.0.downsample.1.weight": "res3.0.shortcut.norm.weight",
        "layer2.0.downsample.1.running_mean": "res3.0.shortcut.norm.running_mean",
    }


def test_what_the_configuration_must_say_is_told(tmp_path):
    told = to_detectron2.write(scene.model(), Settings(32), tmp_path / "trunk.pth").loading
    for line in (
        f"WEIGHTS: {tmp_path}/trunk.pth",
        "PIXEL_MEAN: [123.675, 116.28, 103.53]",
        "PIXEL_STD: [58.14, 57.12, 57.375]",
        "DEPTH: 18",
        "STRIDE_IN_1X1: False",
        "RES2_OUT_CHANNELS: 64",
        "FORMAT: RGB",
    ):
        assert line in told


@pytest.fixture
def slim(monkeypatch):
    """A ResNet-50 of twice the channels, where the usual number is four: wide networks take long to make."""
    monkeypatch.setattr(wide, "STEM", 4)
    resnets._known.cache_clear()
    yield scene.of(scene.shaken(wide.WideResNet50(2)), name="slim")
    resnets._known.cache_clear()


def test_a_wide_trunk_is_told_by_its_widths_and_refused_where_none_is_known(tmp_path, slim):
    written = export(slim, "detectron2", tmp_path / "trunk.pth")
    assert "STEM_OUT_CHANNELS: 8\n    WIDTH_PER_GROUP: 8\n    RES2_OUT_CHANNELS: 32" in written.loading
    assert written.told["architecture"] == "resnet50w2"
    network = detectron.C4(50, stem=8)
    detectron.load(network, torch.load(tmp_path / "trunk.pth", weights_only=True)["model"])
    with torch.inference_mode():
        assert scene.relative(network(scene.images()), scene.features(slim, scene.images())) < 1e-5
    for target in ("torchvision", "timm"):
        with pytest.raises(
            UsageError, match=rf"{target} has no ResNet-50 whose every channel is 2 times as wide"
        ):
            export(slim, target, tmp_path / "other.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["trunk.pth"]
