import pytest
import torch
from torch import nn

from carp_eval.cards.checkpoint import EntriesCard
from carp_eval.checkpoints import entries
from carp_eval.errors import CheckpointError
from tests.checkpoints import formats

ONE, TWO = torch.ones(1), torch.full((1,), 2.0)


def select(content, **card):
    return entries.select(content, EntriesCard(**card), where="file.pth")


def test_wrapper_then_prefixes_then_patterns():
    content = {
        "a": {"b": {"module.backbone.w": ONE, "module.head.w": TWO, "note": "text"}},
        "module.backbone.w": TWO,
    }
    found = select(content, wrapper=("a", "b"), strip=("module.", "backbone."), drop=("head.*",))
    assert found == {"w": ONE}


def test_a_prefix_is_taken_from_the_beginning_only_and_in_order():
    content = {"module.x.module.w": ONE, "backbone.module.v": TWO}
    assert set(select(content, strip=("module.", "backbone."))) == {"x.module.w", "module.v"}
    assert set(select(content, strip=("backbone.", "module."))) == {"x.module.w", "v"}


def test_patterns_tell_capitals_apart_and_match_whole_names():
    content = {"fc.w": ONE, "FC.w": ONE, "xfc.w": ONE, "fcw": ONE}
    assert set(select(content, drop=("fc.*",))) == {"FC.w", "xfc.w", "fcw"}


def test_names_that_become_one_are_an_error():
    with pytest.raises(CheckpointError, match=r"w and module\.w both become w|module\.w and w both become w"):
        select({"w": ONE, "module.w": TWO}, strip=("module.",))


def test_a_wrapper_that_is_not_there_is_told_with_what_is():
    with pytest.raises(CheckpointError, match=r"file\.pth has no 'teacher'; it has state_dict, epoch"):
        select({"state_dict": {"w": ONE}, "epoch": 3}, wrapper=("teacher",))
    with pytest.raises(CheckpointError, match="no 'b' in a; it has w"):
        select({"a": {"w": ONE}}, wrapper=("a", "b"))
    with pytest.raises(CheckpointError, match="epoch is a int"):
        select({"epoch": 3}, wrapper=("epoch",))
    with pytest.raises(CheckpointError, match="no weights are left"):
        select({"w": ONE}, drop=("*",))


def test_counts_that_old_files_lack_are_zero_and_only_if_all_do():
    state = {"bn1.running_mean": ONE, "layer1.0.bn1.running_mean": ONE}
    found = select(state)
    assert found["bn1.num_batches_tracked"] == found["layer1.0.bn1.num_batches_tracked"] == 0
    assert found["bn1.num_batches_tracked"].dtype == torch.int64
    some = select(state | {"bn1.num_batches_tracked": torch.tensor(5)})
    assert some["bn1.num_batches_tracked"] == 5
    assert "layer1.0.bn1.num_batches_tracked" not in some


def test_a_numbered_trunk_gets_torchvisions_names():
    numbered = nn.Sequential(*list(formats.network().children())[:-1]).state_dict()
    found = select(numbered)
    assert found.keys() == formats.trunk().keys()
    assert all(torch.equal(found[name], value) for name, value in formats.trunk().items())
    # Numbers elsewhere are names of their own.
    assert set(select({"0.weight": ONE, "1.weight": ONE})) == {"0.weight", "1.weight"}
