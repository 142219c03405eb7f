import json

import pytest
from torchvision import datasets

from carp_eval.data.folders import FolderSource
from carp_eval.data.layouts import scenes
from carp_eval.errors import DataError
from tests.data.layouts import copies
from tests.data.layouts.oracle import paths_and_labels, same_as_torchvision


def test_textures_are_read_as_torchvision_reads_them(tmp_path):
    source = scenes.read_textures("dtd", copies.write_textures(tmp_path))
    for split, theirs in (("train", "train"), ("validation", "val"), ("test", "test")):
        expected = datasets.DTD(tmp_path, split=theirs)
        same_as_torchvision(source.open(split), expected)
        assert list(source.open(split).class_names) == expected.classes
    both = [source.open(split) for split in ("train", "validation")]
    assert paths_and_labels(source.open("trainval")) == [
        row for images in both for row in paths_and_labels(images)
    ]


def test_food_is_read_as_torchvision_reads_it(tmp_path):
    source = scenes.read_food("food101", copies.write_food(tmp_path))
    for split in ("train", "test"):
        expected = datasets.Food101(tmp_path, split=split)
        ours = source.open(split)
        assert list(ours.class_names) == expected.classes == ["apple_pie", "waffles"]
        # torchvision goes through the dishes as they stand in the file, we by their numbers.
        assert sorted((str(ours.path(n)), label) for n, label in enumerate(ours.labels.tolist())) == sorted(
            (str(path), label) for path, label in zip(expected._image_files, expected._labels, strict=True)
        )
    assert paths_and_labels(source.open("train")) == [
        ("images/apple_pie/1005649.jpg", 0),
        ("images/apple_pie/2.jpg", 0),
        ("images/waffles/31.jpg", 1),
        ("images/waffles/4.jpg", 1),
    ]


def test_a_list_of_dishes_that_is_cut_short_is_refused(tmp_path):
    place = copies.write_food(tmp_path)
    path = place / "meta" / "train.json"
    path.write_text(path.read_text()[:-5])
    with pytest.raises(DataError, match="is not whole JSON"):
        scenes.read_food("food101", place).open("train")
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read the list .*train\.json: No such file"):
        scenes.read_food("food101", place).open("train")


def test_signs_are_read_as_torchvision_reads_them(tmp_path):
    place = copies.write_signs(tmp_path)
    source = scenes.read_signs("gtsrb", place)
    for split in ("train", "test"):
        ours = source.open(split)
        theirs = datasets.GTSRB(tmp_path, split=split)._samples
        # torchvision numbers the folders that are there, which is right where all 43 are.
        numbers = {0: 0, 1: 7, 2: 42} if split == "train" else {label: label for label in range(43)}
        assert [(str(ours.path(n)), label) for n, label in enumerate(ours.labels.tolist())] == [
            (path, numbers[label]) for path, label in theirs
        ]
        assert len(ours.class_names) == 43
    assert source.open("test").labels.tolist() == [16, 1, 38]


def test_signs_as_the_archives_unpack(tmp_path):
    place = copies.write_signs(tmp_path, train="Final_Training/Images")
    expected = paths_and_labels(scenes.read_signs("gtsrb", place).open("train"))
    assert [label for _, label in expected] == [0, 0, 7, 7, 42, 42]
    assert expected[2] == ("Final_Training/Images/00007/00000_00000.ppm", 7)
    assert paths_and_labels(scenes.read_signs("gtsrb", place / "GTSRB").open("train")) == expected


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, "GTSRB_Final_Test_GT"),
        (
            ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2", "0.ppm;1;1;1;1;1;1"],
            "line 1 of .* has 7 fields",
        ),
        (["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId", "0.ppm;53;54"], "line 2 .* cut short"),
        (
            ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId", "0.ppm;1;1;1;1;1;1;43"],
            "from 43 to 43",
        ),
        (["a;b;c;d;e;f;g;h"], "does not give Filename and ClassId"),
    ],
)
def test_signs_without_their_classes_are_refused(tmp_path, lines, message):
    place = copies.write_signs(tmp_path)
    (place / "GT-final_test.csv").unlink()
    if lines:
        copies.write_lines(place / "GT-final_test.csv", lines)
    with pytest.raises(DataError, match=message):
        scenes.read_signs("gtsrb", place).open("test")


def test_a_sign_that_there_is_not_is_refused(tmp_path):
    place = copies.write_signs(tmp_path)
    copies.write_images(place / "GTSRB" / "Training", ["00043/0.ppm"])
    with pytest.raises(DataError, match="has a folder 00043, but signs are numbered"):
        scenes.read_signs("gtsrb", place).open("train")


def test_countries_are_class_folders(tmp_path):
    place = copies.write_countries(tmp_path)
    source = FolderSource("country211", place)
    for split, theirs in (("train", "train"), ("validation", "valid"), ("test", "test")):
        ours = source.open(split)
        expected = datasets.Country211(tmp_path, split=theirs)
        assert [
            (str(ours.path(n)), label) for n, label in enumerate(ours.labels.tolist())
        ] == expected.samples
        assert list(ours.class_names) == expected.classes


def test_species_go_by_the_json_of_their_split(tmp_path):
    place = copies.write_species(tmp_path)
    source = scenes.read_species("inat18", place)
    number = {3: 0, 20: 1, 100: 2}
    for split, key in (("train", "train"), ("validation", "val")):
        ours = source.open(split)
        assert sorted(paths_and_labels(ours)) == sorted(
            (file, number[kind]) for _, file, kind in copies.SPECIES[key]
        )
        assert ours.class_names == ("Acer", "Corvus", "Apis")
        assert len({ours.image(n).tobytes() for n in range(2)}) == 2


def test_species_in_torchvisions_folder(tmp_path):
    place = copies.write_species(tmp_path)
    (place / "train_val2018").rename(place / "2018")
    assert paths_and_labels(scenes.read_species("inat18", place).open("validation")) == [
        ("2018/Insecta/100/d.jpg", 2),
        ("2018/Plantae/3/b.jpg", 0),
    ]


def test_species_without_their_json_are_refused(tmp_path):
    place = copies.write_species(tmp_path)
    content = json.loads((place / "val2018.json").read_text())
    del content["images"][0]
    (place / "val2018.json").write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"does not list images, annotations and categories \(KeyError\(5\)\)"
    ):
        scenes.read_species("inat18", place).open("validation")
    for path in place.glob("*.json"):
        path.unlink()
    with pytest.raises(DataError, match=r"neither train2018\.json nor val2018\.json"):
        scenes.read_species("inat18", place)


def test_places_go_by_their_lists(tmp_path):
    place = copies.write_places(tmp_path)
    source = scenes.read_places("places205", place)
    train, validation = source.open("train"), source.open("val")
    inside = "data/vision/torralba/deeplearning/images256"
    assert paths_and_labels(train) == [
        (f"{inside}/b/basement/gsun_1.jpg", 2),
        (f"{inside}/a/abbey/gsun_2.jpg", 0),
        (f"{inside}/a/apartment_building/outdoor/x.jpg", 1),
    ]
    assert (
        train.class_names
        == validation.class_names
        == ("a/abbey", "a/apartment_building/outdoor", "b/basement")
    )
    assert validation.labels.tolist() == [1, 2, 0]
    (place / inside).rename(place / "images256")
    assert scenes.read_places("places205", place).open("train").key(1) == "images256/a/abbey/gsun_2.jpg"


@pytest.mark.parametrize(
    ("line", "message"), [("a/abbey/gsun_9.jpg", "line 4 of"), ("a/b.jpg x", "number of a class")]
)
def test_a_broken_list_of_places_is_refused(tmp_path, line, message):
    place = copies.write_places(tmp_path)
    path = place / "trainvalsplit_places205" / "train_places205.csv"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(DataError, match=message):
        scenes.read_places("places205", place).open("train")


@pytest.mark.parametrize(
    "read",
    [scenes.read_textures, scenes.read_food, scenes.read_signs, scenes.read_species, scenes.read_places],
)
def test_other_layouts_are_left_to_others(tmp_path, read):
    copies.write_images(tmp_path, ["train/cat/1.jpg", "test/cat/1.jpg"])
    assert read("x", tmp_path) is None
