import argparse
import os
import pickle
import sys
import types
import zipfile
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from carp_eval.checkpoints import reading
from carp_eval.errors import CheckpointError
from tests.checkpoints import hostile


class Hostile:
    """Runs a command when it is unpickled by a careless reader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_tensors_and_plain_values_come_back(tmp_path):
    torch.save({"weight": torch.arange(4), "step": 3}, tmp_path / "good.pt")
    content = reading.read(tmp_path / "good.pt")
    assert content["step"] == 3
    assert torch.equal(content["weight"], torch.arange(4))


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_file_with_code_inside_is_refused_and_the_code_does_not_run(tmp_path, save):
    trace = tmp_path / "ran"
    save({"weight": Hostile(trace)}, tmp_path / "hostile.pt")
    with pytest.raises(CheckpointError, match="was refused"):
        reading.read(tmp_path / "hostile.pt")
    assert not trace.exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_said_to_be(tmp_path, keep):
    path = tmp_path / "cut.pt"
    torch.save({"weight": torch.randn(1000)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"cut\.pt"):
        reading.read(path)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.pt").write_text("not weights at all")
    # Its first letter tells torch's interpreter to take what no letter before it gave.
    (tmp_path / "card.pt").write_text('extends = "knn@dino"')
    torch.save([1, 2], tmp_path / "list.pt")
    for name, expected in (
        ("text.pt", "refused|cannot be read"),
        ("card.pt", "cannot be read"),
        ("list.pt", "holds a list"),
        ("no.pt", "there is no"),
    ):
        with pytest.raises(CheckpointError, match=expected):
            reading.read(tmp_path / name)


def test_weights_of_another_network_are_listed_and_nothing_is_loaded():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = {
        "0.weight": torch.ones(2, 3),
        "0.bias": torch.ones(3),
        "1.bias": torch.ones(2),
        "2.weight": torch.ones(1),
    }
    with pytest.raises(CheckpointError) as caught:
        reading.fill(module, state, where="the file")
    told = str(caught.value)
    assert "missing: 1.weight" in told
    assert "unexpected: 2.weight" in told
    assert "0.bias (3,) instead of (2,)" in told
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize("legacy", [False, True])
def test_what_the_fields_checkpoints_hold_beside_weights_is_read(tmp_path, legacy):
    content = {
        "state_dict": OrderedDict(weight=torch.arange(4.0), count=torch.tensor(7)),
        "parameter": nn.Parameter(torch.ones(2)),
        "half": torch.ones(3, dtype=torch.float16),
        "view": torch.arange(12.0).view(3, 4)[:, 1:3],
        "args": argparse.Namespace(arch="resnet50", lr=0.1, crops=[2, 6]),
        "best": np.float64(71.5),
        "curve": np.arange(3),
        "epochs": defaultdict(list, {1: [2]}),
        "milestones": Counter({60: 1}),
        "size": torch.Size([2, 3]),
        "optimizer": {
            "state": {0: {"step": torch.tensor(3)}},
            "param_groups": [{"params": [0], "betas": (0.9, 0.99)}],
        },
    }
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    read = reading.read(path)
    assert torch.equal(read["state_dict"]["weight"], torch.arange(4.0))
    assert read["state_dict"]["count"] == 7
    assert torch.equal(read["parameter"], torch.ones(2))
    assert not read["parameter"].requires_grad
    assert read["half"].dtype == torch.float16
    assert torch.equal(read["view"], content["view"])
    assert vars(read["args"]) == {"arch": "resnet50", "lr": 0.1, "crops": [2, 6]}
    assert read["epochs"] == {1: [2]}
    assert read["optimizer"]["state"][0]["step"] == 3
    assert read["optimizer"]["param_groups"] == content["optimizer"]["param_groups"]


def test_records_of_training_frameworks_are_passed_over(tmp_path, monkeypatch):
    # A framework that is installed where the file is written, and not where it is read.
    module = types.ModuleType("omegaconf")
    for name in ("DictConfig", "Box"):
        setattr(module, name, type(name, (dict,) if name == "Box" else (), {"__module__": "omegaconf"}))
    config, box = module.DictConfig(), module.Box(arch="resnet18")
    config.content = {"lr": 0.1}
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "omegaconf", module)
        torch.save(
            {"hyper_parameters": config, "box": box, "weight": torch.ones(2)}, tmp_path / "lightning.ckpt"
        )
    content = reading.read(tmp_path / "lightning.ckpt")
    assert torch.equal(content["weight"], torch.ones(2))
    assert "omegaconf" not in sys.modules


def test_what_hangs_on_a_dictionary_stays_behind(tmp_path):
    state = OrderedDict(weight=torch.ones(1))
    state.get = "no method"
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    assert reading.read(tmp_path / "x.pth")["state_dict"].get("weight") == torch.ones(1)


@pytest.mark.parametrize("depth", [3, 20])
def test_safetensors_are_read(tmp_path, depth):
    state = {f"layer{number}.weight": torch.randn(number, 2) for number in range(depth)}
    safetensors.torch.save_file(state, tmp_path / "x.safetensors", metadata={"format": "pt"})
    # By content, whatever it is called.
    (tmp_path / "x.safetensors").rename(tmp_path / "x.bin")
    read = reading.read(tmp_path / "x.bin")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], value) for name, value in state.items())


def test_a_users_own_symbolic_link_leads_to_the_file(tmp_path):
    hostile.good(tmp_path / "there.pth")
    (tmp_path / "here.pth").symlink_to(tmp_path / "there.pth")
    assert reading.read(tmp_path / "here.pth")["epoch"] == 3


@pytest.mark.parametrize("kind", ["zip", "deflated", "tar"])
def test_a_file_in_an_archive_is_read(tmp_path, kind):
    weights = hostile.good(tmp_path / "weights.pth.tar").read_bytes()
    path = tmp_path / "release.zip"
    if kind == "tar":
        hostile.tarred(path, ("models/readme.txt", b"hello"), ("models/weights.pth.tar", weights))
    else:
        how = zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", how) as archive:
            archive.writestr("models/readme.txt", "hello")
            archive.writestr("models/weights.pth.tar", weights)
    for member in ("", "models/weights.pth.tar"):
        assert torch.equal(reading.read(path, member=member)["state"]["weight"], torch.arange(6.0).view(2, 3))
    with pytest.raises(CheckpointError, match=r"holds no 'other.pth'; it holds models/readme.txt"):
        reading.read(path, member="other.pth")


def test_of_several_files_in_an_archive_one_must_be_named(tmp_path):
    weights = hostile.good(tmp_path / "weights.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.pth", weights)
        archive.writestr("b.pth", weights)
    with pytest.raises(CheckpointError, match=r"several files of weights: a.pth, b.pth.*--member"):
        reading.read(tmp_path / "two.zip")
    assert reading.read(tmp_path / "two.zip", member="b.pth")["epoch"] == 3
    with pytest.raises(CheckpointError, match="no archive"):
        reading.read(tmp_path / "weights.pth", member="a.pth")
