import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

from carp_eval.data import digits
from carp_eval.errors import DataError

ROW_14 = {
    "train": [0] * 11 + [4, 14, 64, 137, 207, 234, 233, 240, 213, 117, 17] + [0] * 6,
    "test": [0] * 12 + [1, 5, 39, 126, 204, 228, 205, 155, 85, 12] + [0] * 6,
}


@pytest.fixture(scope="module")
def splits():
    return {name: digits.open_split(name) for name in digits.SPLITS}


def original_of(key):
    return int(re.fullmatch(r"digit-(\d{4})-placement-([0-3])", key).group(1))


def moments(image):
    """The mass, centre and spread (xx, yy, xy) of an image's ink, by loops."""
    mass = image.sum()
    ys, xs = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    x, y = (xs * image).sum() / mass, (ys * image).sum() / mass
    spread = [
        ((a * b) * image).sum() / mass for a, b in ((xs - x, xs - x), (ys - y, ys - y), (xs - x, ys - y))
    ]
    return mass, (x, y), spread


def test_every_original_is_in_one_split_only_and_all_are_there(splits):
    originals = {
        name: {original_of(split.key(i)) for i in range(len(split))} for name, split in splits.items()
    }
    assert not originals["train"] & originals["test"]
    assert originals["train"] | originals["test"] == set(range(1797))
    for split in splits.values():
        assert len({split.key(i) for i in range(len(split))}) == len(split)
        assert split.pixels.shape == (len(split), 1, 28, 28)
    assert (len(splits["train"]), len(splits["test"])) == (5388, 1800)


def test_labels_are_those_of_the_originals_and_a_quarter_of_each_class_is_held_out(splits):
    truth = load_digits().target
    for split in splits.values():
        assert split.labels.tolist() == [truth[original_of(split.key(i))] for i in range(len(split))]
    held_out = np.bincount(splits["test"].labels) / 4
    assert np.abs(held_out - np.bincount(truth) / 4).max() <= 0.5


def test_a_second_making_gives_the_same_images_and_another_seed_does_not(splits, monkeypatch):
    again = digits.open_split("test")
    assert (again.pixels == splits["test"].pixels).all()
    assert again.manifest_sha256 == splits["test"].manifest_sha256
    assert splits["train"].manifest_sha256 != splits["test"].manifest_sha256
    monkeypatch.setattr(digits, "_SEED", 7)
    assert digits.open_split("test").manifest_sha256 != again.manifest_sha256


def test_the_manifest_sees_one_changed_pixel():
    split = digits.open_split("test")
    before = split.hash_manifest()
    split.pixels[1000, 0, 14, 14] ^= 1
    assert split.hash_manifest() != before


def test_an_image_is_its_pixels_in_greys(splits):
    image = splits["train"].image(17)
    assert image.mode == "L"
    assert (np.asarray(image) == splits["train"].pixels[17, 0].numpy()).all()


def test_the_images_are_the_ones_that_scores_were_measured_on(splits):
    # One grey level of freedom: another processor may round the last bit of float64 the other way.
    for name, row in ROW_14.items():
        assert np.abs(splits[name].pixels[100, 0, 14].int().numpy() - row).max() <= 1


def test_without_chance_a_digit_is_enlarged_at_the_centre(monkeypatch):
    for name, value in {
        "HEIGHT": (16.0, 16.0),
        "STRETCH": (1.0, 1.0),
        "ROTATION": 0.0,
        "SHEAR": 0.0,
        "SHIFT": 0.0,
    }.items():
        monkeypatch.setattr(digits, name, value)
    ring = np.zeros((1, 8, 8))
    ring[0, 1:7, 1:7] = 1
    ring[0, 3:5, 3:5] = 0
    placed = digits.place(ring, np.random.RandomState(0))[0, 0].numpy() / 255
    inked = np.zeros((28, 28), dtype=bool)
    inked[8:20, 8:20] = True
    inked[12:16, 12:16] = False
    assert ((placed > 0.5) == inked).all()
    assert max(placed[:6].max(), placed[22:].max(), placed[:, :6].max(), placed[:, 22:].max()) < 0.01


def test_placements_turn_shift_and_scale_as_far_as_stated_and_no_further(monkeypatch):
    monkeypatch.setattr(digits, "SHEAR", 0.0)
    monkeypatch.setattr(digits, "STRETCH", (1.0, 1.0))
    bar = np.zeros((2000, 8, 8))
    bar[:, 1:7, 3:5] = 1
    placed = digits.place(bar, np.random.RandomState(0))[:, 0].numpy() / 255
    mass, centre, spread = zip(*(moments(image) for image in placed), strict=True)
    xx, yy, xy = np.array(spread).T
    # The long axis of an upright bar stands at 90 degrees.
    angle = np.rad2deg(np.arctan2(2 * xy, xx - yy) / 2) % 180 - 90
    assert np.abs(angle).max() < 26
    assert np.std(angle) == pytest.approx(25 / 3**0.5, rel=0.05)
    # Two of eight columns and six of eight rows are inked.
    side = np.sqrt(np.array(mass) / 12) * 8
    assert 14.7 < side.min() < 15.3
    assert 18.7 < side.max() < 19.3
    shift = np.array(centre) - 14
    assert np.abs(shift).max() < 4.1
    assert np.std(shift, axis=0) == pytest.approx([4 / 3**0.5] * 2, rel=0.05)
    assert abs(np.corrcoef(shift.T)[0, 1]) < 0.1


def test_no_shift_takes_a_digit_off_the_canvas(monkeypatch):
    monkeypatch.setattr(digits, "SHIFT", 14.0)
    monkeypatch.setattr(digits, "HEIGHT", (16.0, 16.0))
    monkeypatch.setattr(digits, "STRETCH", (1.0, 1.0))
    bar = np.zeros((500, 8, 8))
    bar[:, 1:7, 3:5] = 1
    placed = digits.place(bar, np.random.RandomState(0))[:, 0].numpy() / 255
    # Twelve of 64 cells, each enlarged to 2 x 2 pixels.
    assert placed.sum(axis=(1, 2)).min() > 0.94 * 48
    xs = np.array([moments(image)[1][0] for image in placed])
    assert xs.min() < 8
    assert xs.max() > 20


def test_a_sheared_bar_leans_and_keeps_its_height(monkeypatch):
    monkeypatch.setattr(digits, "ROTATION", 0.0)
    monkeypatch.setattr(digits, "STRETCH", (1.0, 1.0))
    bar = np.zeros((500, 8, 8))
    bar[:, 1:7, 3:5] = 1
    placed = digits.place(bar, np.random.RandomState(0))[:, 0].numpy() / 255
    xx, yy, xy = np.array([moments(image)[2] for image in placed]).T
    lean = xy / yy
    assert np.abs(lean).max() < 0.27
    assert np.std(lean) == pytest.approx(0.25 / 3**0.5, rel=0.1)
    assert xx.min() > 0


def test_every_digit_keeps_its_ink_and_stays_off_the_edge(splits):
    ink = load_digits().images.sum(axis=(1, 2)) / 16
    for split in splits.values():
        placed = split.pixels.double()[:, 0].numpy() / 255
        enlarged = placed.sum(axis=(1, 2)) / ink[[original_of(split.key(i)) for i in range(len(split))]]
        assert enlarged.min() > (15 / 8) ** 2 * 0.85 * 0.95
        assert enlarged.max() < (19 / 8) ** 2 * 1.18 * 1.05
        edge = np.concatenate([placed[:, 0], placed[:, -1], placed[:, :, 0], placed[:, :, -1]], axis=1)
        assert (edge.max(axis=1) > 0.5).mean() < 0.01


def test_pixels_represent_the_placed_digits_far_worse_than_the_originals(splits):
    def nearest_neighbour_score(bank, bank_labels, query, query_labels):
        bank, query = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, query))
        return (bank_labels[(query @ bank.T).argmax(axis=1)] == query_labels).mean()

    table = load_digits()
    rows = {
        name: [original_of(split.key(i)) for i in range(0, len(split), 4)] for name, split in splits.items()
    }
    plain = nearest_neighbour_score(
        table.data[rows["train"]],
        table.target[rows["train"]],
        table.data[rows["test"]],
        table.target[rows["test"]],
    )
    placed = nearest_neighbour_score(
        splits["train"].pixels.flatten(1).float().numpy(),
        splits["train"].labels,
        splits["test"].pixels.flatten(1).float().numpy(),
        splits["test"].labels,
    )
    assert plain > 0.97
    assert 0.75 < placed < 0.9


def test_an_unknown_split_is_refused_by_name():
    with pytest.raises(DataError, match="train and test, not 'validation'"):
        digits.open_split("validation")
