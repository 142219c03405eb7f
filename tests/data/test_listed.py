import pickle
import shutil

import numpy as np
import pytest

from carp_eval.data.listed import ListedImages
from carp_eval.errors import BadImageError, DataError
from tests.data.layouts.copies import write_images
from tests.data.pictures import picture

PATHS = ["b/2.png", "a/1.png", "b/1.png"]


def listed(folder, paths=PATHS, labels=(1, 0, 2), **options):
    options = {"list_name": "train.txt"} | options
    return ListedImages(
        "pets", "train", folder, paths, np.array(labels, dtype=np.int64), ("x", "y", "z"), **options
    )


def test_images_come_in_the_order_of_the_list(tmp_path):
    write_images(tmp_path, PATHS)
    images = listed(tmp_path)
    assert [images.key(number) for number in range(3)] == PATHS
    assert [images.image(number).tobytes() for number in range(3)] == [picture(n).tobytes() for n in range(3)]
    sent = pickle.loads(pickle.dumps(images))
    assert sent.image(2).tobytes() == picture(2).tobytes()


def test_labels_are_known_though_images_are_not(tmp_path):
    (tmp_path / "a").mkdir()
    images = listed(tmp_path)
    assert images.labels.tolist() == [1, 0, 2]
    assert list(images.missing()) == PATHS
    with pytest.raises(
        BadImageError, match=r"a/1\.png is listed in train\.txt, but is not there: .* data check pets"
    ):
        images.image(1)


def test_what_is_missing_is_counted_folder_by_folder(tmp_path):
    write_images(tmp_path, PATHS)
    assert list(listed(tmp_path).missing()) == []
    (tmp_path / "b" / "2.png").unlink()
    assert list(listed(tmp_path).missing()) == ["b/2.png"]
    shutil.rmtree(tmp_path / "a")
    assert list(listed(tmp_path).missing()) == ["b/2.png", "a/1.png"]


def test_a_damaged_image_says_so(tmp_path):
    write_images(tmp_path, PATHS)
    (tmp_path / "a" / "1.png").write_bytes(b"nothing")
    with pytest.raises(BadImageError, match=r"a/1\.png is not an image"):
        listed(tmp_path).image(1)


def test_a_list_without_its_images_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"train\.txt lists images in .*/a, but no such folder is there"):
        listed(tmp_path)
    with pytest.raises(DataError, match=r"train\.txt lists no image"):
        listed(tmp_path, [], ())


def test_the_manifest_tells_order_labels_targets_and_content(tmp_path):
    write_images(tmp_path, PATHS)
    targets = np.array([[1, -1, 0], [-1, 1, -1], [1, 1, -1]], dtype=np.int8)
    other = targets.copy()
    other[1, 0] = 0
    hashes = [
        images.manifest_sha256
        for images in (
            listed(tmp_path),
            listed(tmp_path, PATHS[::-1]),
            listed(tmp_path, labels=(1, 0, 1)),
            listed(tmp_path, targets=targets),
            listed(tmp_path, targets=other),
        )
    ]
    assert len(set(hashes)) == 5
    shutil.copytree(tmp_path, tmp_path / "elsewhere")
    assert listed(tmp_path / "elsewhere").manifest_sha256 == hashes[0]
    picture(9).save(tmp_path / "a" / "1.png")
    assert listed(tmp_path).manifest_sha256 not in hashes
