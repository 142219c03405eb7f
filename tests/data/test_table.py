import inspect
import subprocess
import sys

import pytest

from carp_eval.cards import loading
from carp_eval.data import opening
from carp_eval.data.table import TABLE, how_to_get


@pytest.mark.parametrize("name", TABLE)
def test_every_row_is_complete(name):
    row = TABLE[name]
    assert name == name.lower()
    assert row.title
    assert row.licence
    assert row.homepage.startswith(("https://", "http://"))
    assert row.num_classes != 1
    assert row.channels in (1, 3)
    assert all(size > 0 for size in row.splits.values())
    assert row.embedded or row.hub or row.torchvision or row.how
    learnt_from, scored = row.transfer_splits
    assert scored in row.splits or row.num_classes == 0
    assert learnt_from in (row.splits if row.base is None else TABLE[row.base].splits) or row.num_classes == 0
    if {"train", "validation", "trainval"} <= set(row.splits):
        assert row.splits["trainval"] == row.splits["train"] + row.splits["validation"]


# Images in all splits together, as the papers that introduced the sets count them.
KNOWN = {
    "aircraft": 10_000,
    "cars": 16_185,
    "country211": 211 * 300,
    "dtd": 47 * 120,
    "flowers102": 8_189,
    "food101": 101 * 1000,
    "imagenet-v2": 1000 * 10,
    "imagenet64": 1_331_167,
    "inat18": 461_939,
    "pets": 7_349,
    "places205": 2_448_873 + 205 * 100,
    "tiny-imagenet": 200 * 550,
}


@pytest.mark.parametrize("name", KNOWN)
def test_counts_add_up(name):
    splits = TABLE[name].splits
    counted = [size for split, size in splits.items() if split != "trainval" or "train" not in splits]
    assert sum(counted) == KNOWN[name]


def test_the_splits_and_metrics_of_transfer_are_the_fields():
    trained = {name: row.transfer_splits for name, row in TABLE.items()}
    assert trained["pets"] == trained["aircraft"] == ("trainval", "test")
    assert trained["flowers102"] == trained["cars"] == trained["stl10"] == ("train", "test")
    assert trained["imagenet"] == ("train", "validation")
    metrics = {name for name, row in TABLE.items() if row.metric == "mean_per_class"}
    assert metrics == {"aircraft", "flowers102", "pets"}


def test_names_are_those_of_the_published_tables():
    used = {column.dataset for card in loading.published() for column in card.columns.values()}
    # Detection is not ours, and the other is a mean over eight sets.
    assert used - {"coco", "transfer-knn"} <= set(TABLE)


@pytest.mark.parametrize("name", [name for name in TABLE if TABLE[name].torchvision])
def test_torchvision_has_what_the_table_says(name):
    import torchvision

    origin = TABLE[name].torchvision
    kind = getattr(torchvision.datasets, origin.kind)
    source = inspect.getsource(kind)
    assert origin.folder in source or origin.folder == getattr(kind, "base_folder", origin.kind.lower())
    for md5 in TABLE[name].md5.values():
        assert md5 in source


def test_the_table_says_what_the_embedded_digits_are():
    row = TABLE["digits"]
    for split, size in row.splits.items():
        images = opening.open_images("digits", split)
        assert len(images) == size
        assert len(images.class_names) == row.num_classes
        assert images.image(0).size == (row.image_size, row.image_size)


def test_every_data_set_says_how_to_get_it(carp_home):
    assert how_to_get("digits") == "it comes with the package"
    cifar = how_to_get("cifar10")
    assert f"hf download uoft-cs/cifar10 --repo-type dataset --local-dir {carp_home}/data/cifar10" in cifar
    assert f"from torchvision.datasets import CIFAR10 as D; D('{carp_home}/data', download=True)" in cifar
    assert "accept its terms at https://huggingface.co/datasets/ILSVRC/imagenet-1k" in how_to_get("imagenet")
    assert "$IMAGENET" in how_to_get("imagenet")
    signs = how_to_get("gtsrb")
    assert f"[D('{carp_home}/data', split=s, download=True) for s in ('train', 'test')]" in signs
    assert "links are dead" in how_to_get("cars")
    assert "StanfordCars" not in how_to_get("cars")


def test_the_table_is_read_without_torch():
    code = "import sys; import carp_eval.data.table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
