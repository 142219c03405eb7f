import json
import pickle

import pytest

from carp_eval.data import hub
from carp_eval.data.folders import FolderSource
from carp_eval.data.layouts import reassessed
from carp_eval.errors import DataError
from tests.data.layouts import copies
from tests.data.pictures import encoded, picture
from tests.data.test_hub import pets

# Of the images in the order of their numbers; nobody could label the third.
LABELS = [[2], [0, 1], [], [1, 2]]


def write(root, labels=LABELS):
    (root / "real").mkdir()
    (root / "real" / "real.json").write_text(json.dumps(labels))
    place = copies.write_imagenet(root)
    return reassessed.read_real("imagenet-real", root / "real", lambda: FolderSource("imagenet", place))


def test_labels_go_by_the_numbers_in_the_names(tmp_path):
    images = write(tmp_path).open("validation")
    assert images.labels.tolist() == [-1] * 4
    assert images.class_names == copies.WNIDS
    by_name = {
        images.key(index).rpartition("/")[2]: {
            label for label in range(3) if images.targets[index, label] == 1
        }
        for index in range(4)
    }
    assert by_name == {
        f"ILSVRC2012_val_{number:08d}.JPEG": set(labels) for number, labels in enumerate(LABELS, 1)
    }
    assert set(images.targets.ravel().tolist()) == {1, -1}
    # Folders come in order of class, so the order is not that of the numbers.
    assert images.targets.tolist() == [[1, 1, -1], [-1, -1, -1], [-1, 1, 1], [-1, -1, 1]]


def test_the_images_are_imagenets(tmp_path):
    images = write(tmp_path).open("validation")
    original = FolderSource("imagenet", tmp_path / "imagenet").open("validation")
    sent = pickle.loads(pickle.dumps(images))
    for index in range(4):
        assert sent.image(index).tobytes() == original.image(index).tobytes()
        assert sent.key(index) == original.key(index)
    (tmp_path / "real" / "real.json").write_text(json.dumps([[2], [0], [], [1, 2]]))
    source = reassessed.read_real(
        "imagenet-real", tmp_path / "real", lambda: FolderSource("imagenet", tmp_path / "imagenet")
    )
    hashes = {original.manifest_sha256, images.manifest_sha256, source.open("validation").manifest_sha256}
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("labels", "message"),
    [(LABELS[:3], "has 3 entries"), ([[2], [0, 3], [], [1]], "has a label 3, but imagenet has 3 classes")],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, message):
    with pytest.raises(DataError, match=message):
        write(tmp_path, labels).open("validation")


def test_a_copy_that_lost_the_names_is_refused(tmp_path):
    source = write(tmp_path)
    place = tmp_path / "imagenet" / "val" / copies.WNIDS[0]
    (place / "ILSVRC2012_val_00000002.JPEG").rename(place / "cat.JPEG")
    with pytest.raises(DataError, match=r"this copy calls one 'n01440764/cat\.JPEG'"):
        source.open("validation")


def test_without_imagenet_there_are_no_images(tmp_path):
    (tmp_path / "real.json").write_text("[]")

    def base():
        raise DataError("imagenet is not on this machine")

    with pytest.raises(DataError, match="cannot be read without imagenet, whose images it labels"):
        reassessed.read_real("imagenet-real", tmp_path, base).open("validation")
    assert reassessed.read_real("imagenet-real", tmp_path / "other", base) is None


def test_names_come_from_parquet_too(tmp_path, hub_cache):
    rows = [
        {"bytes": encoded(picture(number)), "path": f"ILSVRC2012_val_{number:08d}_n01440764.JPEG"}
        for number in (2, 1)
    ]
    pets(tmp_path / "imagenet", labels=[0, 1], split="validation", image=rows)
    (tmp_path / "real.json").write_text(json.dumps([[0], [1]]))
    source = hub.load("imagenet", str(tmp_path / "imagenet"))
    images = reassessed.read_real("imagenet-real", tmp_path, lambda: source).open("validation")
    assert images.targets.tolist() == [[-1, 1], [1, -1]]
