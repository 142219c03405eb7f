import pytest
import torch
from torchvision.models import resnet18

from carp_eval.cards.checkpoint import CheckpointCard
from carp_eval.checkpoints import opening
from carp_eval.checkpoints.zoo import storing
from carp_eval.errors import CheckpointError, UsageError
from carp_eval.models.model import weights_sha256
from tests.checkpoints import pretend


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))


def card(branches):
    return CheckpointCard.model_validate(
        {
            "version": 1,
            "summary": "a small one",
            "method": "CARP",
            "architecture": "resnet18",
            "feature_dim": 512,
            "dataset": "tiny-imagenet",
            "input": {"native_size": 64, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)},
            "weights": {"by_hand": "ask", "branches": branches},
            "published_as": ("CARP small",),
        }
    )


def test_an_imported_model_is_opened_by_its_name_as_its_card_says(tmp_path):
    theirs = pretend.trained(resnet18(weights=None))
    torch.save({"x": theirs.state_dict()}, tmp_path / "file.pth")
    storing.add(
        "mine", card({"single": {"wrapper": ["x"], "drop": ["fc.*"]}}), tmp_path / "file.pth", source="file"
    )
    model = opening.open_model("mine")
    expected = pretend.pooled(theirs, pretend.images())
    assert torch.equal(pretend.features(model.network, pretend.images()), expected)
    assert (model.name, model.branch, model.dataset, model.folder) == ("mine", "", "tiny-imagenet", None)
    assert (model.input.native_size, model.input.mean, model.input.std) == (
        64,
        (0.1, 0.2, 0.3),
        (0.4, 0.5, 0.6),
    )
    assert model.names == {"mine", "CARP small"}
    assert model.card is not None
    assert model.card.method == "CARP"
    assert model.weights_sha256 == weights_sha256(pretend.without_fc(theirs))
    with pytest.raises(UsageError, match="leave --branch out"):
        opening.open_model("mine", branch="student")
    with pytest.raises(UsageError, match="no layer 'projection'"):
        opening.open_model("mine", layer="projection")


def test_both_branches_can_be_had(tmp_path):
    networks = {
        name: pretend.trained(resnet18(weights=None), seed=seed)
        for seed, name in enumerate(("teacher", "student"))
    }
    torch.save(
        {name: pretend.without_fc(network) for name, network in networks.items()}, tmp_path / "file.pth"
    )
    branches = {name: {"wrapper": [name]} for name in networks}
    storing.add("mine", card(branches), tmp_path / "file.pth", source="file")
    for branch, network in networks.items():
        model = opening.open_model("mine", branch=branch)
        assert model.branch == branch
        assert model.weights_sha256 == weights_sha256(pretend.without_fc(network))


def test_a_model_of_the_zoo_that_was_not_pulled_says_how_to():
    with pytest.raises(CheckpointError, match="carp pull carp-resnet50-400ep-mc"):
        opening.open_model("carp-resnet50-400ep-mc")


def test_a_name_of_the_zoo_wins_over_a_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "carp-resnet50-400ep-mc").mkdir()
    with pytest.raises(CheckpointError, match="carp pull"):
        opening.open_model("carp-resnet50-400ep-mc")
