import pytest
import torch
from torch import nn
from torchvision.models import resnet34, resnet50

from carp_eval.checkpoints import entries
from carp_eval.checkpoints.recognising import recognise
from carp_eval.errors import CheckpointError
from tests.checkpoints import formats


@pytest.mark.parametrize("name", formats.every())
def test_every_format_gives_back_its_trunks_to_the_bit(name):
    content, trunks, called = formats.every()[name]
    found = recognise.recognise(content, where="file.pth")
    assert found.architecture == "resnet18"
    assert found.branches.keys() == trunks.keys()
    assert called in found.format
    for branch, trunk in trunks.items():
        state = entries.select(content, found.branches[branch], where="file.pth")
        assert state.keys() == trunk.keys()
        counted = not name.startswith("old")
        assert all(
            torch.equal(state[entry], trunk[entry]) for entry in trunk if counted or "tracked" not in entry
        )
    assert found.describe().startswith(found.format)


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("MoCo v2", {"fc.* (1)", "encoder_k.* (121)", "queue (1)", "queue_ptr (1)"}),
        ("SwAV", {"projection_head.* (1)", "prototypes.* (1)"}),
        ("torchvision", {"fc.* (2)"}),
        ("MoCo v3", {"fc.* (1)", "predictor.* (1)"}),
        ("DINO", set()),
    ],
)
def test_what_is_left_out_is_told(name, dropped):
    found = recognise.recognise(formats.every()[name][0], where="x")
    assert set(found.dropped) == dropped
    assert all(part in found.describe() for part in dropped)


@pytest.mark.parametrize(
    ("name", "first"), [("CARP, or DINO whole", "teacher"), ("MoCo v3", "student"), ("solo-learn", "student")]
)
def test_the_network_that_the_authors_judge_comes_first(name, first):
    assert next(iter(recognise.recognise(formats.every()[name][0], where="x").branches)) == first


def test_both_encoders_are_found_where_one_is_asked_for():
    content = formats.every()["MoCo v2"][0]
    found = recognise.recognise(content, where="x", branch="teacher")
    state = entries.select(content, found.branches["teacher"], where="x")
    assert torch.equal(state["conv1.weight"], formats.follower()["conv1.weight"])


@pytest.mark.parametrize(("make", "architecture"), [(resnet34, "resnet34"), (resnet50, "resnet50")])
def test_depth_is_told_from_the_blocks(make, architecture):
    with torch.device("meta"):
        state = make(weights=None).state_dict()
    assert recognise.recognise(state, where="x").architecture == architecture


def test_width_is_told_from_the_channels():
    with torch.device("meta"):
        narrow = resnet50(weights=None).state_dict()
        state = {}
        for name, value in narrow.items():
            sides = [2 * side if number < 2 else side for number, side in enumerate(value.shape)]
            if name == "conv1.weight":
                sides[1] = 3
            state[name] = torch.empty(sides)
    assert recognise.recognise(state, where="x").architecture == "resnet50w2"


def test_several_trunks_are_listed_with_how_to_say_which():
    content = {"a": formats.under("x."), "b": formats.under("y.", formats.follower())}
    with pytest.raises(CheckpointError) as caught:
        recognise.recognise(content, where="file.pth")
    assert "--wrapper a --strip x." in str(caught.value)
    assert "--wrapper b --strip y." in str(caught.value)


def test_one_trunk_under_two_names_is_one():
    trunk = formats.trunk()
    assert recognise.recognise({"model": trunk, "state_dict": trunk}, where="x").branches.keys() == {"single"}


def test_what_nearly_is_a_trunk_is_told_with_what_is_wrong():
    state = formats.under("net.")
    del state["net.layer1.0.conv1.weight"]
    state["net.conv1.weight"] = torch.ones(64, 3, 3, 3)
    state["net.layer1.0.se.weight"] = torch.ones(2)
    with pytest.raises(CheckpointError) as caught:
        recognise.recognise({"model": state, "epoch": 3}, where="file.pth")
    told = str(caught.value)
    for expected in (
        "file.pth",
        "model (122 entries)".replace("122", str(len(state))),
        "epoch (int)",
        "model, names beginning with 'net.'",
        "resnet18",
        "missing: layer1.0.conv1.weight",
        "unexpected: layer1.0.se.weight",
        "conv1.weight (64, 3, 3, 3) instead of (64, 3, 7, 7)",
        "--wrapper",
        "--strip",
    ):
        assert expected in told, told


def test_a_network_with_more_in_its_blocks_is_no_resnet():
    # Left out in silence, these would leave a trunk that its makers never had.
    for extra in ("layer1.0.se.fc.weight", "layer4.2.conv1.weight", "conv1.bias"):
        with pytest.raises(CheckpointError, match="no ResNet's trunk was recognised"):
            recognise.recognise(formats.trunk() | {extra: torch.ones(3)}, where="x")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"epoch": 3},
        {"w": torch.ones(2)},
        {"model": nn.Linear(2, 2).state_dict()},
        {"1": {2: torch.ones(1)}},
        {"layer1.0.conv1.weight": torch.ones(1)},
    ],
)
def test_other_content_is_told_as_what_it_is(content):
    with pytest.raises(CheckpointError, match="its top level has"):
        recognise.recognise(content, where="x")


def test_content_that_holds_itself_comes_to_an_end():
    content = {"model": formats.under("module.")}
    content["again"] = content
    content["model"]["more"] = content
    assert recognise.recognise(content, where="x").architecture == "resnet18"
