import argparse
import contextlib
import json
import os
import pickle
import resource
import sys
import tarfile
import tempfile
import types
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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


@pytest.mark.parametrize("name", ["../x.pth", "/etc/x.pth", "a/../../x.pth", "C:\\x.pth", "..\\x.pth"])
def test_names_that_lead_out_of_an_archive_are_refused(tmp_path, name):
    weights = hostile.good(tmp_path / "weights.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("good.pth", weights)
        archive.writestr(name, weights)
    hostile.tarred(tmp_path / "x.tar", ("good.pth", weights), (name, weights))
    for path in (tmp_path / "x.zip", tmp_path / "x.tar"):
        with pytest.raises(CheckpointError, match="leads out of the folder"):
            reading.read(path, member="good.pth")


def test_archives_that_lie_are_refused(tmp_path):
    weights = hostile.good(tmp_path / "weights.pth").read_bytes()
    secret = tmp_path / "secret"
    secret.write_bytes(weights)
    doubled = tmp_path / "doubled.zip"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(doubled, "w") as archive:
            archive.writestr("a.pth", weights)
            archive.writestr("a.pth", weights)
    nested = tmp_path / "nested.zip"
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as archive:
        archive.writestr("a.pth", weights)
    with zipfile.ZipFile(nested, "w") as archive:
        archive.write(tmp_path / "inner.zip", "inner.pth")
    zeros = tmp_path / "zeros.pth"
    with zipfile.ZipFile(zeros, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", hostile.tensor(2**20, (2**20,), (1,)))
        archive.writestr("archive/data/0", bytes(2**22))
    cases = {
        hostile.zip_bomb(tmp_path / "bomb.zip"): "as a zip bomb does",
        hostile.overlapping(tmp_path / "overlap.zip"): "overlap",
        hostile.linked(tmp_path / "link.zip", secret): "symbolic link",
        hostile.tarred(tmp_path / "link.tar", hostile.link_entry("a.pth", str(secret))): "a link or a device",
        hostile.tarred(tmp_path / "hard.tar", hostile.link_entry("a.pth", str(secret), tarfile.LNKTYPE)): "a link",
        hostile.tarred(tmp_path / "fifo.tar", hostile.link_entry("a.pth", "", tarfile.FIFOTYPE)): "a device",
        hostile.tarred(tmp_path / "two.tar", ("a.pth", weights), ("a.pth", weights)): "twice",
        doubled: "twice",
        nested: "an archive inside an archive",
        zeros: "as a zip bomb does",
        hostile.script(tmp_path / "script.pt"): "TorchScript",
        hostile.tarred(tmp_path / "old.tar", *((name, b"") for name in ("sys_info", "pickle", "storages", "tensors"))):
            "older than 0.2",
    }  # fmt: skip
    for path, expected in cases.items():
        with pytest.raises(CheckpointError, match=expected) as caught:
            reading.read(path)
        assert str(path) in str(caught.value)


def test_a_member_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.pth", hostile.good(tmp_path / "a.pth").read_bytes())
        archive.writestr(
            "b.pth", hostile.in_zip(tmp_path / "b.pth", hostile.calling("os", "system", "x")).read_bytes()
        )
    content = reading.read(tmp_path / "x.zip", member="a.pth")
    with pytest.raises(CheckpointError, match=r"x.zip, its member b.pth was refused"):
        reading.read(tmp_path / "x.zip", member="b.pth")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert content["state"]["weight"].sum() == 15


@pytest.mark.parametrize("wrap", ["zip", "legacy", "bare", "in an archive"])
def test_no_pickle_runs_anything(tmp_path, wrap):
    canary = tmp_path / "ran"
    pickles = hostile.pickles_that_call(canary)
    # The canary sings: a careless reader runs these.
    pickle.loads(pickles["os.system"])
    assert canary.exists()
    canary.unlink()
    for name, content in pickles.items():
        path = tmp_path / "hostile.pth"
        if wrap == "bare":
            path.write_bytes(content)
        elif wrap == "legacy":
            hostile.in_legacy(path, content)
        else:
            hostile.in_zip(path, content)
        if wrap == "in an archive":
            with zipfile.ZipFile(tmp_path / "around.zip", "w") as archive:
                archive.write(path, "hostile.pth")
            path = tmp_path / "around.zip"
        with pytest.raises(CheckpointError, match="was refused"):
            reading.read(path)
        assert not canary.exists(), name


def test_a_refusal_names_what_was_asked_for(tmp_path):
    for name, expected in (("system", "os.system"), ("popen", "os.popen")):
        hostile.in_zip(tmp_path / "x.pth", hostile.calling("os", name, "x"))
        with pytest.raises(CheckpointError, match=f"asks for {expected}, which could run code"):
            reading.read(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "state", [({"a": 1}, {"__class__": 2}), [1], 3, {3: 4}, ({}, {"__setstate__": 1}), None], ids=repr
)
def test_a_namespace_takes_options_and_nothing_else(tmp_path, state):
    hostile.in_zip(tmp_path / "x.pth", hostile.namespace_with_state(state))
    with pytest.raises(CheckpointError, match=r"argparse\.Namespace"):
        reading.read(tmp_path / "x.pth")


def test_a_namespace_with_names_of_methods_runs_none(tmp_path):
    state = {"__setstate__": 1, "__reduce__": "x", "__class__": "y", "arch": "resnet50"}
    hostile.in_zip(tmp_path / "x.pth", hostile.namespace_with_state(state))
    read = reading.read(tmp_path / "x.pth")["args"]
    assert isinstance(read, argparse.Namespace)
    assert read.arch == "resnet50"


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_sizes_that_lie_fill_no_memory(tmp_path, kind):
    huge = 2**40
    for content, expected in (
        (hostile.tensor(huge, (huge,), (1,)), "more than it holds"),
        (hostile.tensor(4, (huge,), (1,)), "values in a storage of 4"),
        (hostile.tensor(4, (2, 2), (huge, 1)), "values in a storage of 4"),
        (hostile.tensor(4, (huge,), (0,)), "values in a storage of 4"),
        (hostile.tensor(4, (4,), (1,), offset=1), "4 values in a storage of 4"),
        (hostile.tensor(4, (-1, -4), (1, 1)), "a tensor of the shape"),
        (hostile.tensor(-4, (1,), (1,)), "-4 values"),
        (hostile.PROTO + b"}r\xff\xff\xff\x7f.", "to fill memory"),
        (
            hostile.PROTO + b"c__builtin__\nbytearray\n" + hostile.number(huge) + b"\x85R.",
            "builtins.bytearray",
        ),
        (
            hostile.PROTO + b"ctorch\nFloatTensor\n" + hostile.number(huge) + b"\x85R.",
            "asks for torch.FloatTensor",
        ),
        (hostile.deep_tuples(10**6), "deep in one another"),
    ):
        path = tmp_path / "x.pth"
        # Where four values are declared, they are there.
        if kind == "zip":
            hostile.in_zip(path, content, others=[("archive/data/0", bytes(16))])
        else:
            hostile.in_legacy(path, content, tail=bytes(24))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(CheckpointError, match=expected):
            reading.read(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, expected


def test_a_pickle_of_its_own_size_is_read_where_the_bytes_are_there(tmp_path):
    # What the lies above are lies about.
    body = torch.arange(4.0).numpy().tobytes()
    hostile.in_zip(tmp_path / "x.pth", hostile.tensor(4, (2, 2), (2, 1)), others=[("archive/data/0", body)])
    assert torch.equal(reading.read(tmp_path / "x.pth")["w"], torch.arange(4.0).view(2, 2))
    hostile.in_zip(
        tmp_path / "y.pth", hostile.tensor(4, (2, 2), (2, 1)), others=[("archive/data/0", body[:12])]
    )
    with pytest.raises(CheckpointError, match="storage '0' of 16 bytes has 12"):
        reading.read(tmp_path / "y.pth")


def test_a_zip_with_a_comment_or_compressed_entries_is_no_torch_file(tmp_path):
    path = hostile.good(tmp_path / "x.pth")
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"another listing"
    with pytest.raises(CheckpointError, match="no comment"):
        reading.read(path)
    hostile.in_zip(tmp_path / "y.pth", hostile.tensor(0, (0,), (1,)), compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed"):
        reading.read(tmp_path / "y.pth")


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("header", "body", "length", "expected"),
    [
        ({"w": ENTRY}, bytes(4), 2**40, "header would take"),
        ({"w": ENTRY}, bytes(4), 5000, "truncated"),
        (b"{" + b"[" * 100_000, b"", None, "no JSON"),
        (b'{"w": 1,', b"", None, "no JSON"),
        ({"w": ENTRY, "v": {**ENTRY, "data_offsets": [2, 6]}}, bytes(6), None, "overlaps"),
        ({"w": ENTRY, "v": {**ENTRY, "data_offsets": [8, 12]}}, bytes(12), None, "hole"),
        ({"w": {**ENTRY, "data_offsets": [0, 400]}}, bytes(4), None, "do not agree"),
        ({"w": {**ENTRY, "shape": [2**40], "data_offsets": [0, 2**42]}}, bytes(4), None, "truncated"),
        ({"w": {**ENTRY, "shape": [-1], "data_offsets": [0, -4]}}, bytes(4), None, "do not agree"),
        ({"w": {**ENTRY, "dtype": "PY"}}, bytes(4), None, "type 'PY'"),
        ({"w": 3}, bytes(4), None, "do not agree"),
        ({"w": ENTRY}, bytes(9), None, "tail"),
        (b'{"w":%s,"w":%s}' % ((json.dumps(ENTRY).encode(),) * 2), bytes(4), None, "twice"),
    ],
)
def test_safetensors_that_lie_are_refused(tmp_path, header, body, length, expected):
    path = hostile.flat(tmp_path / "x.safetensors", header, body, length)
    with pytest.raises(CheckpointError, match=expected):
        reading.read(path)


def test_files_of_other_kinds_are_called_by_their_name(tmp_path):
    cases = {
        b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title>": r"web page \('Google Drive - Quota",
        b"\n  <html><body>Sign in</body></html>": "web page",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 100\n": "Git LFS pointer",
        b"\x1f\x8b\x08\x00" + bytes(20): "is compressed",
        b"PK\x05\x06" + bytes(18): "no file of weights",
        b"PK\x03\x04 and then nothing": "truncated or damaged",
        b"": "is empty",
    }
    path = tmp_path / "x.pth"
    for content, expected in cases.items():
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=expected):
            reading.read(path)
    with pytest.raises(CheckpointError, match="is a folder"):
        reading.read(tmp_path)
    (tmp_path / "x.safetensors").write_text("hello, I am text")
    with pytest.raises(CheckpointError, match="safetensors"):
        reading.read(tmp_path / "x.safetensors")


QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BEGINNINGS = (b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02}", hostile.LEGACY, b"\x10\0\0\0\0\0\0\0{", b"<html")


@QUICK
@given(start=st.sampled_from(BEGINNINGS), content=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(tmp_path, start, content):
    (tmp_path / "x.pth").write_bytes(start + content)
    with contextlib.suppress(CheckpointError):
        reading.read(tmp_path / "x.pth")


@pytest.fixture(params=["zip", "legacy", "safetensors", "tar"])
def whole_file(request, tmp_path):
    """Bytes of a file of each kind, written once: a legacy one holds addresses, so no two are equally long."""
    path = tmp_path / "whole"
    if request.param == "safetensors":
        safetensors.torch.save_file({"weight": torch.arange(6.0), "bias": torch.ones(2)}, path)
    else:
        hostile.good(path, legacy=request.param == "legacy")
    if request.param == "tar":
        path = hostile.tarred(tmp_path / "x.tar", ("a.pth", path.read_bytes()))
    return path.read_bytes()


@QUICK
@given(data=st.data())
def test_a_file_with_bytes_changed_is_read_or_refused(tmp_path, whole_file, data):
    content = bytearray(whole_file)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
    path = tmp_path / "x.pth"
    path.write_bytes(content[:cut])
    with contextlib.suppress(CheckpointError):
        reading.read(path)
