"""Dictionaries of tensors as files that hold nothing else: PyTorch's or safetensors, by the suffix."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from carp_eval.checkpoints import reading

SAFETENSORS = ".safetensors"


def encode(entries: Mapping[str, Tensor], told: Mapping[str, str], path: Path) -> bytes:
    """Bring tensors into the form that a path's suffix names; only safetensors has room for what is told of them."""
    if path.suffix == SAFETENSORS:
        return _in_order(safetensors.torch.save(dict(entries), metadata={"format": "pt", **told}))
    buffer = io.BytesIO()
    torch.save(dict(entries), buffer)
    return buffer.getvalue()


def decode(path: Path) -> dict[str, Tensor]:
    """Read such a file."""
    if path.suffix == SAFETENSORS:
        return safetensors.torch.load_file(path)
    return reading.read(path)


def _in_order(content: bytes) -> bytes:
    """Sort a file's metadata, which the writer puts in an order of chance: equal weights make equal bytes."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    told = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # The format aligns the first tensor to eight bytes.
    told += b" " * (-len(told) % 8)
    return len(told).to_bytes(8, "little") + told + content[start:]
