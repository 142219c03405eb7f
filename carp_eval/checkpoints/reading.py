"""Reading weights from files nobody vouches for: no code runs, and nothing is taken on trust."""

import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from carp_eval.errors import CheckpointError

# What torch's interpreter of pickles raises on those that are cut short or not pickles: it checks little.
_DAMAGE = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
)


def read(path: Path) -> dict[str, Any]:
    """Read a PyTorch file that holds only tensors and plain values.

    Raises:
        CheckpointError: If the file is missing, truncated, no PyTorch file, or holds code.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file at {path}")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty: the copy or download broke off; fetch it again")
    try:
        with warnings.catch_warnings():
            # Of an unusual pickle protocol, in which a refusal is all that can follow.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} was refused: it holds objects that run code when loaded, or is no PyTorch file. "
            "Only tensors and plain values are read; save a state_dict instead."
        ) from error
    except _DAMAGE as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read ({first_line}): it is truncated or no PyTorch file; fetch it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    return content


def fill(module: nn.Module, state: Mapping[str, Any], *, where: str) -> None:
    """Load a state into a module, exactly.

    Raises:
        CheckpointError: If an entry is missing, unexpected or of another shape; the message lists them.
    """
    expected = module.state_dict()
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    wrong_shape = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    ]
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in state if name not in expected],
        "wrong shape": wrong_shape,
    }
    if any(problems.values()):
        listed = "\n".join(f"  {kind}: {_shorten(names)}" for kind, names in problems.items() if names)
        raise CheckpointError(f"{where} does not fit the network it should fill:\n{listed}")
    module.load_state_dict(tensors)


def _shorten(names: list[str], *, most: int = 5) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
