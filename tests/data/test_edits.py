import random

import numpy as np
import pytest
import torch
from PIL import Image

from carp_eval.data import edits
from carp_eval.data.edits import EditedImages, Given, edited
from carp_eval.data.images import Images
from carp_eval.data.loading import batches
from carp_eval.data.preprocessing import Preprocessing
from carp_eval.data.subset import Subset, draw
from carp_eval.errors import UsageError

PREPROCESSING = Preprocessing(
    resize=24, crop=None, interpolation="bicubic", mean=(0.5,) * 3, std=(0.25,) * 3, side="both"
)
EVERY = ("strong", "jpegqual-10", "crops-50", "blur-2", "paste-50", "overlay-30", "colours-80", "rotate-20")


def scene(seed, *, size=(64, 48), mode="RGB"):
    """A picture with structure at all sizes, so that every edit moves it the more, the stronger it is."""
    random_ = np.random.default_rng(seed)
    pixels = sum(
        np.asarray(
            Image.fromarray(random_.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize(
                size, Image.BICUBIC
            ),
            dtype=np.float64,
        )
        / 4
        for side in (3, 7, 15, 32)
    )
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


class Scenes(Images):
    def __init__(self, count=6, *, first=0, manifest="scenes", size=(64, 48)):
        self.name, self.split = "scenes", "test"
        self.labels = np.arange(count)[::-1].copy()
        self.class_names = tuple(f"class {number}" for number in range(count))
        self.first, self.size = first, size
        self.manifest = manifest

    def image(self, index):
        return scene(self.first + index, size=self.size)

    def key(self, index):
        return f"scene {self.first + index}"

    def hash_manifest(self):
        return self.manifest


def copies(edit, *, seed=0, originals=None, backgrounds=None):
    return EditedImages(
        Scenes() if originals is None else originals,
        edit,
        backgrounds=Scenes(2, first=100) if backgrounds is None else backgrounds,
        seed=seed,
    )


def pixels(image, size=(24, 24)):
    return np.asarray(image.convert("RGB").resize(size, Image.BICUBIC), dtype=np.float64).ravel()


def similarity(one, other):
    return np.corrcoef(pixels(one), pixels(other))[0, 1]


@pytest.mark.parametrize("edit", EVERY)
def test_a_copy_is_the_same_whatever_was_made_before_it(edit):
    forwards, backwards = copies(edit), copies(edit)
    first = [np.asarray(forwards.image(number)) for number in range(6)]
    second = [np.asarray(backwards.image(number)) for number in reversed(range(6))][::-1]
    assert all(np.array_equal(one, other) for one, other in zip(first, second))
    few = copies(edit, originals=Subset(Scenes(), np.array([4, 1]), split="few"))
    assert np.array_equal(np.asarray(few.image(0)), first[4])
    assert np.array_equal(np.asarray(few.image(1)), first[1])


@pytest.mark.parametrize("edit", [edit for edit in EVERY if edit not in ("jpegqual-10", "blur-2")])
def test_another_seed_gives_another_copy(edit):
    here, there = copies(edit), copies(edit, seed=1)
    assert any(
        here.image(number).size != there.image(number).size
        or not np.array_equal(np.asarray(here.image(number)), np.asarray(there.image(number)))
        for number in range(3)
    )


def test_chance_differs_from_image_to_image():
    # Ten crops of the same picture, known by ten keys.
    class Same(Scenes):
        def image(self, index):
            return scene(0)

    cut = {copies("crops-50", originals=Same(10)).image(number).tobytes() for number in range(10)}
    assert len(cut) > 5


@pytest.mark.parametrize(
    ("kind", "strengths"),
    [
        ("jpegqual", (75, 10, 3)),
        ("crops", (10, 50, 80)),
        ("blur", (1, 4, 12)),
        ("paste", (10, 50, 80)),
        ("overlay", (5, 25, 60)),
        ("colours", (20, 80, 300)),
        ("rotate", (3, 15, 60)),
    ],
)
def test_a_stronger_edit_leaves_less_of_the_image(kind, strengths):
    # JPEG is looked at in full: shrinking hides its blocks.
    size = (64, 48) if kind == "jpegqual" else (24, 24)

    def distance(number, strength):
        original, copy = Scenes().image(number), copies(f"{kind}-{strength}").image(number)
        return np.abs(pixels(original, size) - pixels(copy, size)).mean()

    means = [np.mean([distance(number, strength) for number in range(6)]) for strength in strengths]
    assert 0 < means[0] < means[1] < means[2]


def test_strong_copies_are_further_than_mild_ones_and_nearer_than_strangers():
    originals, strong, mild = Scenes(), copies("strong"), copies("jpegqual-75")
    for number in range(6):
        assert similarity(originals.image(number), mild.image(number)) > 0.9
    own = [similarity(originals.image(number), strong.image(number)) for number in range(6)]
    others = [similarity(originals.image(number), strong.image((number + 1) % 6)) for number in range(6)]
    assert np.mean(others) < np.mean(own) < 0.95


def test_no_strength_is_no_edit():
    original = scene(3)
    for edit in ("crops-0", "blur-0", "overlay-0", "colours-0", "rotate-0"):
        assert np.array_equal(np.asarray(edited(original, edit, given())), np.asarray(original)), edit


def test_a_crop_removes_its_share_of_the_surface_and_keeps_the_shape():
    cut = edited(scene(0, size=(400, 200)), "crops-75", given())
    assert cut.size == (200, 100)
    # It is a part of the image, and no other pixels.
    whole = np.asarray(scene(0, size=(400, 200)))
    part = np.asarray(cut)
    starts = np.argwhere((whole[:101, :201] == part[0, 0]).all(axis=2))
    assert any(np.array_equal(whole[y : y + 100, x : x + 200], part) for y, x in starts)


def test_a_pasted_image_leaves_its_share_of_the_background():
    page = edited(Image.new("RGB", (200, 100), "red"), "paste-75", given(Image.new("RGB", (30, 90), "blue")))
    assert page.size == (200, 100)
    red = (np.asarray(page) == (255, 0, 0)).all(axis=2)
    assert red.sum() == 100 * 50
    rows, columns = red.any(axis=1).sum(), red.any(axis=0).sum()
    assert (rows, columns) == (50, 100)
    assert (np.asarray(page)[~red] == (0, 0, 255)).all()


def test_an_overlay_covers_no_more_than_its_share():
    covered = edited(Image.new("L", (200, 100), 0), "overlay-20", given())
    share = (np.asarray(covered) > 0).mean()
    # Ellipses fill less than their box, shapes may overlap, the last one may go beyond.
    assert 0.08 < share < 0.26


def test_a_strong_copy_is_made_in_more_ways_than_one():
    shapes = {copies("strong").image(number).size for number in range(6)}
    assert len(shapes) > 1


def test_grey_stays_grey_and_colour_colour():
    for mode, expected in (
        ("L", "L"),
        ("RGB", "RGB"),
        ("RGBA", "RGB"),
        ("1", "L"),
        ("P", "RGB"),
        ("CMYK", "RGB"),
    ):
        for edit in EVERY:
            copy = edited(scene(0).convert(mode), edit, given())
            assert copy.mode == expected, (mode, edit)


def test_large_photographs_are_shrunk_and_the_original_is_left_alone():
    photograph = scene(0, size=(3000, 1500))
    assert edited(photograph, "jpegqual-50", given()).size == (edits.LONGEST, edits.LONGEST // 2)
    assert photograph.size == (3000, 1500)


def test_tiny_images_can_be_edited():
    for edit in EVERY:
        assert min(edited(Image.new("RGB", (3, 2), "green"), edit, given()).size) >= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_workers(workers):
    rows = torch.cat(
        [
            batch.images
            for batch in batches(copies("strong"), PREPROCESSING, batch_size=4, num_workers=workers)
        ]
    )
    made = [PREPROCESSING(copies("strong").image(number)) for number in range(6)]
    assert torch.equal(rows, torch.stack(made))


def test_labels_and_keys_are_the_originals():
    made = copies("blur-1")
    assert made.labels.tolist() == [5, 4, 3, 2, 1, 0]
    assert made.key(2) == "scene 2"
    assert (made.name, made.split, made.class_names) == ("scenes", "blur-1", Scenes().class_names)


def test_a_manifest_tells_edits_seeds_originals_and_backgrounds_apart():
    assert copies("blur-1").manifest_sha256 == copies("blur-1").manifest_sha256
    different = [
        copies("blur-1"),
        copies("blur-2"),
        copies("blur-1", seed=1),
        copies("blur-1", originals=Scenes(manifest="others")),
        copies("blur-1", backgrounds=Scenes(2, manifest="others")),
    ]
    assert len({made.manifest_sha256 for made in different}) == len(different)


@pytest.mark.parametrize(
    "edit", ["blurr-1", "blur", "blur-", "crops-100", "crops--5", "jpegqual-0", "jpegqual-nan", ""]
)
def test_an_edit_that_is_none_is_refused(edit):
    with pytest.raises(UsageError, match=r"known: strong, jpegqual-1 to jpegqual-100, crops-0 to crops-99"):
        copies(edit)


def test_no_background_is_refused():
    with pytest.raises(UsageError, match="one image or more"):
        copies("blur-1", backgrounds=Subset(Scenes(), np.array([], dtype=np.int64), split="none"))


def test_drawn_images_are_the_images_chosen():
    whole = Scenes()
    some = Subset(whole, np.array([4, 0]), split="some")
    assert len(some) == 2
    assert np.array_equal(np.asarray(some.image(0)), np.asarray(whole.image(4)))
    assert (some.key(1), some.labels.tolist()) == ("scene 0", [1, 5])
    own = Subset(whole, np.array([4, 0]), split="some", each_its_own_class=True)
    assert (own.labels.tolist(), own.class_names) == ([0, 1], ("scene 4", "scene 0"))
    others = [
        Subset(whole, np.array([0, 4]), split="some"),
        Subset(Scenes(manifest="others"), np.array([4, 0]), split="some"),
    ]
    assert len({images.manifest_sha256 for images in (some, own, *others)}) == 4


def test_images_drawn_from_pixels_in_memory_have_theirs():
    whole = Scenes()
    assert Subset(whole, np.array([1]), split="some").pixels is None
    whole.pixels = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 2, 2)
    assert Subset(whole, np.array([4, 0]), split="some").pixels[:, 0, 0, 0].tolist() == [4, 0]


def test_a_larger_draw_holds_a_smaller_one():
    few, many = draw(5, of=50, seed=3, what="a"), draw(20, of=50, seed=3, what="a")
    assert many[:5].tolist() == few.tolist()
    assert len(set(many.tolist())) == 20
    assert (
        few.tolist() != draw(5, of=50, seed=4, what="a").tolist() != draw(5, of=50, seed=4, what="b").tolist()
    )


def given(background=None):
    return Given(random.Random(0), lambda: background or Image.new("RGB", (40, 30), "blue"))
