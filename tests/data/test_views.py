import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from carp_eval.cards.recipe import ViewCard
from carp_eval.data import views as module
from carp_eval.data.views import Views, blurred
from carp_eval.errors import CardError
from tests.data.pictures import picture

OFF = {
    "scale": (1.0, 1.0),
    "ratio": (1.0, 1.0),
    "flip": 0.0,
    "jitter": (0.0, 0.0, 0.0, 0.0),
    "jitter_probability": 0.0,
    "grey": 0.0,
}
TRIES = 400


def still(size=16, **changes):
    return ViewCard(size=size, **(OFF | changes))


def pixels_of_view(card, image, seed=0):
    """Make one view, without normalisation, in 0..255."""
    channels = 1 if image.mode == "L" else 3
    (view,) = Views([card], mean=(0.0,) * channels, std=(1.0,) * channels)(image, seed)
    return view * 255


def as_tensor(image):
    return F.pil_to_tensor(image).float()


def close(some, other, tolerance=0.01):
    return some.shape == other.shape and (some - other).abs().max() <= tolerance


def share(card, image, changed):
    """Count how often a change is seen."""
    return sum(changed(pixels_of_view(card, image, seed)) for seed in range(TRIES)) / TRIES


def about(probability):
    """Allow four standard deviations, which chance leaves once in 16,000 tests; seeds make it repeat."""
    return pytest.approx(probability, abs=4 * math.sqrt(probability * (1 - probability) / TRIES) + 1e-9)


@pytest.mark.parametrize("size", [16, 24])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_with_everything_off_a_view_is_a_plain_resize(size, mode):
    image = picture(size=(20, 20)).convert(mode)
    expected = as_tensor(image.resize((size, size), Image.Resampling.BICUBIC))
    assert close(pixels_of_view(still(size), image), expected)


def test_views_come_in_the_order_of_the_cards_and_are_normalised():
    cards = [still(16), still(8, count=2, to_teacher=False)]
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    make = Views(cards, mean=mean, std=std)
    image = picture(size=(16, 16))
    views = make(image, 3)
    assert [tuple(view.shape) for view in views] == [(3, 16, 16), (3, 8, 8), (3, 8, 8)]
    assert all(view.dtype == torch.float32 for view in views)
    for channel in range(3):
        expected = (as_tensor(image)[channel] / 255 - mean[channel]) / std[channel]
        assert torch.allclose(views[0][channel], expected, atol=1e-5)
    assert make.labels == ("view 1 (16 px, teacher too)", "view 2 (8 px)", "view 3 (8 px)")


def test_a_seed_fixes_everything_and_no_global_state_is_touched():
    make = Views(
        [ViewCard(size=16, count=2, blur=0.5, solarise=0.5, erase=0.5)], mean=(0.5,) * 3, std=(0.5,) * 3
    )
    image = picture(size=(30, 20))
    # Not Python's own state: the run-time checks of these tests draw from it to pick what they look at.
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = make(image, 11)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    torch.manual_seed(99)
    random.seed(99)
    assert all(torch.equal(view, again) for view, again in zip(first, make(image, 11), strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], make(image, 12)[0])


def test_a_flip_mirrors_and_as_often_as_asked():
    image = picture(size=(16, 16))
    mirrored = as_tensor(image).flip(-1)
    assert close(pixels_of_view(still(flip=1.0), image), mirrored)
    assert share(still(flip=0.3), image, lambda view: close(view, mirrored)) == about(0.3)


def test_grey_takes_the_colours_and_as_often_as_asked():
    image = picture(size=(16, 16))
    grey = as_tensor(image.convert("L")).expand(3, -1, -1)
    assert close(pixels_of_view(still(grey=1.0), image), grey)
    assert share(still(grey=0.2), image, lambda view: close(view, grey)) == about(0.2)


def test_solarising_inverts_what_is_above_one_half():
    image = picture(size=(16, 16))
    values = as_tensor(image)
    expected = torch.where(values > 127.5, 255 - values, values)
    assert close(pixels_of_view(still(solarise=1.0), image), expected)
    assert share(still(solarise=0.2), image, lambda view: close(view, expected)) == about(0.2)


def test_jitter_comes_as_often_as_asked():
    image = picture(size=(16, 16))
    card = still(jitter=(0.4, 0.4, 0.2, 0.1), jitter_probability=0.8)
    assert share(card, image, lambda view: not close(view, as_tensor(image))) == about(0.8)


def test_brightness_scales_every_value_within_its_range():
    image = Image.new("RGB", (16, 16), (100, 100, 100))
    card = still(jitter=(0.4, 0.0, 0.0, 0.0), jitter_probability=1.0)
    levels = torch.stack([pixels_of_view(card, image, seed).mean() for seed in range(TRIES)])
    assert 59 <= levels.min() < 64
    assert 136 < levels.max() <= 141
    assert levels.mean() == pytest.approx(100, abs=5)


def test_contrast_keeps_the_mean_and_saturation_the_grey():
    image = Image.fromarray(np.repeat(np.array([[60, 140]], dtype=np.uint8).repeat(8, 1), 16, 0)).convert(
        "RGB"
    )
    spreads = [
        pixels_of_view(still(jitter=(0.0, 0.4, 0.0, 0.0), jitter_probability=1.0), image, seed)
        for seed in range(100)
    ]
    assert all(abs(view.mean() - 100) < 1.5 for view in spreads)
    widths = [float(view.max() - view.min()) for view in spreads]
    assert 46 <= min(widths) < 55
    assert 105 < max(widths) <= 114
    colour = Image.new("RGB", (16, 16), (200, 100, 50))
    luma = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    for seed in range(100):
        view = pixels_of_view(still(jitter=(0.0, 0.0, 0.4, 0.0), jitter_probability=1.0), colour, seed)
        red, green, blue = view[:, 0, 0].tolist()
        factor = (red - luma) / (200 - luma)
        assert 0.58 < factor < 1.42
        # Each level is rounded, so the factor that red tells holds for the others to a level or so.
        assert green == pytest.approx(luma + factor * (100 - luma), abs=2)
        assert blue == pytest.approx(max(0, luma + factor * (50 - luma)), abs=2)


def test_hue_turns_both_ways_within_its_range():
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    card = still(jitter=(0.0, 0.0, 0.0, 0.1), jitter_probability=1.0)
    views = [pixels_of_view(card, red, seed)[:, 0, 0] for seed in range(TRIES)]
    # A tenth of the circle is 36 degrees: green or blue rises to 36 / 60 of red.
    green, blue = (torch.stack([view[channel] for view in views]) for channel in (1, 2))
    assert 140 < green.max() < 160
    assert 140 < blue.max() < 160
    assert torch.minimum(green, blue).max() < 1
    assert float((green > blue).float().mean()) == about(0.5)


def test_changes_of_colour_come_in_an_order_of_chance():
    image = Image.new("RGB", (16, 16), (240, 30, 200))
    seen = set()
    for seed in range(200):
        order = []

        def note(name, order=order):
            def adjust(view, amount):
                order.append(name)
                return view

            return adjust

        names = ("brightness", "contrast", "saturation", "hue")
        with pytest.MonkeyPatch.context() as patch:
            for name in names:
                patch.setattr(module.F, f"adjust_{name}", note(name))
            pixels_of_view(still(jitter=(0.4, 0.4, 0.2, 0.1), jitter_probability=1.0), image, seed)
        assert sorted(order) == sorted(names)
        seen.add(tuple(order))
    assert len(seen) == 24


@pytest.mark.parametrize(("size", "kernel"), [(224, 23), (96, 9), (32, 3)])
@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_the_blur_is_torchvisions_with_a_kernel_a_tenth_of_the_side(size, kernel, sigma):
    image = picture(size=(size, size))
    expected = F.gaussian_blur(as_tensor(image), [kernel, kernel], [sigma, sigma])
    assert close(as_tensor(blurred(image, sigma=sigma)), expected, tolerance=0.51)


def test_a_blur_comes_as_often_as_asked_and_as_wide_as_the_view_is_large(monkeypatch):
    image = picture(size=(64, 64))
    widths = []

    def note(view, *, sigma):
        widths.append(sigma)
        return blurred(view, sigma=sigma)

    monkeypatch.setattr(module, "blurred", note)
    for seed in range(TRIES):
        pixels_of_view(still(56, blur=0.6, blur_sigma=(0.4, 2.0)), image, seed)
    assert len(widths) / TRIES == about(0.6)
    # 56 is a quarter of 224.
    assert 0.1 <= min(widths) < 0.12
    assert 0.48 < max(widths) <= 0.5


def crops(card, size):
    image = Image.new("RGB", size)
    return [module._crop(image, card, random.Random(seed)) for seed in range(TRIES)]


@pytest.mark.parametrize("size", [(100, 100), (300, 100), (90, 160)])
def test_a_crop_keeps_to_its_area_and_ratio_and_to_the_image(size):
    width, height = size
    drawn = crops(ViewCard(size=16, scale=(0.2, 0.6), ratio=(0.75, 4 / 3)), size)
    areas = np.array([tall * wide / (width * height) for _, _, tall, wide in drawn])
    ratios = np.array([wide / tall for _, _, tall, wide in drawn])
    for top, left, tall, wide in drawn:
        assert 0 <= top <= height - tall
        assert 0 <= left <= width - wide
    assert 0.72 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < 1.37
    assert 0.19 < areas.min() < 0.22
    assert areas.max() < 0.62
    if size == (100, 100):
        assert areas.mean() == pytest.approx(0.4, abs=0.03)
        # As many wide ones as tall ones: the ratio is drawn on a logarithmic scale.
        assert np.mean(ratios > 1) == about(0.5)
        assert len({left for _, left, _, _ in drawn}) > 40


def test_an_image_that_no_crop_fits_gives_its_centre():
    card = ViewCard(size=16, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert set(crops(card, (30, 10))) == {(0, 10, 10, 10)}
    assert set(crops(card, (10, 30))) == {(10, 0, 10, 10)}
    assert set(crops(card, (1, 500))) == {(250, 0, 1, 1)} or set(crops(card, (1, 500))) == {(249, 0, 1, 1)}


def test_a_scale_above_one_shows_all_of_the_image_smaller_on_black():
    white = Image.new("RGB", (40, 40), "white")
    card = still(40, scale=(4.0, 4.0))
    places = set()
    for seed in range(50):
        view = pixels_of_view(card, white, seed)
        assert view.sum() / 255 / 3 == pytest.approx(20 * 20, rel=0.05)
        rows = (view[0].sum(dim=1) > 255 * 10).nonzero()
        places.add(int(rows.min()))
        # The edge is resampled: a pixel more or less.
        assert 19 <= len(rows) <= 22
    assert len(places) > 8


def test_a_turn_and_a_shift_stay_within_their_range():
    # A white square off the centre: where its middle goes tells the turn or the shift.
    image = Image.new("L", (101, 101))
    image.paste(255, (78, 48, 83, 53))

    def middles(card):
        for seed in range(150):
            view = pixels_of_view(card, image, seed)[0]
            y, x = torch.meshgrid(torch.arange(101.0), torch.arange(101.0), indexing="ij")
            yield float((view * x).sum() / view.sum()) - 50, float((view * y).sum() / view.sum()) - 50

    turned = [math.degrees(math.atan2(y, x)) for x, y in middles(still(101, rotation=20.0))]
    assert -21 < min(turned) < -17
    assert 17 < max(turned) < 21
    shifted = np.array(list(middles(still(101, translation=0.1))))
    for axis, home in ((0, 30), (1, 0)):
        moved = shifted[:, axis] - home
        assert -11 < moved.min() < -8.5
        assert 8.5 < moved.max() < 11


def test_a_shear_leans_the_image_and_keeps_its_middle_row():
    image = Image.new("L", (101, 101))
    image.paste(255, (48, 0, 53, 101))
    leans = []
    for seed in range(100):
        view = pixels_of_view(still(101, shear=15.0), image, seed)[0]
        x = torch.arange(101.0)
        at = [float((view[row] * x).sum() / view[row].sum()) for row in (20, 50, 80)]
        assert at[1] == pytest.approx(50, abs=1)
        leans.append(math.degrees(math.atan2(at[2] - at[0], 60)))
    assert -16 < min(leans) < -12
    assert 12 < max(leans) < 16


def test_erasing_paints_a_rectangle_with_the_mean():
    white = Image.new("RGB", (40, 40), "white")
    make = Views([still(40, erase=0.7)], mean=(0.5,) * 3, std=(0.5,) * 3)
    areas = []
    for seed in range(TRIES):
        (view,) = make(white, seed)
        erased = view[0] == 0
        assert ((view == 0) == erased).all()
        assert (view[:, ~erased] == 1).all()
        if erased.any():
            rows, columns = erased.any(dim=1), erased.any(dim=0)
            assert erased.sum() == rows.sum() * columns.sum()
            areas.append(float(erased.float().mean()))
    assert len(areas) / TRIES == about(0.7)
    assert 0.015 < min(areas) < 0.04
    assert 0.28 < max(areas) < 0.36


def test_grey_images_have_no_colours_to_change():
    for change in ({"grey": 0.2}, {"jitter": (0.0, 0.0, 0.1, 0.0)}, {"jitter": (0.0, 0.0, 0.0, 0.1)}):
        with pytest.raises(CardError, match=r"views\.0 changes colours"):
            Views([still(**change)], mean=(0.5,), std=(0.5,))
    (view,) = Views([still(jitter=(0.4, 0.4, 0.0, 0.0), jitter_probability=1.0)], mean=(0.0,), std=(1.0,))(
        picture(size=(16, 16)), 0
    )
    assert view.shape == (1, 16, 16)
