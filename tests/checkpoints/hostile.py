"""Files that mean harm, or are no checkpoints at all, made as somebody who means harm would."""

import io
import json
import os
import pickle
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch

PROTO = b"\x80\x02"
# What begins each file of torch's older format: its mark, its version, the machine.
LEGACY = b"".join(
    pickle.dumps(value, 2)
    for value in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
)


class Call:
    """Calls a function when a careless reader unpickles it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def calling(module, name, argument):
    """Return a pickle that calls any function with a text, even one that is not installed here."""
    text = argument.encode()
    return (
        PROTO
        + b"c%s\n%s\n" % (module.encode(), name.encode())
        + b"X"
        + struct.pack("<I", len(text))
        + text
        + b"\x85R."
    )


def in_zip(path, content, *, others=(), **more):
    """Write a pickle as torch's newer format has it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content, **more)
        archive.writestr("archive/version", "3\n")
        for name, value in others:
            archive.writestr(name, value)
    return path


def in_legacy(path, content, tail=b""):
    """Write a pickle as torch's older format has it."""
    path.write_bytes(LEGACY + content + pickle.dumps([], 2) + tail)
    return path


def storage(numel, key="0"):
    """Return the instructions that name a storage of float32."""
    return (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00" + key.encode() + b"X\x03\x00\x00\x00cpu"
        + number(numel) + b"tQ"
    )  # fmt: skip


def number(value):
    size = (value.bit_length() + 8) // 8
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def tensor(numel, shape, strides, offset=0):
    """Return a pickle of a dictionary of one tensor that says what it likes of itself."""
    sides = b"(" + b"".join(map(number, shape)) + b"t"
    steps = b"(" + b"".join(map(number, strides)) + b"t"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(numel) + number(offset) + sides + steps
    rebuilt += b"\x89ccollections\nOrderedDict\n)RtR"
    return PROTO + b"}X\x01\x00\x00\x00w" + rebuilt + b"s."


def deep_tuples(depth):
    """Return a pickle whose key is a tuple in a tuple in a tuple."""
    return PROTO + b"})" + b"\x85" * depth + b"K\x01s."


def namespace_with_state(state):
    """Return a pickle of a Namespace whose state is another pickle's value."""
    inner = pickle.dumps(state, 2)[2:-1]
    return PROTO + b"}X\x04\x00\x00\x00argscargparse\nNamespace\n)\x81" + inner + b"bs."


def zip_bomb(path, size=2**26):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.pth", bytes(size))
    return path


def overlapping(path):
    """Write a zip whose entries are the same bytes under many names."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.pth", bytes(1000))
        first = archive.infolist()[0]
        for number_ in range(50):
            another = zipfile.ZipInfo(f"b{number_}.pth")
            another.header_offset, another.CRC = first.header_offset, first.CRC
            another.file_size = another.compress_size = 1000
            archive.filelist.append(another)
            archive.NameToInfo[another.filename] = another
    return path


def linked(path, target):
    """Write a zip with a symbolic link in it."""
    entry = zipfile.ZipInfo("weights.pth")
    entry.create_system = 3
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(entry, str(target))
    return path


def tarred(path, *entries):
    """Write a tar archive of entries: a name and bytes, or a ready entry."""
    with tarfile.open(path, "w") as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                name, content = entry
                made = tarfile.TarInfo(name)
                made.size = len(content)
                archive.addfile(made, io.BytesIO(content))
    return path


def link_entry(name, target, kind=tarfile.SYMTYPE):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def flat(path, header, body=b"", length=None):
    """Write a safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)
    return path


def pickles_that_call(canary: Path) -> dict[str, bytes]:
    """Return pickles that would each leave the file `canary` behind."""
    command = f"touch {canary}"
    objects = np.empty(1, dtype=object)
    objects[0] = Call(os.system, command)
    python = f"open({str(canary)!r}, 'w')"
    return {
        "os.system": pickle.dumps({"w": Call(os.system, command)}, 2),
        "a key": pickle.dumps({("x",): [Call(os.system, command)]}, 2),
        "posix": calling("posix", "system", command),
        "nt": calling("nt", "system", command),
        "subprocess": calling("subprocess", "getoutput", command),
        "eval": calling("builtins", "eval", python),
        "Python 2's eval": calling("__builtin__", "eval", python),
        "exec": calling("builtins", "exec", python),
        "getattr": calling("builtins", "getattr", python),
        "runpy": calling("runpy", "run_path", str(canary)),
        "torch": calling("torch", "load", str(canary)),
        "torch.hub": calling("torch.hub", "load", str(canary)),
        "numpy": calling("numpy.testing._private.utils", "runstring", python),
        "objects in an array": pickle.dumps({"w": objects}, 2),
        "a namespace": namespace_with_state({"command": Call(os.system, command)}),
        "a storage of its own": PROTO + b"ctorch.storage\n_load_from_bytes\n" + b"U\x01a\x85R.",
        "an instance": PROTO + b"(X\x01\x00\x00\x00aios\nsystem\n.",
        "protocol 4": pickle.dumps({"w": Call(os.system, command)}, 4),
        "protocol 0": pickle.dumps({"w": Call(os.system, command)}, 0),
    }


def script(path):
    """Write a TorchScript archive."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/constants.pkl", pickle.dumps((), 2))
        archive.writestr("net/data.pkl", calling("__torch__", "Net", "x"))
        archive.writestr("net/code/__torch__.py", "class Net(Module): pass")
        archive.writestr("net/version", "3\n")
    return path


def good(path, *, legacy=False):
    """Write an honest small file."""
    content = {"state": {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path
