"""Stand-ins for what pickles of released weights ask for beside tensors: data, whatever the file meant them to do.

A file names the classes of its objects, and a reader that follows the names runs what they lead to. Here each known
name leads to something of ours that holds values at most; no module that a file names is ever imported.
"""

import argparse
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar

from carp_eval.data import plain_pickle


class UnsoundError(ValueError):
    """What a pickle declares cannot be honest, or is no plain value."""


class Namespace(argparse.Namespace):
    """The options of a training, as many keep them beside its weights."""

    def __setstate__(self, state: Any) -> None:
        if type(state) is not dict or not all(type(name) is str for name in state):
            raise UnsoundError("an argparse.Namespace that is filled with something else than options")
        self.__dict__.update(state)


class PassedOver:
    """An object of a training framework: what was put into it is kept from harm, and left unread."""

    def __new__(cls, *arguments: Any) -> Any:  # noqa: ARG004 - what it is made from may be anything
        """Return an empty dictionary, the only object that entries and a state may both be put into."""
        return OrderedDict[Any, Any]()


class Defaults(PassedOver):
    """A `collections.defaultdict`, which is read as a plain dictionary."""


class NumberType(plain_pickle.NumberType):
    """The type of a numpy array or scalar: of numbers, never of objects."""

    def __init__(self, code: Any, *arguments: Any) -> None:
        try:
            super().__init__(code, *arguments)
        except ValueError as error:
            raise UnsoundError(f"a numpy array or scalar that is not of numbers ({error})") from error


# Frameworks that keep records of theirs in the same file as the weights.
_FRAMEWORKS = (
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "omegaconf",
    "mmengine",
    "mmcv",
    "yacs",
    "fvcore",
    "easydict",
    "addict",
    "pathlib",
)
# Types that records of options name without making one.
_TYPES = ("typing.Any", *(f"builtins.{name}" for name in ("dict", "list", "int", "float", "str", "bool")))

_NUMPY: dict[str, Callable[..., Any]] = {
    f"{module}.{name}": stand_in
    for (module, name), stand_in in plain_pickle.STAND_INS.items()
    if module.startswith("numpy")
}
KNOWN: dict[str, Callable[..., Any]] = {
    "argparse.Namespace": Namespace,
    "collections.defaultdict": Defaults,
    **_NUMPY,
    "numpy.dtype": NumberType,
    **dict.fromkeys(_TYPES, PassedOver),
}


class _Storage:
    """A storage that a pickle declares."""

    def __init__(self, numel: int, itemsize: int) -> None:
        self.numel, self.itemsize = numel, itemsize


class _StorageType:
    """The type of a storage."""

    def __init__(self, itemsize: int) -> None:
        self.itemsize = itemsize


class _Tensor:
    """A tensor that a pickle declares; it is complete when it is made."""

    def __setstate__(self, state: Any) -> None:
        raise UnsoundError("a tensor that is complete already is filled again")


class Declared:
    """What a pickle says it holds, found out without making any of it.

    Attributes:
        storages: Bytes of each storage, by its key.
        asked: The names that it asks for.
        value: What it comes to, with stand-ins for tensors.
        itemsizes: Bytes of a value, by the type of storage.
        dtypes: The types of tensors, by name.
    """

    itemsizes: ClassVar[dict[str, int]] = {
        "DoubleStorage": 8,
        "FloatStorage": 4,
        "HalfStorage": 2,
        "BFloat16Storage": 2,
        "LongStorage": 8,
        "IntStorage": 4,
        "ShortStorage": 2,
        "CharStorage": 1,
        "ByteStorage": 1,
        "BoolStorage": 1,
    }

    dtypes: ClassVar[tuple[str, ...]] = (
        *("bfloat16", "float16", "float32", "float64", "bool"),
        *("uint8", "int8", "int16", "int32", "int64"),
    )

    def __init__(self) -> None:
        self.storages: dict[str, int] = {}
        self.asked: set[str] = set()
        self.value: Any = None
        self._tables: dict[str, Any] = {
            "collections.OrderedDict": OrderedDict,
            "collections.Counter": PassedOver,
            "builtins.set": _set,
            "_codecs.encode": plain_pickle.STAND_INS["_codecs", "encode"],
            "torch.Size": _size,
            "torch.device": _device,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": self._parameter,
            **{f"torch.{name}": _StorageType(size) for name, size in self.itemsizes.items()},
            **{f"torch.{name}": name for name in self.dtypes},
        }

    def find(self, module: str, name: str) -> Any:
        """Return what stands in for a name, or None where nothing does."""
        full = f"{module}.{name}"
        self.asked.add(full)
        return self._tables.get(full) or stand_in(full)

    def storage(self, identity: Any) -> _Storage:
        """Note a storage.

        Raises:
            UnsoundError: If it is not declared as torch does.
        """
        match identity:
            case ("storage", _StorageType(itemsize=itemsize), str() as key, str(), int() as numel, *rest):
                if numel < 0 or any(view is not None for view in rest):
                    raise UnsoundError(f"a storage that has {numel} values, or is a part of another")
                self.storages[key] = max(numel * itemsize, self.storages.get(key, 0))
                return _Storage(numel, itemsize)
            case _:
                raise UnsoundError("something from outside the pickle that is no storage")

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *attached: Any) -> _Tensor:
        # Whether it needs a gradient, hooks on that, and metadata.
        if (
            not isinstance(storage, _Storage)
            or any(attached[1:])
            or not all(type(x) is bool for x in attached[:1])
        ):
            raise UnsoundError("a tensor with something attached that is not its values")
        if not _counts((offset,)) or not _counts(size) or not _counts(stride) or len(size) != len(stride):
            raise UnsoundError(f"a tensor of the shape {size!r:.80} and strides {stride!r:.80}")
        values = 1
        for side in size:
            values *= side
        last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
        # A stride of zero shows one value many times: what is declared then takes room once it is copied.
        if values and (last >= storage.numel or values > storage.numel):
            raise UnsoundError(f"a tensor of {values:,} values in a storage of {storage.numel:,}")
        return _Tensor()

    def _parameter(self, data: Any, needs_grad: Any, hooks: Any) -> _Tensor:
        if not isinstance(data, _Tensor) or hooks or not isinstance(needs_grad, bool):
            raise UnsoundError("a parameter that is no tensor, or with something attached")
        return data


def stand_in(full: str) -> Callable[..., Any] | None:
    """Return what stands in for a class that torch's own reader does not know, or None."""
    if full in KNOWN:
        return KNOWN[full]
    return PassedOver if full.partition(".")[0] in _FRAMEWORKS else None


def _counts(values: Any) -> bool:
    return isinstance(values, tuple) and all(type(value) is int and value >= 0 for value in values)


def _set(*arguments: Any) -> set[Any]:
    return set(*arguments)


def _size(*arguments: Any) -> tuple[int, ...]:
    if len(arguments) != 1 or not _counts(tuple(arguments[0])):
        raise UnsoundError("a shape that is no shape")
    return tuple(arguments[0])


def _device(*arguments: Any) -> str:
    return str(arguments)
