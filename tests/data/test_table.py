import subprocess
import sys

import pytest

from carp_eval.data import opening
from carp_eval.data.table import TABLE, how_to_get


@pytest.mark.parametrize("name", TABLE)
def test_every_row_is_complete(name):
    row = TABLE[name]
    assert name == name.lower()
    assert row.title
    assert row.licence
    assert row.homepage.startswith("https://")
    assert row.num_classes > 1
    assert row.channels in (1, 3)
    assert "train" in row.splits
    assert {"test", "validation"} & set(row.splits)
    assert row.embedded or row.hub or row.torchvision


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


def test_the_table_is_read_without_torch():
    code = "import sys; import carp_eval.data.table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
