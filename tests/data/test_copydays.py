import re

import numpy as np
import pytest

from carp_eval.data import copydays, opening
from carp_eval.data.table import TABLE
from carp_eval.errors import DataError
from tests.data.pictures import picture

NAMES = (
    "original/200000.jpg",
    "original/200100.jpg",
    "original/200900.jpg",
    "strong/200901.jpg",
    "strong/200001.jpg",
    "strong/200002.jpg",
    "jpegqual/3/200100.jpg",
    "jpegqual/10/200100.jpg",
    "crops/80/200000.JPG",
)


def write(root, names=NAMES):
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(root / name)
    return root


@pytest.fixture
def source(tmp_path):
    return opening.locate(f"copydays:{write(tmp_path)}")


def test_each_block_is_a_split(source):
    assert source.splits == ("original", "strong", "jpegqual-3", "jpegqual-10", "crops-80")
    assert len(copydays.BLOCKS) == 19


def test_labels_pair_copies_with_their_originals(source):
    expected = {
        "original": {"original/200000.jpg": 0, "original/200100.jpg": 1, "original/200900.jpg": 2},
        "strong": {"strong/200001.jpg": 0, "strong/200002.jpg": 0, "strong/200901.jpg": 2},
        "jpegqual-3": {"jpegqual/3/200100.jpg": 1},
        "crops-80": {"crops/80/200000.JPG": 0},
    }
    for split, labels in expected.items():
        images = source.open(split)
        assert {images.key(number): int(label) for number, label in enumerate(images.labels)} == labels
        assert images.class_names == ("200000", "200100", "200900")


def test_images_are_the_files(source, tmp_path):
    images = source.open("strong")
    assert np.array_equal(np.asarray(images.image(0)), np.asarray(opening_of(tmp_path / "strong/200001.jpg")))


def opening_of(path):
    from PIL import Image

    return Image.open(path)


def test_a_copy_of_an_original_that_is_not_there_has_no_label(tmp_path):
    write(tmp_path, (*NAMES, "strong/201501.jpg"))
    images = opening.open_images(f"copydays:{tmp_path}", "strong")
    assert images.labels.tolist() == [0, 0, 2, -1]


def test_other_files_are_passed_over(tmp_path):
    write(tmp_path)
    for name in ("original/readme.txt", "strong/.hidden.jpg"):
        (tmp_path / name).write_text("nothing")
    assert len(opening.open_images(f"copydays:{tmp_path}", "strong")) == 3


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("original/x.txt", "strong/200001.jpg"), "its folder original/ has no .jpg"),
        (("original/200000.jpg",), "no block of copies, such as strong/"),
        ((*NAMES, "original/200001.jpg"), "several images of the number 2000"),
        ((*NAMES, "strong/cat.jpg"), r"strong/cat\.jpg has no number for a name, such as 200000\.jpg"),
    ],
)
def test_what_is_no_copy_of_copydays_is_refused(tmp_path, names, message):
    write(tmp_path, [name for name in names if name.lower().endswith("jpg")])
    (tmp_path / "original").mkdir(exist_ok=True)
    with pytest.raises(DataError, match=message):
        opening.locate(f"copydays:{tmp_path}")


def test_a_folder_without_originals_is_another_layout(tmp_path):
    write(tmp_path, ("strong/200001.jpg",))
    assert copydays.read("copydays", tmp_path) is None
    with pytest.raises(DataError, match="layout"):
        opening.locate(f"copydays:{tmp_path}")


def test_a_partial_copy_is_refused_under_the_sets_own_name_and_taken_where_it_is_named(tmp_path):
    write(tmp_path / "copydays")
    with pytest.raises(DataError, match=re.escape(f"copydays:{tmp_path / 'copydays'}")):
        opening.open_images("copydays", "strong", data_root=tmp_path)
    assert len(opening.open_images(f"copydays:{tmp_path / 'copydays'}", "strong")) == 3


def test_the_table_counts_as_the_field_does():
    row = TABLE["copydays"]
    assert set(row.splits) == set(copydays.FOLDERS)
    # 157 photographs, 229 strong copies, and 18 blocks of 157 besides.
    assert sum(row.splits.values()) == 157 + 229 + 2826
