import dataclasses
import hashlib
import shutil

import pytest

from carp_eval.data import checking, table
from carp_eval.errors import UnknownNameError
from tests.data.layouts import copies
from tests.data.test_native import SMALL, shrink


@pytest.fixture
def small(monkeypatch, carp_home, hub_cache):
    for name in ("pets", "flowers102", "tiny-imagenet", "stl10"):
        if name in SMALL:
            _, splits, classes = SMALL[name]
            shrink(monkeypatch, name, splits, classes)
    # The small copy shows 7 of the 102 kinds of flowers.
    row = dataclasses.replace(table.TABLE["flowers102"], num_classes=102, md5={})
    monkeypatch.setitem(table.TABLE, "flowers102", row)


@pytest.mark.usefixtures("small")
class TestCopies:
    def test_a_whole_copy(self, tmp_path):
        place = copies.write_pets(tmp_path)
        found = checking.check("pets", data_root=tmp_path, decode=True)
        assert found.whole
        assert found.place == f"pets:{place}"
        assert [(part.split, part.found, part.expected, part.classes) for part in found.splits] == [
            ("trainval", 4, 4, 3),
            ("test", 3, 3, 3),
        ]

    def test_images_that_are_listed_but_not_there(self, tmp_path):
        place = copies.write_pets(tmp_path)
        (place / "images" / "Bombay_7.jpg").unlink()
        found = checking.check("pets", data_root=tmp_path)
        trainval, test = found.splits
        assert (trainval.found, trainval.missing, trainval.whole) == (3, ("images/Bombay_7.jpg",), False)
        assert test.whole
        assert not found.whole

    def test_images_that_are_not_listed(self, tmp_path):
        path = copies.write_pets(tmp_path) / "annotations" / "test.txt"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
        test = checking.check("pets", data_root=tmp_path).splits[1]
        # One image fewer, and with it a class.
        assert (test.found, test.classes, test.whole) == (2, 2, False)

    def test_classes_without_images(self, tmp_path):
        copies.write_flowers(tmp_path)
        found = checking.check("flowers102", data_root=tmp_path)
        train = found.splits[0]
        assert (train.found, train.expected, train.classes, train.expected_classes) == (3, 3, 3, 102)
        assert not train.whole

    def test_images_that_cannot_be_decoded(self, tmp_path):
        place = copies.write_pets(tmp_path)
        (place / "images" / "Abyssinian_1.jpg").write_bytes(b"")
        told = []
        assert checking.check("pets", data_root=tmp_path).whole
        found = checking.check(
            "pets",
            data_root=tmp_path,
            decode=True,
            progress=lambda what: lambda *done: told.append((what, *done)),
        )
        assert [(image.number, image.key) for image in found.splits[1].unreadable] == [
            (1, "images/Abyssinian_1.jpg")
        ]
        assert "is not an image" in found.splits[1].unreadable[0].reason
        assert not found.whole
        assert told == [("decoding trainval", 4, 4), ("decoding test", 3, 3)]

    def test_more_images_than_are_decoded_at_once(self, tmp_path, monkeypatch):
        place = copies.write_tiny(tmp_path)
        monkeypatch.setattr(checking, "_AT_ONCE", 4)
        shutil.copy(place / "wnids.txt", place / "train" / "n09246464" / "images" / "n09246464_1.JPEG")
        found = checking.check("tiny-imagenet", data_root=tmp_path, decode=True)
        assert [image.number for image in found.splits[0].unreadable] == [5]

    def test_a_list_that_is_gone(self, tmp_path):
        place = copies.write_pets(tmp_path)
        (place / "annotations" / "test.txt").unlink()
        found = checking.check("pets", data_root=tmp_path)
        assert found.splits[0].whole
        assert "cannot read the list" in found.splits[1].problem
        assert not found.whole

    def test_a_split_that_is_gone(self, tmp_path):
        copies.write_images(tmp_path / "pets", ["test/cat/1.jpg"])
        found = checking.check("pets", data_root=tmp_path)
        assert found.splits[0].problem == "there is no split trainval in this copy"

    def test_files_whose_hash_is_known(self, tmp_path, monkeypatch):
        place = copies.write_flowers(tmp_path)
        lists = {
            name: hashlib.md5((place / name).read_bytes()).hexdigest()
            for name in ("setid.mat", "imagelabels.mat")
        }
        lists |= {"102flowers.tgz": "0" * 32, "gone.tgz": "1" * 32}
        (tmp_path / "102flowers.tgz").write_bytes(b"x" * 10)
        row = dataclasses.replace(table.TABLE["flowers102"], md5=lists)
        monkeypatch.setitem(table.TABLE, "flowers102", row)
        monkeypatch.setattr(checking, "_CHUNK", 4)
        found = {part.path.name: part for part in checking.check("flowers102", data_root=tmp_path).files}
        assert {name: part.whole for name, part in found.items()} == {
            "setid.mat": True,
            "imagelabels.mat": True,
            "102flowers.tgz": False,
        }
        assert found["102flowers.tgz"].found == hashlib.md5(b"x" * 10).hexdigest()

    def test_what_is_not_here_says_how_to_get_it(self, tmp_path):
        found = checking.check("pets", data_root=tmp_path)
        assert not found.whole
        assert found.place == ""
        assert "pets is not on this machine" in found.how
        assert "from torchvision.datasets import OxfordIIITPet" in found.how
        assert [part.expected for part in found.splits] == [4, 3]


def test_what_comes_with_the_package():
    found = checking.check("digits")
    assert found.whole
    assert [(part.found, part.classes) for part in found.splits] == [(5388, 10), (1800, 10)]


def test_unknown_names_are_errors():
    with pytest.raises(UnknownNameError, match=r"no data set named 'pet'\. Did you mean pets"):
        checking.check("pet")


def test_several_labels_are_counted_as_classes(tmp_path, monkeypatch, carp_home):
    shrink(monkeypatch, "imagenet", {"train": 3, "validation": 4}, 3)
    shrink(monkeypatch, "imagenet-real", {"validation": 4}, 3)
    copies.write_imagenet(tmp_path)
    (tmp_path / "imagenet-real").mkdir()
    (tmp_path / "imagenet-real" / "real.json").write_text("[[2], [2], [], [1, 2]]")
    part = checking.check("imagenet-real", data_root=tmp_path).splits[0]
    assert (part.found, part.classes, part.expected_classes, part.whole) == (4, 2, 0, True)
