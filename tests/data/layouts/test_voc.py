import inspect
import shutil
from pathlib import Path

import numpy as np
import pytest
import torchvision

from carp_eval.data.layouts import voc
from carp_eval.data.opening import locate, open_images
from carp_eval.data.table import TABLE
from carp_eval.errors import DataError
from tests.evaluation import voc_scene

SHARED = Path(__file__).parents[4] / "shared" / "data"
# Images with an object of each class that is not difficult. Train, val and trainval: the development kit's
# documentation, table 1; test: the data set's page, database statistics.
POSITIVES = {
    "train": (112, 116, 180, 81, 139, 97, 376, 163, 224, 69, 97, 203, 139, 120, 1025, 133, 48, 111, 127, 128),
    "val": (126, 127, 150, 100, 105, 89, 337, 174, 221, 72, 103, 218, 148, 125, 983, 112, 48, 118, 134, 128),
    "test": (
        204,
        239,
        282,
        172,
        212,
        174,
        721,
        322,
        417,
        127,
        190,
        418,
        274,
        222,
        2007,
        224,
        97,
        223,
        259,
        229,
    ),
}


@pytest.fixture
def copy(tmp_path):
    voc_scene.make(tmp_path)
    return tmp_path


@pytest.mark.parametrize("inside", [".", "VOCdevkit", "VOCdevkit/VOC2007"])
def test_a_copy_is_found_from_each_of_its_folders(copy, inside):
    source = locate(f"voc07:{copy / inside}")
    assert set(source.splits) == {"train", "val", "trainval", "test"}
    assert [len(source.open(split)) for split in ("train", "validation", "trainval", "test")] == [
        30,
        30,
        60,
        40,
    ]


def test_images_show_what_is_listed(copy):
    images = open_images(f"voc07:{copy}", "test")
    assert images.class_names == tuple(voc_scene.CLASSES)
    assert images.targets is not None
    assert images.targets.dtype == np.int8
    assert images.targets.tolist() == [voc_scene.targets(number) for number in range(60, 100)]
    assert set(images.labels.tolist()) == {-1}
    assert (images.key(0), images.image(0).size) == ("000061.jpg", (50, 40))
    # The ninth class, in the second row's fourth place.
    chair = images.targets[:, voc_scene.CLASSES.index("chair")]
    means = np.array([np.asarray(images.image(i).convert("L"))[10:20, 30:40].mean() for i in range(40)])
    assert means[chair == 1].min() > means[chair == -1].max()
    assert means[chair == 0].min() > means[chair == -1].max()


def test_lists_need_not_have_one_order(copy):
    before = open_images(f"voc07:{copy}", "test").targets
    path = copy / "VOCdevkit/VOC2007/ImageSets/Main/cow_test.txt"
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    assert np.array_equal(open_images(f"voc07:{copy}", "test").targets, before)


def test_the_manifest_knows_targets(copy):
    before = open_images(f"voc07:{copy}", "test").manifest_sha256
    path = copy / "VOCdevkit/VOC2007/ImageSets/Main/cow_test.txt"
    path.write_text(path.read_text().replace("000061  0", "000061 -1"))
    assert open_images(f"voc07:{copy}", "test").manifest_sha256 != before


def test_what_is_missing_is_told(copy):
    photographs = copy / "VOCdevkit/VOC2007/JPEGImages"
    for number in range(61, 71):
        (photographs / f"{number:06d}.jpg").unlink()
    images = open_images(f"voc07:{copy}", "test")
    assert images.partial == "30 of 4,952 test images"
    assert images.key(0) == "000071.jpg"
    assert images.targets is not None
    assert images.targets.tolist() == [voc_scene.targets(number) for number in range(70, 100)]
    shutil.rmtree(photographs)
    with pytest.raises(DataError, match="none of the 40 photographs"):
        open_images(f"voc07:{copy}", "test")


def test_by_its_name_a_part_is_refused(copy):
    with pytest.raises(DataError, match=f"60 images of 20 classes in trainval.*say voc07:{copy}"):
        open_images("voc07", "trainval", data_root=copy)


def broken_line(path):
    path.write_text(path.read_text() + "000001 yes\n")


def twice(path):
    path.write_text(path.read_text() * 2)


def another(path):
    path.write_text(path.read_text().replace("000070", "999999"))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (broken_line, "line 41 of .*cow_test.txt is '000001 yes'"),
        (twice, "line 41"),
        (another, "cow_test.txt lists other photographs .* 2 are in one"),
        (Path.unlink, "cannot read .*cow_test.txt"),
        (lambda path: path.write_text("\n"), "cow_test.txt lists no photograph"),
    ],
)
def test_broken_lists_are_told(copy, damage, told):
    damage(copy / "VOCdevkit/VOC2007/ImageSets/Main/cow_test.txt")
    with pytest.raises(DataError, match=told):
        open_images(f"voc07:{copy}", "test")


def test_lists_of_no_split_are_told(copy):
    for path in (copy / "VOCdevkit/VOC2007/ImageSets/Main").glob("aeroplane_*"):
        path.unlink()
    with pytest.raises(DataError, match=r"expected files such as aeroplane_trainval\.txt"):
        locate(f"voc07:{copy}")


@pytest.mark.skipif(not (SHARED / "voc2007_lists").is_dir(), reason="the official lists are not here")
def test_the_official_lists_have_the_official_counts():
    found = {split: voc.read_lists(SHARED / "voc2007_lists", split) for split in voc.SPLITS}
    for split, (names, targets) in found.items():
        assert targets.shape == (voc.SPLITS[split], 20)
        assert len(set(names)) == len(names)
        counts = {value: (targets == value).sum(axis=0) for value in (1, 0, -1)}
        wanted = POSITIVES.get(split)
        if split == "trainval":
            wanted = tuple(a + b for a, b in zip(POSITIVES["train"], POSITIVES["val"], strict=True))
        assert counts[1].tolist() == list(wanted)
        assert (sum(counts.values()) == len(names)).all()
        # Counted by their lines, without a parser: `grep -c ' 0$'`.
        for class_name, difficult in zip(voc.CLASS_NAMES, counts[0], strict=True):
            text = (SHARED / f"voc2007_lists/ImageSets/Main/{class_name}_{split}.txt").read_text()
            assert text.count(" 0\n") == difficult
            assert (
                text.count(" -1\n")
                == len(names) - difficult - (targets[:, voc.CLASS_NAMES.index(class_name)] == 1).sum()
            )
    assert sorted(found["train"][0] + found["val"][0]) == sorted(found["trainval"][0])
    assert not set(found["trainval"][0]) & set(found["test"][0])


def test_torchvision_knows_the_same_archives():
    source = inspect.getsource(torchvision.datasets.voc)
    for archive, md5 in TABLE["voc07"].md5.items():
        assert archive in source
        assert md5 in source
