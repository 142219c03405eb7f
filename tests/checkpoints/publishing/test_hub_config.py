import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from carp_eval.checkpoints.publishing import folder, hub_config, shape
from carp_eval.errors import CardError, CheckpointError
from carp_eval.models.small import SmallTrunk
from tests.checkpoints.publishing import scene

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

FEW = {"head": False, "bank": None, "results": [], "pictures": [], "licence": "mit"}
READABLE = {
    "resnet18": {"architecture": "resnet18"},
    "resnet50": {"architecture": "resnet50"},
    "one channel": {"architecture": "resnet18", "channels": 1},
}
OWN = ("resnet18 with a small stem", "the small network")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Give a model and its folder for the Hub; each is made once."""
    made = {}

    def of(name):
        if name not in made:
            if name in READABLE:
                channels = READABLE[name].get("channels", 3)
                model = scene.model(scene.resnet(**READABLE[name]), channels=channels)
            elif name == OWN[0]:
                model = scene.model(scene.resnet(stem="small"))
            else:
                model = scene.model(scene.moved(SmallTrunk(1), channels=1), channels=1)
            # A name that transformers would take for a hint, if it had nothing better.
            into = tmp_path_factory.mktemp("user") / "my-resnet-50"
            folder.prepare(model, into, name="user/my-resnet-50", **FEW)
            made[name] = model, into
        return made[name]

    return of


@pytest.mark.parametrize("name", READABLE)
def test_timm_gives_the_same_features(name, published):
    model, into = published(name)
    network = timm.create_model(f"local-dir:{into}", pretrained=True).eval()
    channels = model.input.channels
    expected = scene.features(model)
    with torch.inference_mode():
        ours = network(scene.images(channels))
    assert expected.std() > 0.1
    assert (ours - expected).abs().max() < 1e-5
    config = timm.data.resolve_model_data_config(network)
    assert tuple(config["input_size"]) == (channels, scene.SIDE, scene.SIDE)
    assert tuple(config["mean"]) == scene.MEAN[:channels]
    assert tuple(config["std"]) == scene.STD[:channels]
    assert config["crop_pct"] == 1.0


@pytest.mark.parametrize("name", READABLE)
def test_transformers_gives_the_same_features(name, published):
    model, into = published(name)
    network, info = transformers.AutoModel.from_pretrained(str(into), output_loading_info=True)
    for trouble in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info.get(trouble), trouble
    with torch.inference_mode():
        ours = network.eval()(scene.images(model.input.channels)).pooler_output
    assert (ours - scene.features(model)).abs().max() < 1e-5


def test_the_image_processor_of_transformers_does_as_the_model_wants(published):
    _, into = published("resnet18")
    processor = transformers.AutoImageProcessor.from_pretrained(str(into))
    image = Image.new("RGB", (scene.SIDE, scene.SIDE), (51, 102, 204))
    pixels = np.asarray(processor(image, return_tensors="pt")["pixel_values"])
    wanted = (np.array([0.2, 0.4, 0.8]) - scene.MEAN) / scene.STD
    assert pixels.shape == (1, 3, scene.SIDE, scene.SIDE)
    assert np.abs(pixels - wanted[None, :, None, None]).max() < 1e-5


@pytest.mark.parametrize("name", OWN)
def test_what_timm_and_transformers_cannot_build_they_refuse_aloud(name, published):
    _, into = published(name)
    config = json.loads((into / "config.json").read_text())
    assert not {"architecture", "pretrained_cfg", "model_args"} & set(config)
    with pytest.raises((KeyError, ValueError, RuntimeError)):
        timm.create_model(f"local-dir:{into}", pretrained=True)
    with pytest.raises((ValueError, KeyError, OSError)):
        transformers.AutoModel.from_pretrained(str(into))


@pytest.mark.parametrize("name", [*READABLE, *OWN])
def test_what_is_said_of_a_model_builds_it_again(name, published):
    from safetensors.torch import load_file

    model, into = published(name)
    record = hub_config.read(into)
    built = record.trunk.build().eval()
    built.load_state_dict(load_file(into / "model.safetensors"), strict=True)
    with torch.inference_mode():
        again = built(scene.images(model.input.channels))
    assert torch.equal(again, scene.features(model))
    assert record.weights_sha256 == model.weights_sha256
    assert (record.input.mean, record.input.std) == (model.input.mean, model.input.std)
    assert record.input.native_size == scene.SIDE
    assert (record.layer, record.feature_dim) == ("pool", model.feature_dim)


def record(**trunk):
    content = {
        "package_version": "1",
        "name": "a/b",
        "trunk": trunk,
        "feature_dim": 2048,
        "weights_sha256": "0",
    }
    return hub_config.HubRecord.model_validate(content | {"input": {}, "method": "SwAV"})


def test_every_trunk_is_told_from_the_others_by_its_entries():
    entries = {}
    for known in shape.known():
        with torch.device("meta"):
            state = known.build().state_dict()
        told = tuple((name, tuple(tensor.shape)) for name, tensor in state.items())
        assert entries.setdefault(told, known) == known
    assert len(entries) == 24


def test_wide_networks_are_not_given_to_timm_as_its_own():
    # timm has a wide_resnet50_2 too, which is wider in the middle of its blocks alone.
    assert set(hub_config.config(record(architecture="resnet50w2"))) == {"model_type", "carp"}


def test_a_large_model_is_cropped_as_the_field_crops():
    ours = hub_config.config(record(architecture="resnet50"))["pretrained_cfg"]
    assert (ours["crop_pct"], ours["pool_size"], ours["input_size"]) == (0.875, [7, 7], [3, 224, 224])
    assert ours["tag"] == "swav"


def test_weights_are_those_of_torchvision_without_a_classifier(published):
    from safetensors import safe_open

    _, into = published("resnet50")
    with safe_open(into / "model.safetensors", framework="np") as file:
        names = set(file.keys())
    assert len(names) == 318
    wanted = set(scene.resnet50().state_dict())
    assert names == {name for name in wanted if not name.startswith("fc.")}
    assert not list(into.glob("*index*"))


def test_a_config_that_is_not_ours_or_is_damaged(tmp_path, published):
    _, into = published("resnet18")
    content = json.loads((into / "config.json").read_text())

    def said(changed):
        (tmp_path / "config.json").write_text(changed if isinstance(changed, str) else json.dumps(changed))
        return hub_config.read(tmp_path)

    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        hub_config.read(tmp_path)
    assert said({"architecture": "resnet18"}) is None
    with pytest.raises(CheckpointError, match="in version 2"):
        said(content | {"carp": content["carp"] | {"version": 2}})
    with pytest.raises(CheckpointError, match="in version None"):
        said({"carp": ["a"]})
    with pytest.raises(CardError, match="architecture"):
        said(content | {"carp": content["carp"] | {"trunk": {"architecture": "vgg"}}})
    with pytest.raises(CardError, match="JSON"):
        said("{")


def test_networks_that_nobody_could_build_again_are_refused(tmp_path):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, images):
            return self.layer(images).mean(dim=(2, 3))

    with pytest.raises(CheckpointError, match="its 2 entries are not those of"):
        folder.prepare(scene.model(Other()), tmp_path / "out", name="a/b", **FEW)
    # The entries of a ResNet-18, and something else done with them.
    trunk = scene.resnet()
    trunk.maxpool = nn.Identity()
    with pytest.raises(CheckpointError, match="gives other features than that trunk"):
        folder.prepare(scene.model(trunk), tmp_path / "out", name="a/b", **FEW)
    assert not (tmp_path / "out").exists()
