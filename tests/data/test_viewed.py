import numpy as np

from carp_eval.cards.recipe import ViewCard
from carp_eval.data.viewed import ViewedImages
from tests.features.scene import SIDE, Noise

CARD = ViewCard(
    size=6, scale=(0.3, 0.5), flip=0.5, jitter=(0.4, 0.4, 0.0, 0.0), jitter_probability=1.0, grey=0.0
)


def viewed(*, seed=0, name="view-1", card=CARD, images=None):
    return ViewedImages(images or Noise(20), card, channels=1, seed=seed, name=name)


def pixels(images, number=0):
    return np.asarray(images.image(number))


def test_a_view_is_always_the_same_and_another_name_or_seed_gives_another():
    first = pixels(viewed())
    assert first.shape == (6, 6)
    assert np.array_equal(first, pixels(viewed()))
    others = [pixels(viewed(name="view-2")), pixels(viewed(seed=1)), pixels(viewed(), 1)]
    assert not any(np.array_equal(first, other) for other in others)


def test_a_view_shows_a_part_of_its_own_image():
    images = Noise(20)
    images.content[3] = 200
    plain = CARD.model_copy(update={"jitter_probability": 0.0})
    assert (pixels(viewed(card=plain, images=images), 3) == 200).all()
    whole = CARD.model_copy(
        update={
            "size": SIDE,
            "scale": (1.0, 1.0),
            "ratio": (1.0, 1.0),
            "flip": 0.0,
            "jitter_probability": 0.0,
        }
    )
    assert np.array_equal(pixels(viewed(card=whole), 5), Noise(20).content[5])


def test_labels_and_keys_are_the_images_own():
    images = Noise(20)
    assert viewed().key(4) == images.key(4)
    assert (viewed().labels == images.labels).all()


def test_all_that_decides_a_view_is_in_the_hash():
    harder = CARD.model_copy(update={"flip": 0.0})
    made = [viewed(), viewed(name="view-2"), viewed(seed=1), viewed(card=harder), viewed(images=Noise(19))]
    assert len({images.manifest_sha256 for images in made}) == 5
    assert viewed().manifest_sha256 == made[0].manifest_sha256
