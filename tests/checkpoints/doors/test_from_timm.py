import json
import sys

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from timm.models._hub import save_for_hf

from carp_eval.checkpoints import opening
from carp_eval.errors import CheckpointError, UnknownNameError, UsageError
from carp_eval.models.model import weights_sha256
from tests.checkpoints import pretend


def saved(network, folder):
    save_for_hf(network, folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def vit():
    """A classifier of seven classes, of images of 32 px."""
    return pretend.trained(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=7))


@pytest.fixture(scope="module")
def resnet():
    return pretend.trained(timm.create_model("resnet18", num_classes=5))


@pytest.mark.parametrize("kind", ["hf:", "timm:local-dir:"])
def test_a_transformer_is_opened_without_its_classifier(vit, tmp_path, kind):
    folder = saved(vit, tmp_path / "vit")
    model = opening.open_model(f"{kind}{folder}")
    images = pretend.images(32)
    with torch.inference_mode():
        expected = vit.forward_features(images)[:, 0]
    torch.testing.assert_close(pretend.features(model.network, images), expected, rtol=0, atol=1e-6)
    assert (model.feature_dim, model.input.native_size) == (192, 32)
    assert (model.input.mean, model.input.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_plain_resnet_goes_through_our_own_trunk_and_has_the_hash_of_its_weights(
    resnet, tmp_path, monkeypatch
):
    folder = saved(resnet, tmp_path / "r")
    expected = pretend.pooled(resnet, pretend.images())
    # Not even needed for it.
    monkeypatch.setitem(sys.modules, "timm", None)
    model = opening.open_model(f"hf:{folder}")
    torch.testing.assert_close(pretend.features(model.network, pretend.images()), expected, rtol=0, atol=1e-5)
    assert isinstance(model.network, torchvision.models.ResNet)
    assert model.weights_sha256 == weights_sha256(pretend.without_fc(resnet))


def test_a_resnet_of_another_stem_is_not_taken_for_a_plain_one(tmp_path):
    deep = pretend.trained(timm.create_model("resnet18", stem_type="deep", stem_width=32, num_classes=5))
    folder = saved(deep, tmp_path / "deep")
    config = json.loads((folder / "config.json").read_text())
    config["model_args"] |= {"stem_type": "deep", "stem_width": 32}
    (folder / "config.json").write_text(json.dumps(config))
    model = opening.open_model(f"hf:{folder}")
    expected = pretend.pooled(deep, pretend.images())
    torch.testing.assert_close(pretend.features(model.network, pretend.images()), expected, rtol=0, atol=1e-5)


def test_the_same_weights_in_a_network_that_computes_otherwise_are_another_model(vit, tmp_path):
    token = opening.open_model(f"hf:{saved(vit, tmp_path / 'a')}")
    folder = saved(vit, tmp_path / "b")
    config = json.loads((folder / "config.json").read_text())
    config["model_args"]["act_layer"] = "relu"
    (folder / "config.json").write_text(json.dumps(config))
    assert opening.open_model(f"hf:{folder}").weights_sha256 != token.weights_sha256


def test_weights_that_do_not_fill_the_network_are_refused(resnet, vit, tmp_path):
    for network in (resnet, vit):
        folder = saved(network, tmp_path / type(network).__name__)
        state = safetensors.torch.load_file(folder / "model.safetensors")
        prefixed = {f"encoder.{name}": value for name, value in state.items()}
        safetensors.torch.save_file(prefixed, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"conv1\.weight|cannot open"):
            opening.open_model(f"hf:{folder}")


def test_entries_that_stay_random_though_timm_says_nothing_are_found(vit, tmp_path):
    folder = saved(vit, tmp_path / "v")
    config = json.loads((folder / "config.json").read_text())
    # timm drops the classifier of another number of classes, and then lets anything else be missing too.
    config["pretrained_cfg"]["num_classes"] = config["num_classes"] = 9
    (folder / "config.json").write_text(json.dumps(config))
    state = safetensors.torch.load_file(folder / "model.safetensors")
    del state["blocks.1.attn.qkv.weight"]
    safetensors.torch.save_file(state, folder / "model.safetensors")
    timm.create_model(f"local-dir:{folder}", pretrained=True)
    with pytest.raises(CheckpointError, match=r"stayed random.*blocks\.1\.attn\.qkv\.weight"):
        opening.open_model(f"hf:{folder}")


def test_what_cannot_be_had_is_said(monkeypatch):
    with pytest.raises(UsageError, match=r"Did you mean .*resnet50"):
        opening.open_model("timm:resnet505")
    with pytest.raises(UsageError, match="lists them"):
        opening.open_model("timm:zzzzzzzz")
    with pytest.raises(UnknownNameError, match="a1_in1k"):
        opening.open_model("timm:resnet50.a1_in1kk")
    with pytest.raises(UsageError, match="leave --branch out"):
        opening.open_model("timm:resnet50", branch="student")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"pip install 'carp-eval\[timm\]'"):
        opening.open_model("timm:resnet50")


def test_offline_and_never_fetched_says_what_to_do(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="Without the internet, name a folder"):
        opening.open_model("timm:resnet18.a1_in1k")
