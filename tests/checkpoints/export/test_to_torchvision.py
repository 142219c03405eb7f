import pytest
import safetensors
import safetensors.torch
import torch
import torchvision

from carp_eval.checkpoints.export.writing import export
from tests.checkpoints.export import scene


@pytest.fixture(scope="module")
def model():
    return scene.model()


def read(path):
    return (
        safetensors.torch.load_file(path)
        if path.suffix == ".safetensors"
        else torch.load(path, weights_only=True)
    )


@pytest.mark.parametrize("name", ["trunk.pth", "trunk.pt", "trunk.safetensors"])
def test_torchvision_misses_fc_alone_and_gives_the_features(tmp_path, model, name):
    written = export(model, "torchvision", tmp_path / name)
    network = torchvision.models.resnet18()
    outcome = network.load_state_dict(read(tmp_path / name), strict=False)
    assert outcome.missing_keys == ["fc.weight", "fc.bias"]
    assert outcome.unexpected_keys == []
    network.fc = torch.nn.Identity()
    with torch.inference_mode():
        assert (network.eval()(scene.images()) == scene.features(model, scene.images())).all()
    assert written.relative_difference == 0
    assert written.told["architecture"] == "resnet18"


def test_safetensors_say_of_what_they_are(tmp_path, model):
    export(model, "torchvision", tmp_path / "trunk.safetensors")
    with safetensors.safe_open(tmp_path / "trunk.safetensors", "pt") as file:
        told = file.metadata()
    assert told["weights_sha256"] == model.weights_sha256
    assert (told["mean"], told["std"], told["size"]) == ("0.485 0.456 0.406", "0.228 0.224 0.225", "32")


def test_half_precision_halves_the_file_and_loads_too(tmp_path, model):
    whole = export(model, "torchvision", tmp_path / "whole.pth")
    half = export(model, "torchvision", tmp_path / "half.pth", dtype="float16")
    assert half.bytes == pytest.approx(whole.bytes / 2, rel=0.01)
    assert 1e-5 < half.relative_difference < 1e-2
    state = read(tmp_path / "half.pth")
    assert {value.dtype for value in state.values()} == {torch.float16, torch.int64}
    network = torchvision.models.resnet18()
    network.load_state_dict(state, strict=False)
    network.fc = torch.nn.Identity()
    with torch.inference_mode():
        found = network.eval()(scene.images())
    assert 0 < scene.relative(found, scene.features(model, scene.images())) < 1e-2
