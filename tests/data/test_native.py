"""Data sets of the table in the layouts in which they are distributed, found by name."""

import dataclasses
import json
import re
import shutil

import pytest

from carp_eval.data import opening, table
from carp_eval.data.layouts.known import LAYOUTS, LAYOUTS_ON_BASE
from carp_eval.data.opening import open_images
from carp_eval.errors import DataError
from tests.data.layouts import copies

# Of each small copy: who writes it, what it has in each split, and its classes.
SMALL = {
    "aircraft": (copies.write_aircraft, {"train": 2, "validation": 1, "trainval": 3, "test": 1}, 3),
    "cars": (copies.write_cars, {"train": 3, "test": 2}, 3),
    "country211": (copies.write_countries, {"train": 9, "validation": 3, "test": 6}, 3),
    "dtd": (copies.write_textures, {"train": 2, "validation": 2, "trainval": 4, "test": 3}, 2),
    "flowers102": (copies.write_flowers, {"train": 3, "validation": 2, "trainval": 5, "test": 3}, 102),
    "food101": (copies.write_food, {"train": 4, "test": 3}, 2),
    "gtsrb": (copies.write_signs, {"train": 6, "test": 3}, 43),
    "inat18": (copies.write_species, {"train": 2, "validation": 2}, 3),
    "pets": (copies.write_pets, {"trainval": 4, "test": 3}, 3),
    "places205": (copies.write_places, {"train": 3, "validation": 3}, 3),
    "tiny-imagenet": (copies.write_tiny, {"train": 6, "validation": 2}, 3),
}


def shrink(monkeypatch, name, splits, classes):
    """Have the table expect a small copy of a data set; every split must be told."""
    row = table.TABLE[name]
    assert set(splits) == set(row.splits)
    monkeypatch.setitem(table.TABLE, name, dataclasses.replace(row, splits=splits, num_classes=classes))


@pytest.fixture
def small(monkeypatch, carp_home, hub_cache):
    for name, (_, splits, classes) in SMALL.items():
        shrink(monkeypatch, name, splits, classes)
    shrink(monkeypatch, "imagenet", {"train": 3, "validation": 4}, 3)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", SMALL)
def test_a_copy_is_found_beside_and_in_its_folder(tmp_path, name):
    write, splits, classes = SMALL[name]
    place = write(tmp_path / "root")
    beside = {split: open_images(name, split, data_root=tmp_path / "root") for split in splits}
    for split, images in beside.items():
        assert (images.name, images.split, len(images)) == (name, split, splits[split])
        assert len(images.class_names) == classes
        assert images.partial == ""
        assert all(images.image(number).size == (8, 6) for number in range(len(images)))
    if place.name != name:
        inside = tmp_path / "other" / name
        shutil.copytree(place, inside / place.name)
        images = open_images(name, "test", data_root=tmp_path / "other")
        assert [images.key(n) for n in range(len(images))] == [
            beside[images.split].key(n) for n in range(len(images))
        ]
        assert images.manifest_sha256 == beside[images.split].manifest_sha256
    renamed = tmp_path / "third" / name
    shutil.copytree(place, renamed)
    assert len(open_images(name, "test", data_root=tmp_path / "third")) == len(images)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", [name for name in SMALL if table.TABLE[name].layout])
def test_part_of_a_copy_is_taken_only_by_its_path(tmp_path, monkeypatch, name):
    write, splits, classes = SMALL[name]
    place = write(tmp_path)
    shrink(monkeypatch, name, {split: size + 1 for split, size in splits.items()}, classes)
    with pytest.raises(DataError, match=f"has {splits[next(iter(splits))]} images") as caught:
        open_images(name, next(iter(splits)), data_root=tmp_path)
    # A folder of the same name may lie in it; either is taken.
    said = re.search(rf"To use it as it is, say {name}:({place}\S*); to get the whole:", str(caught.value))
    place = said.group(1)
    for split, size in splits.items():
        images = open_images(f"{name}:{place}", split)
        assert (images.name, images.split, len(images)) == (f"{name}:{place}", split, size)
        assert images.partial == f"{size} of {size + 1} {split} images"


@pytest.mark.usefixtures("small")
def test_a_split_that_a_copy_lacks_is_not_another(tmp_path, monkeypatch):
    # As many in both: the count alone would not tell.
    shrink(monkeypatch, "dtd", {"train": 2, "validation": 1, "trainval": 3, "test": 1}, 2)
    copies.write_images(tmp_path / "dtd", ["train/a/1.png", "train/b/1.png", "val/b/2.png"])
    assert len(open_images("dtd", "validation", data_root=tmp_path)) == 1
    with pytest.raises(DataError, match="has train, validation, but not test: the copy of dtd is incomplete"):
        open_images("dtd", "test", data_root=tmp_path)


def test_what_only_the_native_layout_tells_is_not_guessed_from_class_folders(tmp_path, carp_home):
    copies.write_images(tmp_path / "voc07", ["trainval/cat/1.png", "test/cat/1.png"])
    with pytest.raises(
        DataError, match=r"is not laid out as voc07 is; do one of:\n  - unpack VOCtrainval"
    ) as caught:
        open_images("voc07", "test", data_root=tmp_path)
    assert "Parquet" not in str(caught.value)


def test_a_path_in_another_layout_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"there is no folder .*gone"):
        open_images(f"pets:{tmp_path}/gone", "test")
    with pytest.raises(DataError, match=r"is not in the layout in which pets is distributed; .* folder:"):
        open_images(f"pets:{tmp_path}", "test")


@pytest.mark.usefixtures("small")
def test_class_folders_are_taken_where_there_is_no_native_layout(tmp_path, monkeypatch):
    shrink(monkeypatch, "gtsrb", {"train": 2, "test": 1}, 2)
    copies.write_images(tmp_path / "gtsrb", ["train/a/1.png", "train/b/1.png", "test/b/2.png"])
    assert open_images("gtsrb", "test", data_root=tmp_path).labels.tolist() == [1]


@pytest.mark.usefixtures("small")
def test_sets_on_imagenets_classes_find_imagenet(tmp_path, monkeypatch):
    root = tmp_path / "root"
    copies.write_images(root / "imagenetv2-matched-frequency-format-val", [f"{n}/a.jpeg" for n in range(3)])
    shrink(monkeypatch, "imagenet-v2", {"test": 3}, 3)
    shrink(monkeypatch, "imagenet-real", {"validation": 4}, 3)
    (root / "imagenet-real").mkdir()
    (root / "imagenet-real" / "real.json").write_text(json.dumps([[2], [0, 1], [], [1, 2]]))
    for name in ("imagenet-v2", "imagenet-real"):
        with pytest.raises(DataError, match="imagenet is not on this machine"):
            open_images(name, "test", data_root=root)
    copies.write_imagenet(root)
    assert open_images("imagenet-v2", "test", data_root=root).class_names == copies.WNIDS
    assert open_images("imagenet-real", "test", data_root=root).targets.sum() == 5 - 7
    v2 = root / "imagenetv2-matched-frequency-format-val"
    assert open_images(f"imagenet-v2:{v2}", "test", data_root=root).labels.tolist() == [0, 1, 2]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r", "imagenet-sketch"])
def test_class_folders_that_are_all_to_test_on(tmp_path, monkeypatch, name):
    shrink(monkeypatch, name, {"test": 3}, 2)
    copies.write_images(tmp_path / name, ["n01443537/b.jpg", "n01440764/c.jpg", "n01443537/a.jpg"])
    images = open_images(name, "test", data_root=tmp_path)
    assert (images.split, images.class_names) == ("test", ("n01440764", "n01443537"))
    inside = "sketch" if name == "imagenet-sketch" else name
    shutil.move(tmp_path / name, tmp_path / "unpacked")
    shutil.move(tmp_path / "unpacked", tmp_path / "other" / name / inside)
    assert open_images(name, "test", data_root=tmp_path / "other").labels.tolist() == [0, 1, 1]


def test_the_hub_may_call_a_split_by_another_name(tmp_path, monkeypatch, carp_home, hub_cache):
    from tests.data.test_hub import pets

    shrink(monkeypatch, "pets", {"trainval": 3, "test": 1}, 2)
    pets(tmp_path / "pets")
    pets(tmp_path / "pets", labels=[1], first=9, split="test")
    images = open_images("pets", "trainval", data_root=tmp_path)
    assert (images.split, images.labels.tolist()) == ("trainval", [0, 1, 1])


def test_every_row_names_a_reader_that_there_is():
    named = {row.layout for row in table.TABLE.values() if row.layout}
    assert named == set(LAYOUTS) | set(LAYOUTS_ON_BASE)
    assert all(row.base for row in table.TABLE.values() if row.layout in LAYOUTS_ON_BASE)
    assert not set(LAYOUTS) & set(LAYOUTS_ON_BASE)


def test_a_folder_found_is_told(tmp_path, carp_home):
    assert opening.local_copy("pets", data_root=tmp_path) is None
    assert opening.local_copy("pets", data_root=tmp_path / "root") is None
    place = copies.write_pets(tmp_path)
    assert opening.local_copy("pets", data_root=tmp_path) == place
