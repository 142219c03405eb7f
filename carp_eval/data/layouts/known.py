"""Which reader reads which native layout: two literal tables."""

from collections.abc import Callable
from pathlib import Path

from carp_eval.data import copydays, landmarks
from carp_eval.data.layouts import downsampled, fine_grained, imagenets, reassessed, scenes, voc
from carp_eval.data.source import Source

# From the data set's name and a folder to what it holds; None if the folder is not in this layout.
Reader = Callable[[str, Path], Source | None]
# The same, where classes or images are those of another data set, which the third argument finds.
ReaderOnBase = Callable[[str, Path, Callable[[], Source]], Source | None]

LAYOUTS: dict[str, Reader] = {
    "copydays": copydays.read,
    "aircraft": fine_grained.read_aircraft,
    "cars": fine_grained.read_cars,
    "dtd": scenes.read_textures,
    "flowers102": fine_grained.read_flowers,
    "food101": scenes.read_food,
    "gtsrb": scenes.read_signs,
    "imagenet64": downsampled.read_downsampled,
    "inat18": scenes.read_species,
    "landmarks": landmarks.read,
    "one-test-split": imagenets.read_one_test_split,
    "pets": fine_grained.read_pets,
    "places205": scenes.read_places,
    "tiny-imagenet": imagenets.read_tiny,
    "voc07": voc.read,
}

LAYOUTS_ON_BASE: dict[str, ReaderOnBase] = {
    "imagenet-real": reassessed.read_real,
    "imagenet-v2": imagenets.read_v2,
}
