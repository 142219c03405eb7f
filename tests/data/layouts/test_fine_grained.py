import hashlib

import numpy as np
import pytest
import scipy.io
from torchvision import datasets

from carp_eval.data.layouts import fine_grained
from carp_eval.errors import DataError
from tests.data.layouts import copies
from tests.data.layouts.oracle import paths_and_labels, same_as_torchvision


def test_flowers_are_read_as_torchvision_reads_them(tmp_path, monkeypatch):
    place = copies.write_flowers(tmp_path)
    md5 = {
        kind: (file, hashlib.md5((place / file).read_bytes()).hexdigest())
        for kind, file in (("label", "imagelabels.mat"), ("setid", "setid.mat"))
    }
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", md5)
    source = fine_grained.read_flowers("flowers102", place)
    for split, theirs in (("train", "train"), ("validation", "val"), ("test", "test")):
        same_as_torchvision(source.open(split), datasets.Flowers102(tmp_path, split=theirs))
    both = source.open("trainval")
    assert paths_and_labels(both) == [
        *paths_and_labels(source.open("train")),
        *paths_and_labels(source.open("validation")),
    ]
    assert paths_and_labels(source.open("train")) == [
        ("jpg/image_00005.jpg", 4),
        ("jpg/image_00002.jpg", 2),
        ("jpg/image_00008.jpg", 76),
    ]
    assert both.class_names[76] == "passion flower"


def test_flowers_whose_two_files_do_not_fit_are_refused(tmp_path):
    place = copies.write_flowers(tmp_path)
    scipy.io.savemat(place / "imagelabels.mat", {"labels": np.array([[77, 3]], np.uint8)})
    with pytest.raises(DataError, match=r"counts flowers from 2 to 8, but .* of 2"):
        fine_grained.read_flowers("flowers102", place).open("train")


@pytest.mark.parametrize("damage", ["cut", "other", "gone"])
def test_a_damaged_matlab_file_is_refused(tmp_path, damage):
    path = copies.write_flowers(tmp_path) / "setid.mat"
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "other":
        scipy.io.savemat(path, {"strange": [1]})
    else:
        path.unlink()
    message = "cannot read the list" if damage == "gone" else "cannot be read as a Matlab file with 'trnid'"
    with pytest.raises(DataError, match=message):
        fine_grained.read_flowers("flowers102", path.parent).open("train")


def test_pets_are_read_as_torchvision_reads_them(tmp_path):
    place = copies.write_pets(tmp_path)
    source = fine_grained.read_pets("pets", place)
    for split in ("trainval", "test"):
        theirs = datasets.OxfordIIITPet(tmp_path, split=split)
        ours = source.open(split)
        assert [(f"{place}/{key}", label) for key, label in paths_and_labels(ours)] == [
            (str(path), label) for path, label in zip(theirs._images, theirs._labels, strict=True)
        ]
        assert [name.title() for name in ours.class_names] == theirs.classes
    assert source.open("test").class_names == ("Abyssinian", "great pyrenees", "Bombay")


@pytest.mark.parametrize("line", ["Abyssinian_3", "Abyssinian_3 x 1 1", "Abyssinian_3 0 1 1"])
def test_a_broken_list_of_pets_is_refused(tmp_path, line):
    path = copies.write_pets(tmp_path) / "annotations" / "trainval.txt"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(DataError, match=r"line 5 of|number of a class|numbered from -1"):
        fine_grained.read_pets("pets", path.parent.parent).open("trainval")


def test_aircraft_are_read_as_torchvision_reads_them(tmp_path):
    place = copies.write_aircraft(tmp_path)
    source = fine_grained.read_aircraft("aircraft", place)
    for split, theirs in (
        ("train", "train"),
        ("validation", "val"),
        ("trainval", "trainval"),
        ("test", "test"),
    ):
        expected = datasets.FGVCAircraft(tmp_path, split=theirs)
        same_as_torchvision(source.open(split), expected)
        assert list(source.open(split).class_names) == expected.classes
    assert paths_and_labels(source.open("train")) == [
        ("data/images/0056978.jpg", 2),
        ("data/images/1025794.jpg", 1),
    ]


def test_an_unknown_variant_is_refused(tmp_path):
    place = copies.write_aircraft(tmp_path)
    copies.write_lines(place / "data" / "variants.txt", ["707-320", "ATR 42"])
    with pytest.raises(DataError, match=r"has the variant 'F/A-18', which variants\.txt has not"):
        fine_grained.read_aircraft("aircraft", place).open("train")


def test_cars_are_read_as_torchvision_reads_them(tmp_path):
    place = copies.write_cars(tmp_path)
    source = fine_grained.read_cars("cars", place)
    for split in ("train", "test"):
        expected = datasets.StanfordCars(tmp_path, split=split)
        ours = source.open(split)
        assert [(f"{place}/{key}", label) for key, label in paths_and_labels(ours)] == expected._samples
        assert list(ours.class_names) == expected.classes
    assert source.open("train").labels.tolist() == [2, 0, 1]


def test_cars_of_other_copies(tmp_path):
    place = copies.write_cars(tmp_path)
    (place / "cars_train").rename(place / "inside")
    (place / "cars_train").mkdir()
    (place / "inside").rename(place / "cars_train" / "cars_train")
    source = fine_grained.read_cars("cars", place)
    assert source.open("train").key(0) == "cars_train/cars_train/00001.jpg"
    (place / "cars_test_annos_withlabels.mat").rename(place / "devkit" / "cars_test_annos_withlabels.mat")
    assert fine_grained.read_cars("cars", place).open("test").labels.tolist() == [1, 2]
    (place / "devkit" / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(DataError, match="only that file has the classes of the test images"):
        fine_grained.read_cars("cars", place).open("test")


@pytest.mark.parametrize(
    "read",
    [fine_grained.read_flowers, fine_grained.read_pets, fine_grained.read_aircraft, fine_grained.read_cars],
)
def test_other_layouts_are_left_to_others(tmp_path, read):
    copies.write_images(tmp_path, ["train/cat/1.jpg", "test/cat/1.jpg"])
    assert read("x", tmp_path) is None
