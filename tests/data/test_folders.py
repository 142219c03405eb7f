import os
import pickle
import shutil

import numpy as np
import pytest

from carp_eval.data.folders import FolderSource, PhotographSource
from carp_eval.errors import BadImageError, DataError
from tests.data.pictures import picture, write_folder


def source(root):
    return FolderSource(f"folder:{root}", root)


def test_class_folders_without_splits_are_one_split(tmp_path):
    write_folder(tmp_path, {"dog": 2, "cat": 1, "Ape": 1})
    pets = source(tmp_path)
    assert pets.splits == ("train",)
    images = pets.open("train")
    # Names are sorted by their bytes, in which capitals come first, whatever the machine's language.
    assert images.class_names == ("Ape", "cat", "dog")
    assert images.labels.tolist() == [0, 1, 2, 2]
    assert [images.key(index) for index in range(4)] == ["Ape/0.png", "cat/0.png", "dog/0.png", "dog/1.png"]
    assert images.image(1).tobytes() == picture(2).tobytes()


def test_split_folders_share_one_numbering_of_the_classes(tmp_path):
    write_folder(tmp_path, {"train/ant": 1, "train/bee": 2, "train/cow": 1, "val/bee": 1, "val/dog": 2})
    animals = source(tmp_path)
    assert animals.splits == ("train", "val")
    assert (
        animals.open("train").class_names == animals.open("test").class_names == ("ant", "bee", "cow", "dog")
    )
    assert animals.open("train").labels.tolist() == [0, 1, 1, 2]
    assert animals.open("validation").labels.tolist() == [1, 3, 3]
    assert animals.open("val").key(0) == "bee/0.png"


def test_images_may_lie_deep_in_their_class(tmp_path):
    write_folder(tmp_path, {"cat/tabby/young": 1, "cat/black": 1, "dog": 1})
    images = source(tmp_path).open("train")
    assert [images.key(index) for index in range(3)] == [
        "cat/black/0.png",
        "cat/tabby/young/0.png",
        "dog/0.png",
    ]
    assert images.labels.tolist() == [0, 0, 1]


def test_images_without_class_folders_have_no_label(tmp_path):
    write_folder(tmp_path, {"": 3})
    images = source(tmp_path).open("train")
    assert images.labels.tolist() == [-1, -1, -1]
    assert images.class_names == ()
    assert images.key(2) == "2.png"


def test_an_unlabelled_split_beside_a_labelled_one(tmp_path):
    write_folder(tmp_path, {"train/cat": 1, "train/dog": 1, "test": 2})
    assert source(tmp_path).open("test").labels.tolist() == [-1, -1]
    assert source(tmp_path).open("train").labels.tolist() == [0, 1]


def test_a_class_may_be_called_train(tmp_path):
    write_folder(tmp_path, {"car": 1, "plane": 1, "train": 2})
    vehicles = source(tmp_path)
    assert vehicles.splits == ("train",)
    assert vehicles.open("train").labels.tolist() == [0, 1, 2, 2]


def test_other_files_are_counted_and_hidden_ones_left_out(tmp_path):
    write_folder(tmp_path, {"cat": 1, "cat/.thumbnails": 1, ".git": 1})
    for name in ("notes.txt", ".0.png", "0.png.part"):
        (tmp_path / "cat" / name).write_text("not an image")
    (tmp_path / "cat" / "1.JPEG").write_bytes(b"an image by its name")
    images = source(tmp_path).open("train")
    assert [images.key(index) for index in range(len(images))] == ["cat/0.png", "cat/1.JPEG"]
    assert images.num_ignored == 3
    with pytest.raises(BadImageError, match=r"cat/1\.JPEG is not an image"):
        images.image(1)


def test_links_are_followed_but_not_in_circles(tmp_path):
    write_folder(tmp_path / "elsewhere", {"pictures": 2})
    root = tmp_path / "root"
    (root / "cat").mkdir(parents=True)
    (root / "dog").symlink_to(tmp_path / "elsewhere" / "pictures")
    (root / "cat" / "again").symlink_to(root)
    (root / "cat" / "itself").symlink_to(root / "cat" / "itself")
    picture(9).save(root / "cat" / "0.png")
    (root / "cat" / "broken.png").symlink_to(root / "gone.png")
    images = source(root).open("train")
    keys = [images.key(index) for index in range(len(images))]
    assert [key for key in keys if "again" not in key] == [
        "cat/0.png",
        "cat/broken.png",
        "dog/0.png",
        "dog/1.png",
    ]
    # Once round: the link leads to the root, and what it holds is seen, but not through the link again.
    assert all(key.count("again") <= 1 for key in keys)
    broken = keys.index("cat/broken.png")
    with pytest.raises(BadImageError, match=r"broken\.png cannot be read as an image: No such file"):
        images.image(broken)
    assert images.manifest_sha256


@pytest.mark.parametrize("name", [b"caf\xc3\xa9 \n'\"$(x) .png", b"latin\xe9.png", b"-rf.png", b"%00.png"])
def test_odd_names_are_opened_and_can_be_printed(tmp_path, name):
    picture(5).save(write_folder(tmp_path, {"cat": 0}) / "cat" / os.fsdecode(name))
    images = source(tmp_path).open("train")
    assert images.image(0).tobytes() == picture(5).tobytes()
    images.key(0).encode("utf-8")
    assert images.manifest_sha256


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "has no images; expected class folders"),
        ({"cat": 0}, "class folder 'cat' without any image"),
        ({"train/cat": 0, "val/cat": 0}, "without any image"),
        ({"train/cat": 1, "train/dog": 0, "val/cat": 1}, "class folder 'dog' without any image"),
        ({"cat": 1, "": 2}, r"has class folders, but also 2 images beside them \(0\.png\)"),
        ({"train/cat": 1, "extra": 1}, r"has folders of splits \(train\) and others with images \(extra\)"),
    ],
)
def test_layouts_that_mean_nothing_are_errors(tmp_path, counts, message):
    write_folder(tmp_path, counts)
    with pytest.raises(DataError, match=message):
        source(tmp_path).open("train")


def test_paths_that_are_not_folders_are_errors(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        source(tmp_path / "gone")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Not a directory"):
        source(tmp_path / "file")
    (tmp_path / "a.parquet").write_text("")
    with pytest.raises(DataError, match=f"it holds Parquet files: say hf:{tmp_path}"):
        source(tmp_path)


def test_the_manifest_tells_content_order_and_labels_but_not_the_place(tmp_path):
    write_folder(tmp_path / "a", {"cat": 2, "dog": 1})
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first = source(tmp_path / "a").open("train").manifest_sha256
    assert source(tmp_path / "b").open("train").manifest_sha256 == first
    os.utime(tmp_path / "b" / "cat" / "0.png", (0, 0))
    assert source(tmp_path / "b").open("train").manifest_sha256 == first
    shutil.copy(tmp_path / "b" / "dog" / "0.png", tmp_path / "b" / "cat" / "0.png")
    assert source(tmp_path / "b").open("train").manifest_sha256 != first
    shutil.rmtree(tmp_path / "b")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "dog").rename(tmp_path / "b" / "eel")
    assert source(tmp_path / "b").open("train").manifest_sha256 != first


def test_a_split_can_be_sent_to_another_process(tmp_path):
    write_folder(tmp_path, {"cat": 2, "dog": 1})
    images = source(tmp_path).open("train")
    sent = pickle.loads(pickle.dumps(images))
    assert sent.image(2).tobytes() == images.image(2).tobytes()
    assert sent.key(1) == images.key(1)
    assert np.array_equal(sent.labels, images.labels)
    assert len(sent) == 3


def test_photographs_lie_anywhere_and_have_no_class(tmp_path):
    write_folder(tmp_path, {"": 1, "train": 1, "2019/summer/beach": 2, ".hidden": 1})
    (tmp_path / "notes.txt").write_text("not an image")
    photos = PhotographSource("images:x", tmp_path)
    assert photos.splits == ("train",)
    images = photos.open("train")
    assert [images.key(index) for index in range(4)] == [
        "0.png",
        "2019/summer/beach/0.png",
        "2019/summer/beach/1.png",
        "train/0.png",
    ]
    assert images.labels.tolist() == [-1] * 4
    assert images.class_names == ()
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="has no images"):
        PhotographSource("images:x", tmp_path / "none")
    with pytest.raises(DataError, match="cannot list the folder"):
        PhotographSource("images:x", tmp_path / "nowhere")
