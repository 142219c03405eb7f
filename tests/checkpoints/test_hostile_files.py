import argparse
import contextlib
import json
import pickle
import resource
import tarfile
import tempfile
import warnings
import zipfile

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carp_eval.checkpoints import reading
from carp_eval.errors import CheckpointError
from tests.checkpoints import hostile


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
