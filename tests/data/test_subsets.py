import hashlib

import numpy as np
import pytest

from carp_eval.data import subsets
from carp_eval.errors import DataError
from tests.features.scene import Noise

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [150, 60, 14, 1]))


@pytest.mark.parametrize(
    ("fraction", "wanted"),
    [(0.01, [2, 1, 1, 1]), (0.1, [15, 6, 1, 1]), (0.25, [38, 15, 4, 1]), (1.0, [150, 60, 14, 1])],
)
def test_a_share_is_drawn_of_every_class_and_holds_smaller_ones(fraction, wanted):
    chosen = subsets.share_of_each_class(LABELS, fraction, seed=0)
    assert np.bincount(LABELS[chosen]).tolist() == wanted
    assert (np.diff(chosen) > 0).all()
    smaller = subsets.share_of_each_class(LABELS, fraction / 2, seed=0)
    assert set(smaller.tolist()) <= set(chosen.tolist())
    assert subsets.share_of_each_class(LABELS, fraction, seed=0).tolist() == chosen.tolist()
    other = subsets.share_of_each_class(LABELS, fraction, seed=1)
    assert (other.tolist() == chosen.tolist()) == (fraction == 1)


def test_every_image_is_as_likely_as_any_other_of_its_class():
    drawn = np.zeros(len(LABELS))
    for seed in range(400):
        drawn[subsets.some_of_each_class(LABELS, 3, seed=seed)] += 1
    for label, count in ((0, 150), (1, 60), (2, 14)):
        times = drawn[label == LABELS]
        expected = 400 * 3 / count
        assert times.mean() == pytest.approx(expected)
        # A binomial count strays further than five deviations once in millions.
        assert np.abs(times - expected).max() < 5 * expected**0.5


def test_a_number_is_drawn_of_each_class_or_all_it_has():
    chosen = subsets.some_of_each_class(LABELS, 13, seed=0)
    assert np.bincount(LABELS[chosen]).tolist() == [13, 13, 13, 1]
    assert set(subsets.some_of_each_class(LABELS, 4, seed=0)) <= set(chosen)
    assert subsets.classes_below(LABELS, 13, num_classes=4) == 1
    assert subsets.classes_below(LABELS, 61, num_classes=5) == 4
    # A class without an image gives none.
    gap = np.array([0, 0, 2, 2, 2])
    assert gap[subsets.some_of_each_class(gap, 2, seed=0)].tolist() == [0, 0, 2, 2]
    assert gap[subsets.share_of_each_class(gap, 0.1, seed=0)].tolist() == [0, 2]


def test_listed_images_are_found_by_their_file_names():
    images = Noise(20)
    assert subsets.listed(images, ["007.JPEG", "x/y/003.png", "012"]).tolist() == [3, 7, 12]
    with pytest.raises(
        DataError, match=r"2 of 3 images of the list are not in noise \(train\), such as 020.*größe/000"
    ):
        subsets.listed(images, ["007.JPEG", "020.JPEG", "021.JPEG"])
    with pytest.raises(DataError, match="1 of 3 names of the list are there twice"):
        subsets.listed(images, ["007.JPEG", "007.png", "001.png"])


def test_names_that_fit_several_images_are_refused():
    images = Noise(20)
    images.key = lambda number: f"{number}/image.png"
    with pytest.raises(DataError, match="1 names of the list fit several images"):
        subsets.listed(images, ["image.png"])


def test_the_list_of_the_field_is_held_to_its_hash(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    known = subsets.known_list("imagenet", 0.01)
    assert known is not None
    assert known.file == "1percent.txt"
    assert subsets.known_list("imagenet", 0.1).lines == 128_116
    assert subsets.known_list("imagenet", 0.05) is subsets.known_list("digits", 0.01) is None
    with pytest.raises(
        DataError, match=r"home/data/imagenet_subsets/1percent.txt. Get 1percent.txt from https"
    ):
        subsets.read_list(None, known)
    path = tmp_path / "data" / "imagenet_subsets" / "1percent.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"n01440764_10026.JPEG\n")
    with pytest.raises(DataError, match=r"is not SimCLR's list 1percent.txt: its SHA-256 is .*71e82a48"):
        subsets.read_list(None, known, data_root=tmp_path / "data")
    content = path.read_bytes()
    ours = subsets.KnownList("1percent.txt", 1, hashlib.sha256(content).hexdigest())
    read = subsets.read_list(None, ours, data_root=tmp_path / "data")
    assert read == subsets.Listed(("n01440764_10026.JPEG",), ours.sha256, known=True)
    assert not subsets.read_list(path, None).known
    with pytest.raises(DataError, match=r"there is no list of images at .*nowhere.txt$"):
        subsets.read_list(tmp_path / "nowhere.txt", None)
