"""A split seen through random views: one view of each image, always the same."""

import hashlib
import random

from PIL import Image

from carp_eval import seeds
from carp_eval.cards.recipe import ViewCard
from carp_eval.data import views
from carp_eval.data.decoding import with_channels
from carp_eval.data.images import Images

# Raised when a view of the same card and seed would have other pixels.
VERSION = 1


class ViewedImages(Images):
    """A split whose every image is a random view of the image, with its label and key."""

    def __init__(self, originals: Images, card: ViewCard, *, channels: int, seed: int, name: str) -> None:
        """Choose the views.

        Args:
            originals: The images that are seen.
            card: The kind of view.
            channels: 1 for grey, 3 for RGB.
            seed: Of all chance.
            name: Which of several views of an image this is; another name gives another view.
        """
        self.name = originals.name
        self.split = name
        self.labels = originals.labels
        self.class_names = originals.class_names
        self._originals = originals
        self._card = card
        self._channels = channels
        self._seed = seed

    def image(self, index: int) -> Image.Image:
        """Decode one image and make its view."""
        chance = random.Random(seeds.derive(self._seed, "view", self.split, self.key(index)))
        image = with_channels(self._originals.image(index), self._channels)
        return views.picture(image, self._card, chance)

    def key(self, index: int) -> str:
        """Return the key of the image."""
        return self._originals.key(index)

    def hash_manifest(self) -> str:
        """Hash the originals' manifest, the kind of view, its name and the seed."""
        parts = (VERSION, self.split, self._seed, self._channels, self._card.model_dump_json())
        return hashlib.sha256(repr((*parts, self._originals.manifest_sha256)).encode()).hexdigest()
