import json

import pytest
import safetensors.torch
import torch
from torchvision.models import ResNet18_Weights, resnet18

from carp_eval.cards.checkpoint import CheckpointCard
from carp_eval.checkpoints import opening
from carp_eval.checkpoints.publishing import folder as publishing
from carp_eval.checkpoints.zoo import storing
from carp_eval.errors import CheckpointError, HubError, UsageError
from tests import hub_server
from tests.checkpoints import pretend

TIMM = {
    "architecture": "resnet18",
    "num_classes": 0,
    "num_features": 512,
    "global_pool": "avg",
    "pretrained_cfg": {
        "input_size": [3, 128, 128],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "num_classes": 0,
        "first_conv": "conv1",
        "classifier": "fc",
    },
}


@pytest.fixture(scope="module")
def theirs():
    return pretend.trained(resnet18(weights=None))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    with hub_server.serving() as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def weights(network):
    return safetensors.torch.save(pretend.without_fc(network), metadata={"format": "pt"})


def check(model, network):
    expected = pretend.pooled(network, pretend.images())
    assert torch.equal(pretend.features(model.network, pretend.images()), expected)


def test_a_repository_is_opened_and_says_of_which_commit(hub, theirs):
    config = json.dumps(TIMM).encode()
    first = hub.add(
        "USER/NAME", {"config.json": config, "model.safetensors": weights(theirs), "large.bin": b"0" * 99}
    )
    model = opening.open_model("hf:USER/NAME")
    check(model, theirs)
    assert model.name == "hf:USER/NAME"
    assert any(first in note for note in model.notes)
    assert (model.input.native_size, model.input.mean) == (128, (0.1, 0.2, 0.3))
    # Only what the model needs was fetched.
    assert hub.count("GET .*large.bin") == 0
    other = pretend.trained(resnet18(weights=None), seed=5)
    second = hub.add("USER/NAME", {"model.safetensors": weights(other)})
    check(opening.open_model(f"hf:USER/NAME@{first}"), theirs)
    newer = opening.open_model("hf:USER/NAME")
    check(newer, other)
    assert any(second in note for note in newer.notes)


def test_what_was_opened_once_is_opened_offline(hub, theirs, monkeypatch):
    from huggingface_hub import constants

    hub.add("USER/NAME", {"config.json": json.dumps(TIMM).encode(), "model.safetensors": weights(theirs)})
    opening.open_model("hf:USER/NAME")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    check(opening.open_model("hf:USER/NAME"), theirs)
    assert len(hub.requests) == asked
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        opening.open_model("hf:USER/OTHER")


def test_only_weights_are_recognised(hub, theirs):
    hub.add("USER/NAME", {"README.md": b"x", "checkpoint.safetensors": weights(theirs)})
    model = opening.open_model("hf:USER/NAME")
    check(model, theirs)
    assert any("recognised" in note for note in model.notes)
    assert any("commit" in note for note in model.notes)
    hub.add("USER/NAME", {"another.safetensors": weights(theirs)})
    with pytest.raises(CheckpointError, match="several files of weights"):
        opening.open_model("hf:USER/NAME")


def test_a_repository_without_weights_or_none_at_all_is_said(hub, tmp_path):
    hub.add("USER/DATA", {"README.md": b"x"})
    with pytest.raises(CheckpointError, match="holds no weights"):
        opening.open_model("hf:USER/DATA")
    with pytest.raises(HubError, match="no such repository"):
        opening.open_model("hf:USER/NOTHING")
    with pytest.raises(UsageError, match="USER/NAME"):
        opening.open_model("hf:nothing")
    with pytest.raises(CheckpointError, match="there is no folder"):
        opening.open_model(f"hf:{tmp_path / 'nowhere'}")


def test_another_prefix_is_refused_not_loaded_as_random_weights(theirs, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TIMM))
    state = {f"encoder.{name}": value for name, value in pretend.without_fc(theirs).items()}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing: conv1\.weight"):
        opening.open_model(f"hf:{tmp_path}")


@pytest.fixture
def doors(theirs, tmp_path, monkeypatch):
    """The same weights behind every door that leads to them."""
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    file = tmp_path / "file.pth"
    torch.save(theirs.state_dict(), file)
    card = CheckpointCard.model_validate(
        {
            "version": 1,
            "summary": "a small one",
            "method": "CARP",
            "architecture": "resnet18",
            "feature_dim": 512,
            "weights": {"by_hand": "ask", "branches": {"single": {"drop": ["fc.*"]}}},
        }
    )
    storing.add("mine", card, file, source="file")
    kept = tmp_path / "torch" / "hub" / "checkpoints" / ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    kept.parent.mkdir(parents=True)
    kept.write_bytes(file.read_bytes())
    timm = tmp_path / "timm"
    timm.mkdir()
    (timm / "config.json").write_text(json.dumps(TIMM))
    (timm / "model.safetensors").write_bytes(weights(theirs))
    publishing.prepare(
        opening.open_model("mine"), tmp_path / "ours", name="USER/NAME", head=False, bank=None, results=(), pictures=(),
        licence="MIT",
    )  # fmt: skip
    return ["mine", str(file), "torchvision:resnet18", f"hf:{timm}", f"hf:{tmp_path / 'ours'}"]


def test_every_door_to_the_same_weights_gives_the_same_hash_and_features(doors, theirs):
    models = [opening.open_model(door) for door in doors]
    assert len({model.weights_sha256 for model in models}) == 1
    for model in models:
        check(model, theirs)


def test_a_folder_of_ours_says_what_the_model_is_and_must_hold_what_it_says(doors, tmp_path):
    model = opening.open_model(doors[-1])
    assert model.card is not None
    assert (model.card.method, model.dataset, model.branch) == ("CARP", "imagenet", "")
    other = pretend.trained(resnet18(weights=None), seed=3)
    (tmp_path / "ours" / "model.safetensors").write_bytes(weights(other))
    with pytest.raises(CheckpointError, match="holds other weights than"):
        opening.open_model(doors[-1])
