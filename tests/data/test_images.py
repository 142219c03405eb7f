import numpy as np
import pytest
from PIL import Image

from carp_eval.cards.recipe import ViewCard
from carp_eval.data.edits import EditedImages
from carp_eval.data.images import Images
from carp_eval.data.subset import Subset
from carp_eval.data.viewed import ViewedImages


class Counted(Images):
    """Grey images that count how often their manifest is hashed."""

    def __init__(self):
        self.name, self.split, self.class_names = "counted", "train", ("any",)
        self.labels = np.zeros(4, dtype=np.int64)
        self.hashed = 0

    def image(self, index):
        return Image.new("L", (8, 8), 10 * index)

    def key(self, index):
        return str(index)

    def hash_manifest(self):
        self.hashed += 1
        return "ab" * 32


def edited(images):
    return EditedImages(images, "blur-1", backgrounds=images, seed=0)


def viewed(images):
    return ViewedImages(images, ViewCard(count=1, size=8), channels=1, seed=0, name="first")


def some(images):
    return Subset(images, np.array([2, 0]), split="some")


@pytest.mark.parametrize("made", [lambda images: images, edited, viewed, some])
def test_a_manifest_is_hashed_once_however_often_it_is_asked_for(made):
    images = Counted()
    split = made(images)
    assert len({split.manifest_sha256 for _ in range(3)}) == 1
    assert images.hashed == 1


def test_what_gives_no_manifest_is_no_data_set():
    class Without(Images):
        def image(self, index):
            return Image.new("L", (8, 8))

        def key(self, index):
            return str(index)

    with pytest.raises(TypeError, match="hash_manifest"):
        Without()
