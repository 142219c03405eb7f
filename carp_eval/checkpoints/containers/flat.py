"""Safetensors files: a header in JSON, and the bytes of tensors behind it."""

import json
import math
from pathlib import Path
from typing import Any, cast

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from carp_eval.errors import CheckpointError

# A ResNet-50's header takes forty thousand bytes; that of the largest language models a few millions.
LARGEST_HEADER = 2**24
_BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F16": 16, "BF16": 16, "U16": 16, "I16": 16},
    **{"F32": 32, "U32": 32, "I32": 32, "F64": 64, "U64": 64, "I64": 64},
}


def looks_flat(head: bytes) -> bool:
    """Tell whether a file begins as a safetensors file does: the length of a header, then the header's brace."""
    return len(head) > 8 and head[8:9] == b"{"


def read(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: If its header is too large, is no header, or does not fit the bytes behind it.
    """
    _check(path)
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no sound safetensors file ({error}); fetch it again") from error


def _check(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LARGEST_HEADER:
            raise CheckpointError(
                f"{path} was refused: its safetensors header would take {length:,} bytes; weights need "
                f"{LARGEST_HEADER:,} at most"
            )
        if length > size - 8:
            raise CheckpointError(
                f"{path} is truncated: its safetensors header alone takes {length:,} of {size:,} bytes; fetch it again"
            )
        content = file.read(length)
    try:
        header: Any = json.loads(content, object_pairs_hook=lambda pairs: _without_doubles(pairs, path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged: its safetensors header is no JSON ({error}); fetch it again"
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is damaged: its safetensors header is no table of tensors")
    spans: list[tuple[int, int, str]] = []
    for name, entry in cast(dict[str, Any], header).items():
        if name != "__metadata__":
            spans.append((*_span(entry, name, path), name))
    end = 0
    for start, stop, name in sorted(spans):
        if start != end:
            where = "overlaps another" if start < end else "leaves a hole before it"
            raise CheckpointError(
                f"{path} was refused: the tensor {name!r} {where} in the bytes of the file; fetch it again"
            )
        end = stop
    if end != size - 8 - length:
        raise CheckpointError(
            f"{path} is truncated or has a tail: its tensors take {end:,} bytes, and {size - 8 - length:,} follow the "
            "header; fetch it again"
        )


def _span(entry: Any, name: str, path: Path) -> tuple[int, int]:
    match entry:
        case {"dtype": str() as kind, "shape": [*shape], "data_offsets": [int() as start, int() as stop]}:
            if kind not in _BITS:
                raise CheckpointError(
                    f"{path}: the tensor {name!r} is of the type {kind!r}, which is not known"
                )
            if (
                start >= 0
                and all(type(side) is int and side >= 0 for side in shape)
                and math.prod(shape) * _BITS[kind] == 8 * (stop - start)
            ):
                return start, stop
        case _:
            pass
    raise CheckpointError(
        f"{path} was refused: the tensor {name!r} declares a shape and a place in the file that do not agree"
    )


def _without_doubles(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise CheckpointError(f"{path} was refused: its safetensors header has a name twice")
    return found
