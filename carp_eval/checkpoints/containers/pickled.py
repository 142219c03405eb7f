"""What a pickle would do, found out before torch reads it: nothing in here follows it anywhere."""

import pickle
import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, cast

from carp_eval.checkpoints.containers import inert
from carp_eval.errors import CheckpointError

# The pickle of a ResNet-50 with its optimiser takes a hundred kilobytes: values lie outside it.
LARGEST = 2**23
# No checkpoint lays tuples ten deep; Python's own hash of a tuple goes down without looking how deep it is.
DEEPEST = 64
# Those that torch's reader of plain weights follows.
_NAMES = """
APPEND APPENDS BINFLOAT BINGET BININT BININT1 BININT2 BINPERSID BINPUT BINUNICODE BUILD EMPTY_DICT EMPTY_LIST
EMPTY_SET EMPTY_TUPLE GLOBAL LONG1 LONG_BINGET LONG_BINPUT MARK NEWFALSE NEWOBJ NEWTRUE NONE PROTO REDUCE SETITEM
SETITEMS SHORT_BINSTRING STOP TUPLE TUPLE1 TUPLE2 TUPLE3
"""
_INSTRUCTIONS = frozenset(_NAMES.split())
_MARK = -1


def _effects() -> dict[str, tuple[bool, int, bool]]:
    """Return of each instruction whether it takes all up to a mark, how many values below that, and if it gives one."""
    effects: dict[str, tuple[bool, int, bool]] = {}
    for instruction in pickletools.opcodes:
        before = list(instruction.stack_before)
        to_mark = pickletools.markobject in before
        number = before.index(pickletools.markobject) if to_mark else len(before)
        effects[instruction.name] = to_mark, number, bool(instruction.stack_after)
    return effects


_EFFECTS = _effects()
# What interpreters of pickles raise on those that are cut short or no pickles: they check little.
DAMAGE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
)


def declared(stream: BufferedReader | BytesIO, where: Path | str) -> inert.Declared:
    """Return what a pickle declares.

    Args:
        stream: Stands at the pickle's first byte, and is left behind its last.
        where: The file, for errors.

    Raises:
        CheckpointError: If the pickle asks for anything but tensors and plain values, or is damaged.
    """
    start = stream.tell()
    rehearsal = _Rehearsal(stream, where)
    try:
        _check(stream, where)
        stream.seek(start)
        rehearsal.declared.value = rehearsal.load()
    except inert.UnsoundError as error:
        raise CheckpointError(
            f"{where} was refused: its pickle holds {error}. Weights are tensors and plain values"
        ) from error
    except DAMAGE as error:
        raise CheckpointError(
            f"{where} cannot be read: its pickle is damaged, or is none ({first_line(error)}); fetch the file again"
        ) from error
    return rehearsal.declared


class _Rehearsal(pickle.Unpickler):
    """An interpreter of pickles that knows stand-ins only."""

    def __init__(self, stream: BufferedReader | BytesIO, where: Path | str) -> None:
        super().__init__(stream, encoding="latin1")
        self._where = where
        self.declared = inert.Declared()

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return a stand-in.

        Raises:
            CheckpointError: If there is none of that name.
        """
        # Python 2's names, which torch's pickles have to this day.
        module_name, global_name = NAME_MAPPING.get((module_name, global_name), (module_name, global_name))
        module_name = IMPORT_MAPPING.get(module_name, module_name)
        found = self.declared.find(module_name, global_name)
        if found is None:
            raise CheckpointError(
                f"{self._where} was refused: it asks for {module_name}.{global_name}, which could run code. "
                "Weights are tensors and plain values. If you trust whoever made the file, open it with "
                "the library that wrote it and save its state_dict alone"
            )
        return found

    def persistent_load(self, pid: Any, /) -> Any:
        """Note a storage."""
        return self.declared.storage(pid)


def _check(stream: BufferedReader | BytesIO, where: Path | str) -> None:
    """Look at each instruction before any is followed, and at how deep tuples would lie in one another."""
    depths: list[int] = []
    notes: dict[int, int] = {}
    start = stream.tell()
    for instruction, argument, position in pickletools.genops(stream):
        name = instruction.name
        if name == "PROTO" and argument != 2:
            raise CheckpointError(
                f"{where} was refused: it was pickled with protocol {argument}, and weights are read from protocol 2, "
                "torch.save's own: save it again without pickle_protocol"
            )
        if name not in _INSTRUCTIONS:
            raise CheckpointError(
                f"{where} was refused: its pickle has the instruction {name}, which plain weights do not need. "
                "Weights are read from files that torch.save wrote, or safetensors"
            )
        if position is not None and position - start > LARGEST:
            raise CheckpointError(
                f"{where} was refused: its pickle is longer than {LARGEST:,} bytes; that of weights takes a few "
                "hundred thousand"
            )
        if name in ("BINPUT", "LONG_BINPUT"):
            number = cast(int, argument)
            # The interpreter makes room for all notes below the highest.
            if number > LARGEST // 8:
                raise CheckpointError(f"{where} was refused: its pickle counts to {number:,}, to fill memory")
            notes[number] = depths[-1]
            continue
        if name in ("BINGET", "LONG_BINGET"):
            depths.append(notes.get(cast(int, argument), 0))
            continue
        deepest = -1
        to_mark, number, gives = _EFFECTS[name]
        if to_mark:
            while (depth := depths.pop()) != _MARK:
                deepest = max(deepest, depth)
        for _ in range(number):
            deepest = max(deepest, depths.pop())
        if gives:
            deep = _MARK if name == "MARK" else deepest + 1 if name.startswith("TUPLE") else 0
            if deep > DEEPEST:
                raise CheckpointError(
                    f"{where} was refused: its pickle lays tuples more than {DEEPEST} deep in one another, to exhaust "
                    "the reader"
                )
            depths.append(deep)


def first_line(error: BaseException) -> str:
    """Return what an error says, in a line."""
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
