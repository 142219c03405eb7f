import pytest
from torchvision.datasets import ImageFolder

from carp_eval.data.folders import FolderSource
from carp_eval.data.layouts import imagenets
from carp_eval.errors import DataError
from tests.data.layouts import copies
from tests.data.layouts.oracle import paths_and_labels


def test_tiny_imagenet(tmp_path):
    place = copies.write_tiny(tmp_path)
    source = imagenets.read_tiny("tiny-imagenet", place)
    train, validation = source.open("train"), source.open("validation")
    expected = ImageFolder(place / "train")
    assert [(str(train.path(n)), label) for n, label in enumerate(train.labels.tolist())] == expected.samples
    assert train.class_names == validation.class_names == ("n01443537", "n02124075", "n09246464")
    assert paths_and_labels(validation) == [("val/images/val_0.JPEG", 2), ("val/images/val_1.JPEG", 0)]
    assert source.splits == ("train", "validation")


def test_tiny_imagenet_whose_validation_images_were_sorted_into_folders(tmp_path):
    place = copies.write_tiny(tmp_path)
    (place / "val" / "val_annotations.txt").unlink()
    copies.write_images(place / "val", ["n01443537/images/val_1.JPEG", "n09246464/images/val_0.JPEG"])
    validation = imagenets.read_tiny("tiny-imagenet", place).open("validation")
    assert paths_and_labels(validation) == [
        ("val/n01443537/images/val_1.JPEG", 0),
        ("val/n09246464/images/val_0.JPEG", 2),
    ]


def test_tiny_imagenet_with_a_class_of_something_else_is_refused(tmp_path):
    place = copies.write_tiny(tmp_path)
    copies.write_lines(place / "val" / "val_annotations.txt", ["val_0.JPEG\tn00000001\t0\t32\t44\t62"])
    with pytest.raises(DataError, match=r"has the class 'n00000001', which wnids\.txt has not"):
        imagenets.read_tiny("tiny-imagenet", place).open("validation")


def test_class_folders_that_are_all_to_test_on(tmp_path):
    copies.write_images(tmp_path, ["n01443537/b.jpg", "n01440764/c.jpg", "n01443537/a.jpg"])
    (tmp_path / "README.txt").write_text("classes")
    source = imagenets.read_one_test_split("imagenet-r", tmp_path)
    images = source.open("test")
    assert (source.splits, images.split) == (("test",), "test")
    assert images.class_names == ("n01440764", "n01443537")
    expected = ImageFolder(tmp_path)
    assert [
        (str(images.path(n)), label) for n, label in enumerate(images.labels.tolist())
    ] == expected.samples
    copies.write_images(tmp_path / "other", ["train/n01440764/c.jpg"])
    assert imagenets.read_one_test_split("imagenet-r", tmp_path / "other") is None


def test_the_numbers_of_imagenet_v2_are_places_among_imagenets_classes(tmp_path):
    place = copies.write_imagenet(tmp_path)
    v2 = tmp_path / "imagenetv2"
    copies.write_images(v2, [f"{number}/{name}.jpeg" for number in (2, 0, 1) for name in "ba"])
    source = imagenets.read_v2("imagenet-v2", v2, lambda: FolderSource("imagenet", place))
    images = source.open("test")
    assert images.class_names == copies.WNIDS
    assert paths_and_labels(images) == [
        ("0/a.jpeg", 0),
        ("0/b.jpeg", 0),
        ("1/a.jpeg", 1),
        ("1/b.jpeg", 1),
        ("2/a.jpeg", 2),
        ("2/b.jpeg", 2),
    ]
    copies.write_images(v2, ["3/a.jpeg"])
    with pytest.raises(DataError, match="has a folder '3', but classes are numbered 0 to 2"):
        source.open("test")


def test_the_numbers_of_imagenet_v2_are_in_order_of_size_not_of_spelling(tmp_path):
    wnids = [f"n{number:08d}" for number in range(12)]
    copies.write_images(tmp_path / "imagenet", [f"val/{wnid}/1.JPEG" for wnid in wnids])
    copies.write_images(tmp_path / "v2", [f"{number}/1.jpeg" for number in range(12)])
    images = imagenets.read_v2("x", tmp_path / "v2", lambda: FolderSource("y", tmp_path / "imagenet")).open(
        "test"
    )
    for index in range(12):
        number = images.key(index).partition("/")[0]
        assert images.class_names[images.labels[index]] == wnids[int(number)]


def test_imagenet_v2_needs_imagenet(tmp_path):
    copies.write_images(tmp_path, ["0/a.jpeg"])

    def base():
        raise DataError("imagenet is not on this machine")

    source = imagenets.read_v2("imagenet-v2", tmp_path, base)
    with pytest.raises(
        DataError, match=r"only imagenet's folders, sorted, name them\. imagenet is not on this"
    ):
        source.open("test")
    assert imagenets.read_v2("imagenet-v2", tmp_path / "0", base) is None
