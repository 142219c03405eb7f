import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from carp_eval.data.images import Images
from carp_eval.evaluation import leaks
from carp_eval.evaluation.job import Settings

SIZE = 48
REAL = Path(__file__).parents[2] / "../shared/data/imagenette224"


def scene(seed):
    """A made-up photograph: a smooth ground, a few shapes, some grain."""
    random = np.random.default_rng(seed)
    ground = Image.fromarray(random.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize(
        (SIZE, SIZE), Image.BICUBIC
    )
    picture = np.asarray(ground).astype(np.float64)
    for _ in range(8):
        x, y = random.integers(0, SIZE - 8, 2)
        width, height = random.integers(4, 24, 2)
        picture[y : y + height, x : x + width] = random.integers(0, 256, 3)
    picture += random.normal(0, 4, picture.shape)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


class Album(Images):
    def __init__(self, split, pictures):
        self.name, self.split = "album", split
        self.pictures = pictures
        self.labels = np.zeros(len(pictures), dtype=np.int64)
        self.class_names = ("any",)

    def image(self, index):
        return self.pictures[index]

    def key(self, index):
        return f"{self.split}-{index}"

    def hash_manifest(self):
        digest = hashlib.sha256()
        for picture in self.pictures:
            digest.update(f"{picture.mode} {picture.size}".encode() + picture.tobytes())
        return digest.hexdigest()


def found(home, bank, queries, bars=None):
    def bar(what):
        return lambda done, total: bars.append((what, done, total)) if bars is not None else None

    settings = Settings(bank_home=home, num_workers=0)
    return leaks.find(Album("train", bank), Album("test", queries), settings=settings, bar=bar)


def jpeg(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


EDITS = {
    "exact": lambda image: image.copy(),
    "jpeg": lambda image: jpeg(image, 30),
    "mirrored": lambda image: image.transpose(Image.FLIP_LEFT_RIGHT),
    "mirrored jpeg": lambda image: jpeg(image.transpose(Image.FLIP_LEFT_RIGHT), 60),
    "larger": lambda image: image.resize((200, 200), Image.BICUBIC),
    "darker": lambda image: image.point(lambda value: value * 0.6),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(0.7)),
    "grey": lambda image: image.convert("L"),
}


@pytest.mark.parametrize(("size", "queries"), [(300, 100), (30, 12)])
def test_copies_are_found_and_strangers_are_not(tmp_path, size, queries):
    bank = [scene(seed) for seed in range(size)]
    asked = [scene(10_000 + seed) for seed in range(queries)]
    wanted = {}
    for place, (name, edit) in enumerate(EDITS.items()):
        query, original = place + 2, place * 3 + 1
        asked[query] = edit(bank[original])
        wanted[query] = (original, name.startswith("mirrored"))
    assert {leak.query: (leak.bank, leak.mirrored) for leak in found(tmp_path, bank, asked)} == wanted


def test_every_exact_duplicate_is_found_whatever_it_shows(tmp_path):
    plain = [Image.new("RGB", (20, 20), (grey, grey, grey)) for grey in (0, 9, 255)]
    stripes = Image.fromarray(np.tile(np.array([[0, 255]], dtype=np.uint8), (20, 10)))
    bank = [*plain, *[scene(seed) for seed in range(20)], stripes, *plain]
    asked = [Image.new("RGB", (20, 20), (grey, grey, grey)) for grey in (10, 0, 255)]
    asked += [stripes, scene(7), scene(99), scene(7)]
    pairs = found(tmp_path, bank, asked)
    assert [(leak.query, leak.bank) for leak in pairs] == [(1, 0), (2, 2), (3, 23), (4, 10), (6, 10)]


def test_colours_of_one_grey_are_not_the_same(tmp_path):
    # Both 96 in grey.
    red, blue = Image.new("RGB", (9, 9), (255, 34, 0)), Image.new("RGB", (9, 9), (53, 106, 158))
    assert red.convert("L").getpixel((0, 0)) == blue.convert("L").getpixel((0, 0))
    bank = [red, *[scene(seed) for seed in range(5)]]
    assert found(tmp_path / "a", bank, [blue]) == []
    assert [leak.bank for leak in found(tmp_path / "b", bank, [red.copy()])] == [0]


def test_many_equals_cost_no_more_than_few(tmp_path):
    black = Image.new("L", (16, 16), 0)
    pairs = found(tmp_path, [black] * 3000, [black] * 3000)
    assert [leak.bank for leak in pairs] == [0] * 3000


def test_images_that_all_look_alike_are_asked_to_be_closer():
    far, near = torch.full((9,), 0.1), torch.full((9,), 0.6)
    assert leaks.similarity_asked(far) == 0.75
    assert leaks.similarity_asked(near) == pytest.approx(1 - 0.36 * 0.4)
    assert leaks.similarity_asked(torch.ones(9)) == 0.9


def test_the_embedded_digits_have_next_to_none(tmp_path):
    from carp_eval.data.digits import open_split

    few = [
        [whole.image(number) for number in range(0, len(whole), 4)]
        for whole in (open_split("train"), open_split("test"))
    ]
    # A nine and a one that chance has made alike.
    assert len(found(tmp_path, *few)) <= 2
    few[1][7] = jpeg(few[0][100], 80)
    assert (7, 100, False) in found(tmp_path, *few)


def test_what_was_found_is_not_looked_for_again(tmp_path):
    bank, asked = [scene(1), scene(2)], [scene(2), scene(3)]
    first, again = [], []
    pairs = found(tmp_path, bank, asked, first)
    assert {what for what, _, _ in first} >= {"thumbnails of train", "thumbnails of test"}
    assert found(tmp_path, bank, asked, again) == pairs
    assert again == []
    (kept,) = tmp_path.glob("leaks-*.json")
    kept.write_text("broken")
    assert found(tmp_path, bank, asked) == pairs
    assert found(tmp_path, bank, [scene(3)]) == []


@pytest.mark.skipif(not REAL.exists(), reason=f"needs the photographs in {REAL}")
def test_photographs_of_one_class_are_not_the_same(tmp_path):
    from carp_eval.data.opening import open_images

    images = [open_images(f"hf:{REAL}", split) for split in ("train", "validation")]
    few = [[whole.image(number) for number in range(150)] for whole in images]
    few[1][5] = jpeg(few[0][3], 40)
    assert [(leak.query, leak.bank) for leak in found(tmp_path, *few)] == [(5, 3)]
