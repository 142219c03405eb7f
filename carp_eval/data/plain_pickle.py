"""Pickles of plain values and number arrays, read so that nothing in them can run.

A pickle is a program, and numpy's own reconstruction trusts its input too. Here only instructions that plain values
need are let through, and what stands in for numpy's functions is data: it holds what it was given until it is read.
"""

import io
import math
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any, cast

import numpy as np

from carp_eval.errors import DataError

# Ground truth of ten thousand images takes a hundred kilobytes.
LARGEST = 2**26
# What lists, dictionaries, texts and numbers are made of, and calls of what `_Plain` knows.
_INSTRUCTIONS = """
ADDITEMS APPEND APPENDS BINBYTES BINFLOAT BINGET BININT BININT1 BININT2 BINPUT BINSTRING BINUNICODE
BUILD BYTEARRAY8 DICT EMPTY_DICT EMPTY_LIST EMPTY_TUPLE FLOAT FRAME GET GLOBAL INT LIST LONG LONG1
LONG_BINGET LONG_BINPUT MARK MEMOIZE NEWFALSE NEWTRUE NONE PROTO PUT REDUCE SETITEM SETITEMS
SHORT_BINBYTES SHORT_BINSTRING SHORT_BINUNICODE STACK_GLOBAL STOP STRING TUPLE TUPLE1 TUPLE2 TUPLE3
UNICODE
"""
INSTRUCTIONS = frozenset(_INSTRUCTIONS.split())
_NUMBERS = re.compile("[bBhHiIlLqQfd]|[iuf][1248]")
# What the interpreter of pickles raises on those that are cut short or not pickles: it checks little.
_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
)


def load(path: Path) -> Any:
    """Read a pickle of plain values: lists, tuples, dictionaries, texts, numbers, and arrays of numbers.

    Returns:
        The value; arrays in it are `NumberArray`.

    Raises:
        DataError: If the file cannot be read, is no pickle, or has anything else in it.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path} has {path.stat().st_size:,} bytes; {LARGEST:,} at most were expected")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    try:
        _check(content, path)
        return _Plain(content, path).load()
    except _DAMAGE as error:
        raise DataError(f"{path} is damaged, or not a pickle: {error}") from error


class NumberArray:
    """What stands in for a numpy array in a pickle: what it holds is checked when it is asked for."""

    def __init__(self, *arguments: Any) -> None:  # noqa: ARG002 - numpy makes an empty one, and fills it afterwards
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def values(self) -> list[Any]:
        """Return the numbers, flattened.

        Raises:
            ValueError: If what the pickle has is not an array of numbers.
        """
        match self._state:
            case (int(), tuple() as shape, NumberType() as kind, bool() | int(), content):
                return kind.read(_bytes_of(content), cast(tuple[Any, ...], shape))
            case _:
                raise ValueError("an array of numbers was expected")


class _BufferArray(NumberArray):
    """An array as pickles of protocol 5 have it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__()
        if len(arguments) == 4:
            content, kind, shape, _ = arguments
            self._state = (1, shape, kind, False, content)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("an array that is complete already is filled again")


class NumberType:
    """What stands in for a numpy type."""

    def __init__(self, code: Any, *arguments: Any) -> None:  # noqa: ARG002 - whether to copy, which means nothing here
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise ValueError(f"an array holds {code!r}; numbers were expected")
        self._code = code
        self._order = "<"

    def __setstate__(self, state: Any) -> None:
        if (
            not isinstance(state, tuple)
            or len(cast(tuple[Any, ...], state)) < 2
            or state[1] not in ("<", ">", "|", "=")
        ):
            raise ValueError("an array has a type that is not plain")
        self._order = state[1]

    def read(self, content: bytes, shape: tuple[Any, ...]) -> list[Any]:
        """Return the numbers that bytes stand for.

        Raises:
            ValueError: If the shape is none, or has another number of bytes.
        """
        kind = np.dtype(self._order + self._code)
        if not all(isinstance(side, int) and side >= 0 for side in shape):
            raise ValueError(f"an array has the shape {shape}")
        if math.prod(shape) * kind.itemsize != len(content):
            raise ValueError(f"an array of shape {shape} has {len(content)} bytes")
        return np.frombuffer(content, dtype=kind).tolist()


class _Number:
    """What stands in for a numpy scalar."""

    def __init__(self, kind: Any, content: Any) -> None:
        if not isinstance(kind, NumberType):
            raise TypeError("a number was expected")
        self._kind, self._content = kind, content

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a number that is complete already is filled again")

    def value(self) -> Any:
        """Return the number."""
        return self._kind.read(_bytes_of(self._content), ())[0]


class _Text:
    """What stands in for bytes that old protocols write as text, or, where there are none, as a call without any."""

    def __init__(self, text: Any = "", encoding: Any = "latin1") -> None:
        if not isinstance(text, str) or encoding != "latin1":
            raise ValueError("bytes were expected, written as latin1")
        self.text = text

    def __setstate__(self, state: Any) -> None:
        raise ValueError("bytes that are complete already are filled again")


def plain(value: Any) -> Any:
    """Return what a stand-in stands for: a list for an array, a number for a scalar; anything else as it is.

    Raises:
        ValueError: If a stand-in holds something else.
    """
    if isinstance(value, NumberArray):
        return value.values()
    return value.value() if isinstance(value, _Number) else value


def _bytes_of(content: Any) -> bytes:
    """Return bytes, however the pickle has them."""
    content = content.text if isinstance(content, _Text) else content
    if isinstance(content, str):
        return content.encode("latin1")
    if isinstance(content, bytes | bytearray):
        return bytes(content)
    raise ValueError("the bytes of an array were expected")


# What stands in for what the pickles of arrays name, by module and name.
STAND_INS: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): NumberArray,
    ("numpy", "dtype"): NumberType,
    ("_codecs", "encode"): _Text,
    ("__builtin__", "bytes"): _Text,
    ("builtins", "bytes"): _Text,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): NumberArray for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Number for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _BufferArray for core in ("core", "_core")},
}


class _Plain(pickle.Unpickler):
    """An interpreter of pickles that knows no function, only stand-ins."""

    def __init__(self, content: bytes, path: Path) -> None:
        # Python 2 wrote the bytes of arrays as strings, which latin1 gives back unchanged.
        super().__init__(io.BytesIO(content), encoding="latin1")
        self._path = path

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return a stand-in, or refuse.

        Raises:
            DataError: If there is none of that name.
        """
        stand_in = STAND_INS.get((module_name, global_name))
        if stand_in is None:
            raise DataError(
                f"{self._path} asks for {module_name}.{global_name}; ground truth holds lists, texts and numbers "
                f"alone. The file may be malicious: get it from the data set's makers"
            )
        return stand_in


def _check(content: bytes, path: Path) -> None:
    """Look at each instruction before any is followed.

    Beside instructions that plain values have no use for, this refuses numbered notes beyond the file's own length, for
    which the interpreter would take gigabytes.
    """
    for instruction, argument, _ in pickletools.genops(content):
        if instruction.name not in INSTRUCTIONS:
            raise DataError(
                f"{path} has the instruction {instruction.name}, which lists, texts and numbers do not need: the file "
                f"may be malicious: get it from the data set's makers"
            )
        if instruction.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(cast(int, argument)) > len(content):
            raise DataError(f"{path} is damaged: it counts to {argument} in {len(content)} bytes")
