import numpy as np
import pytest

from carp_eval.data import manifest

SPLIT = {
    "keys": ["a/0", "a/1", "b/0"],
    "labels": np.array([0, 0, 1]),
    "class_names": ["a", "b"],
    "sizes": np.array([3, 3, 4]),
    "content": [b"one", b"two", b"four"].__getitem__,
}


def test_the_hash_is_the_same_on_every_machine():
    # Sizes and labels are hashed as little-endian 64-bit numbers, names with a closing zero.
    import hashlib
    import struct

    expected = hashlib.sha256(
        b"a\0b\0\0a/0\0a/1\0b/0\0" + struct.pack("<6q", 0, 0, 1, 3, 3, 4) + b"onetwofour"
    )
    assert manifest.digest(**SPLIT) == expected.hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"keys": ["a/0", "b/0", "a/1"]},
        {"labels": np.array([0, 1, 1])},
        {"class_names": ["a", "c"]},
        {"sizes": np.array([3, 4, 3])},
        {"content": [b"one", b"twO", b"four"].__getitem__},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_change_shows(change):
    assert manifest.digest(**SPLIT) != manifest.digest(**SPLIT | change)


def test_a_large_split_is_read_in_part_and_sizes_still_count(monkeypatch):
    monkeypatch.setattr(manifest, "WHOLE_UP_TO", 1000)
    monkeypatch.setattr(manifest, "SAMPLE", 10)
    read = []

    def content(row):
        read.append(row)
        return bytes(20)

    def digest(sizes):
        keys = [str(row) for row in range(100)]
        return manifest.digest(
            keys=keys, labels=np.zeros(100, dtype=np.int64), class_names=[], sizes=sizes, content=content
        )

    sizes = np.full(100, 20)
    whole = digest(sizes)
    assert read == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    sizes[5] = 21
    assert digest(sizes) != whole


def test_content_that_comes_all_at_once_gives_the_same_hash():
    pieces = iter([b"one", b"two", b"four"])

    def content(row):
        raise AssertionError(f"row {row} was asked for")

    assert manifest.digest(**SPLIT | {"content": content, "whole": pieces}) == manifest.digest(**SPLIT)
    assert list(pieces) == []


def test_a_large_split_is_not_read_whole(monkeypatch):
    monkeypatch.setattr(manifest, "WHOLE_UP_TO", 9)
    pieces = iter([b"one", b"two", b"four"])
    assert manifest.digest(**SPLIT, whole=pieces) == manifest.digest(**SPLIT)
    assert len(list(pieces)) == 3
