import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from carp_eval.checkpoints import assembling, probe
from carp_eval.data.images import ModelInput
from carp_eval.errors import CheckpointError
from carp_eval.models import trunks
from tests.checkpoints import formats

INPUT = ModelInput(native_size=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


def trunk(state=None):
    made = resnet18(weights=None)
    made.fc = nn.Identity()
    made.load_state_dict(state or formats.trunk())
    return made


def test_a_trunk_that_has_seen_images_passes_and_stays_as_it_was():
    made = trunk().train()
    probe.check(made, INPUT, where="x")
    assert made.training
    assert all(torch.equal(value, formats.trunk()[name]) for name, value in made.state_dict().items())


def test_the_probe_is_the_same_each_time_and_its_images_differ():
    first, second = probe.features(trunk(), INPUT), probe.features(trunk(), INPUT)
    assert torch.equal(first, second)
    assert first.unique(dim=0).shape == first.shape


def test_weights_as_they_were_initialised_are_refused():
    fresh = resnet18(weights=None)
    with pytest.raises(CheckpointError, match=r"file\.pth was never trained.*--allow-untrained"):
        probe.check(fresh, INPUT, where="file.pth")
    probe.check(fresh, INPUT, where="file.pth", untrained=True)
    # One layer that has seen an image is enough.
    fresh.bn1.running_mean[0] = 0.1
    probe.check(fresh, INPUT, where="file.pth")


def test_features_that_did_not_move_are_refused():
    made = trunk()
    before = probe.features(made, INPUT)
    with pytest.raises(CheckpointError, match="those of a random initialisation"):
        probe.check(made, INPUT, where="x", before=before)
    probe.check(trunk(formats.follower()), INPUT, where="x", before=before)


def test_a_file_of_a_trunk_as_this_package_draws_it_is_refused():
    state = trunks.released("resnet18").state_dict()
    # Not what training begins with, and too little to change a feature.
    state["layer4.1.bn2.running_mean"][0] = 1e-9
    with pytest.raises(CheckpointError, match="those of a random initialisation"):
        assembling.filled("resnet18", state, model_input=INPUT, where="x")
    assembling.filled("resnet18", state, model_input=INPUT, where="x", untrained=True)
    network = assembling.filled("resnet18", formats.trunk(), model_input=INPUT, where="x").eval()
    assert torch.equal(probe.features(network, INPUT), probe.features(trunk(), INPUT))


@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_refused(damage):
    state = {name: value.clone() for name, value in formats.trunk().items()}
    state["layer4.1.bn2.bias"][3] = damage
    with pytest.raises(CheckpointError, match="not finite"):
        probe.check(trunk(state), INPUT, where="x")


def test_features_that_are_the_same_for_all_images_are_refused():
    state = {name: value.clone() for name, value in formats.trunk().items()}
    state["conv1.weight"].zero_()
    with pytest.raises(CheckpointError, match="the same for every image"):
        probe.check(trunk(state), INPUT, where="x")


def test_a_network_without_batchnorm_passes():
    probe.check(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5)), INPUT, where="x")


def test_each_entry_is_held_against_the_file_to_the_bit():
    state = formats.trunk()
    probe.check_filled(trunk(), state, where="x")
    nearly = state | {"bn1.bias": state["bn1.bias"] + 1e-7}
    with pytest.raises(CheckpointError, match=r"bn1\.bias is not in the network as it is in the file"):
        probe.check_filled(trunk(), nearly, where="x")
    with_nan = {name: value.clone() for name, value in state.items()}
    with_nan["bn1.bias"][0] = float("nan")
    probe.check_filled(trunk(with_nan), with_nan, where="x")
