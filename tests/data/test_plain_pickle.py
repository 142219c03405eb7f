import builtins
import os
import pickle
import pickletools
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from carp_eval.data import plain_pickle
from carp_eval.errors import DataError


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_and_arrays_are_read_at_every_protocol(tmp_path, protocol):
    value = {
        "names": ["a", "größe"],
        "box": (1.5, -2, 2**40, True),
        "nothing": None,
        "arrays": [
            np.arange(5),
            np.array([], dtype=np.int64),
            np.arange(6, dtype=">i4").reshape(2, 3),
            np.array([1.5, -2], dtype=np.float32),
            np.array([7], dtype=np.uint8),
        ],
        "scalars": [np.float64(2.5), np.int32(-3)],
        "many": list(range(1000)),
    }
    found = plain_pickle.load(write(tmp_path / "x.pkl", pickle.dumps(value, protocol)))
    arrays, scalars = found.pop("arrays"), found.pop("scalars")
    wanted = [array.ravel().tolist() for array in value.pop("arrays")]
    assert [plain_pickle.plain(array) for array in arrays] == wanted
    assert [plain_pickle.plain(scalar) for scalar in scalars] == [2.5, -3]
    value.pop("scalars")
    assert found == value


def test_what_python_2_wrote_is_read(tmp_path):
    # numpy 1 under Python 2: strings for bytes, and the older name of the module.
    raw = struct.pack("<3q", 4, 5, 200)
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x03\x85cnumpy\ndtype\nU\x02i8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + bytes([len(raw)]) + raw + b"tb."
    )
    assert plain_pickle.plain(plain_pickle.load(write(tmp_path / "x.pkl", content))) == [4, 5, 200]


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "function",
    [os.system, builtins.eval, builtins.exec, builtins.getattr, np.load, pickle.loads, np.fromfile],
)
def test_nothing_in_a_hostile_pickle_runs(tmp_path, protocol, function):
    trap = tmp_path / "trap"
    argument = {os.system: f"touch {trap}"}.get(function, f"open({str(trap)!r}, 'w')")
    path = write(tmp_path / "x.pkl", pickle.dumps({"imlist": Hostile(function, argument)}, protocol))
    with pytest.raises(DataError, match=r"asks for .*malicious"):
        plain_pickle.load(path)
    assert not trap.exists()


def test_the_trap_would_snap_without_protection(tmp_path):
    trap = tmp_path / "trap"
    pickle.loads(pickle.dumps(Hostile(os.system, f"touch {trap}")))
    assert trap.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02cos\nsystem\nU\x02ls\x85R.", "asks for os.system"),
        # A dotted name would walk through what is allowed.
        (b"\x80\x04\x8c\x05numpy\x8c\x11dtype.__class__.x\x93.", r"asks for numpy.dtype.__class__.x"),
        (b"(S'ls'\nios\nsystem\n.", "instruction INST"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"Pid\n.", "instruction PERSID"),
        # A number at which the interpreter would make room for four thousand million notes.
        (b"\x80\x02]r\xfe\xff\xff\xff.", "counts to 4294967294"),
        # Bytes that are announced, and not there.
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.", "damaged"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f].", "damaged"),
        (b"", "damaged"),
        (b"not a pickle", "damaged"),
        (b"\x80\x02", "damaged"),
        (b"\x80\x02R.", "damaged"),
        (b"\x80\x63].", "damaged"),
        # The stand-ins themselves cannot be changed by what is read.
        (b"\x80\x02cnumpy\nndarray\nN}U\x04nameK\x01s\x86b.", "damaged"),
        (b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.", "numbers were expected"),
        (b"\x80\x02c_codecs\nencode\nU\x01xU\x04zlib\x86R.", "damaged"),
        (b"\x80\x02cnumpy.core.multiarray\nscalar\nK\x01K\x02\x86R.", "damaged"),
    ],
)
def test_what_no_ground_truth_has_is_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        plain_pickle.load(write(tmp_path / "x.pkl", content))


def test_an_array_that_lies_about_itself_is_refused(tmp_path):
    for shape, raw in (((3,), b"\0" * 8), ((2**62,), b""), ((-1,), b""), (("a",), b"")):
        state = (1, shape, np.dtype("i8"), False, raw)

        class Lying:
            def __reduce__(self):
                return np.empty(0).__reduce__()[0], (np.ndarray, (0,), b"b"), state  # noqa: B023

        found = plain_pickle.load(write(tmp_path / "x.pkl", pickle.dumps(Lying())))
        with pytest.raises(ValueError):
            plain_pickle.plain(found)
    objects = write(tmp_path / "x.pkl", pickle.dumps(np.array(["x", None], dtype=object)))
    with pytest.raises(DataError, match="numbers were expected"):
        plain_pickle.load(objects)


def test_any_damage_is_an_error_of_ours_or_harmless(tmp_path):
    whole = pickle.dumps({"imlist": ["a", "b"], "gnd": [{"easy": np.arange(3)}]}, 2)
    path = tmp_path / "gnd.pkl"
    random = np.random.default_rng(0)
    read = 0
    for _ in range(400):
        content = bytearray(whole)
        for place in random.integers(0, len(whole), random.integers(1, 4)):
            content[place] = random.integers(0, 256)
        if random.random() < 0.3:
            content = content[: random.integers(0, len(whole))]
        write(path, bytes(content))
        with suppress(DataError):
            plain_pickle.load(path)
            read += 1
    assert 0 < read < 300


def test_too_large_or_missing_files_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "x.pkl", pickle.dumps(list(range(1000))))
    monkeypatch.setattr(plain_pickle, "LARGEST", 100)
    with pytest.raises(DataError, match="100 at most"):
        plain_pickle.load(path)
    with pytest.raises(DataError, match="No such file"):
        plain_pickle.load(tmp_path / "y.pkl")


def test_every_instruction_that_is_let_through_exists():
    assert {code.name for code in pickletools.opcodes} >= plain_pickle.INSTRUCTIONS
