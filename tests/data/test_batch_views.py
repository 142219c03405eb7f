import colorsys
import math

import numpy as np
import pytest
import torch

from carp_eval.cards.recipe import ViewCard
from carp_eval.data.batch_views import BatchViews
from carp_eval.errors import CardError

STILL = {
    "size": 28,
    "scale": (1.0, 1.0),
    "ratio": (1.0, 1.0),
    "flip": 0.0,
    "jitter": (0.0, 0.0, 0.0, 0.0),
    "grey": 0.0,
}


def make(pixels, seed=0, mean=None, std=None, **changes):
    """The first view of every image, in [0, 1] unless a mean and deviation are given."""
    channels = pixels.shape[1]
    views = BatchViews(
        [ViewCard(**(STILL | changes))], mean=mean or [0.0] * channels, std=std or [1.0] * channels
    )
    return views(pixels, torch.Generator().manual_seed(seed))[0]


def noise(count, channels=1, side=28):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


def blob(count, x=14.0, y=14.0, wide=1.5, tall=1.5):
    """A soft spot at (x, y) in pixels from the top left corner."""
    ys, xs = np.mgrid[:28, :28] + 0.5
    ink = 255 * np.exp(-(((xs - x) / wide) ** 2 + ((ys - y) / tall) ** 2) / 2)
    return torch.from_numpy(ink.round().astype(np.uint8)).expand(count, 1, 28, 28)


def moments(views):
    """The centre (x, y) and the spread (xx, yy, xy) of every view's ink."""
    ink = views[:, 0].double().numpy()
    ys, xs = np.mgrid[: ink.shape[1], : ink.shape[2]] + 0.5
    mass = ink.sum(axis=(1, 2))
    x, y = (xs * ink).sum(axis=(1, 2)) / mass, (ys * ink).sum(axis=(1, 2)) / mass
    dx, dy = xs - x[:, None, None], ys - y[:, None, None]
    xx, yy, xy = ((a * ink).sum(axis=(1, 2)) / mass for a in (dx * dx, dy * dy, dx * dy))
    return mass, x, y, xx, yy, xy


def sampled(image, x, y):
    """One bilinear sample of a picture at (x, y), pixels' centres at .5 and black beyond, by hand."""
    height, width = image.shape
    total, left, top = 0.0, math.floor(x - 0.5), math.floor(y - 0.5)
    for column in (left, left + 1):
        for row in (top, top + 1):
            if 0 <= column < width and 0 <= row < height:
                total += image[row, column] * (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row))
    return total


def test_a_card_that_changes_nothing_gives_the_normalised_pixels():
    pixels = noise(4, channels=3)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    view = make(pixels, mean=mean, std=std)
    expected = (pixels.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(view.double(), expected, rtol=0, atol=1e-5)


def test_half_the_size_averages_four_pixels():
    pixels = noise(3)
    expected = (pixels.double() / 255).unflatten(2, (14, 2)).unflatten(4, (14, 2)).mean(dim=(3, 5))
    torch.testing.assert_close(make(pixels, size=14).double(), expected, rtol=0, atol=1e-5)


def test_a_crop_shows_a_rectangle_of_the_stated_area_and_ratio_inside_the_image():
    # Red is the column, green the row: a view tells which points it shows.
    steps = torch.arange(28, dtype=torch.uint8) * 9
    pixels = torch.stack([steps.expand(28, 28), steps[:, None].expand(28, 28), torch.zeros(28, 28)]).to(
        torch.uint8
    )
    views = make(pixels.expand(4000, 3, 28, 28), scale=(0.2, 0.6), ratio=(0.5, 2.0)).double() * 255 / 9 + 0.5
    middle = slice(10, 18)
    width = (views[:, 0, 14, 17] - views[:, 0, 14, 10]) / 7
    height = (views[:, 1, 17, 14] - views[:, 1, 10, 14]) / 7
    assert views[:, 0, middle, 14].std(dim=1).max() < 1e-4
    area, ratio = width * height, width / height
    assert 0.2 - 1e-4 < area.min() < 0.21
    assert 0.59 < area.max() < 0.6 + 1e-4
    assert 0.5 - 1e-4 < ratio.min() < 0.52
    assert 1.95 < ratio.max() < 2 + 1e-4
    assert ratio.log().mean().abs() < 0.03
    for centre, extent in (
        (views[:, 0, 14, 13:15].mean(dim=1), width),
        (views[:, 1, 13:15, 14].mean(dim=1), height),
    ):
        left, right = centre - 14 * extent, centre + 14 * extent
        assert left.min() > -1e-3
        assert right.max() < 28 + 1e-3
        assert left.min() < 0.5
        assert right.max() > 27.5


def test_a_crop_that_would_not_fit_is_drawn_again():
    steps = torch.arange(28, dtype=torch.uint8) * 9
    ramps = torch.stack([steps.expand(28, 28), steps[:, None].expand(28, 28), torch.zeros(28, 28)]).to(
        torch.uint8
    )
    views = make(ramps.expand(1000, 3, 28, 28), scale=(0.7, 0.9), ratio=(0.5, 2.0)).double() * 255 / 9
    width = (views[:, 0, 14, 17] - views[:, 0, 14, 10]) / 7
    height = (views[:, 1, 17, 14] - views[:, 1, 10, 14]) / 7
    assert max(width.max(), height.max()) < 1 + 1e-4
    # Cut down to fit, a crop of 0.7 with ratio 2 would have an area of 0.59.
    assert (width * height > 0.7 - 1e-4).double().mean() > 0.95


def test_every_pixel_of_a_crop_is_a_bilinear_sample_of_the_image():
    pixels = noise(3, side=20)
    # A fourth channel of geometry: the same draws on an image that tells its own coordinates.
    ramp = (torch.arange(20) * 12).to(torch.uint8).expand(3, 1, 20, 20)
    changes = {"size": 9, "scale": (0.2, 0.4), "ratio": (0.7, 1.4)}
    columns = make(ramp, **changes)[:, 0].double() * 255 / 12 + 0.5
    rows = make(ramp.transpose(2, 3), **changes)[:, 0].double() * 255 / 12 + 0.5
    views = make(pixels, **changes)[:, 0]
    for number in range(3):
        for row in range(1, 8):
            for column in range(1, 8):
                x, y = columns[number, row, column].item(), rows[number, row, column].item()
                expected = sampled(pixels[number, 0].double().numpy() / 255, x, y)
                assert views[number, row, column].item() == pytest.approx(expected, abs=2e-4)


def test_a_scale_above_one_shows_the_whole_image_smaller():
    mass, x, y, xx, *_ = moments(make(blob(2000), scale=(4.0, 4.0)))
    spot = moments(blob(1).float() / 255)
    assert mass == pytest.approx(spot[0].item() / 4, rel=0.03)
    assert xx.mean() == pytest.approx(spot[3].item() / 4, rel=0.1)
    # The image, of half the view's side, lies anywhere in the view.
    assert x.min() == pytest.approx(7, abs=0.2)
    assert x.max() == pytest.approx(21, abs=0.2)
    assert np.std(y) == pytest.approx(14 / 12**0.5, rel=0.05)
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.1


def test_a_shift_is_even_over_the_stated_range_in_both_directions():
    _, x, y, xx, yy, _ = moments(make(blob(2000, x=12), translation=0.2))
    assert x.min() == pytest.approx(12 - 5.6, abs=0.1)
    assert x.max() == pytest.approx(12 + 5.6, abs=0.1)
    assert np.std(x) == pytest.approx(5.6 / 3**0.5, rel=0.05)
    assert np.std(y) == pytest.approx(5.6 / 3**0.5, rel=0.05)
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.1
    assert np.abs(xx - yy).max() < 0.4


def test_a_turn_is_about_the_centre_and_keeps_lengths():
    _, x, y, xx, yy, xy = moments(make(blob(2000, wide=4.0), rotation=30))
    assert np.abs(x - 14).max() < 0.05
    assert np.abs(y - 14).max() < 0.05
    angle = np.rad2deg(np.arctan2(2 * xy, xx - yy) / 2)
    assert np.abs(angle).max() == pytest.approx(30, abs=0.5)
    assert np.std(angle) == pytest.approx(30 / 3**0.5, rel=0.05)
    assert np.abs(xx + yy - (xx + yy).mean()).max() < 0.3


def test_a_shear_moves_rows_sideways_by_the_tangent():
    *_, yy, xy = moments(make(blob(2000, tall=3.0, wide=1.0), shear=25))
    lean = np.rad2deg(np.arctan(xy / yy))
    assert np.abs(lean).max() == pytest.approx(25, abs=0.5)
    assert np.std(lean) == pytest.approx(25 / 3**0.5, rel=0.05)
    assert yy == pytest.approx(9.0, rel=0.05)


def test_the_image_is_mirrored_sheared_turned_shifted_then_cropped():
    # The same draws on pictures of a spot each: where three spots go tells each view's whole affine.
    changes = {"flip": 1.0, "shear": 20, "rotation": 25, "translation": 0.1, "scale": (2.25, 2.25)}
    corners = np.array([(14, 14), (18, 14), (14, 18)])
    seen = np.array(
        [np.stack(moments(make(blob(500, *corner), **changes))[1:3], axis=1) for corner in corners]
    )
    right, down = (seen[1] - seen[0]) / 4, (seen[2] - seen[0]) / 4
    # A crop of 2.25 times the area shrinks by 1.5. Shearing first, a row's direction is the turn alone ...
    turn = np.arctan2(-right[:, 1], -right[:, 0])
    assert np.hypot(*right.T) == pytest.approx(1 / 1.5, rel=0.03)
    assert np.abs(np.rad2deg(turn)).max() == pytest.approx(25, abs=1)
    # ... and a column's, once turned back, the shear alone, on the unmirrored side.
    back_x = np.cos(turn) * down[:, 0] + np.sin(turn) * down[:, 1]
    back_y = -np.sin(turn) * down[:, 0] + np.cos(turn) * down[:, 1]
    assert back_y == pytest.approx(1 / 1.5, rel=0.03)
    assert np.abs(np.rad2deg(np.arctan2(back_x, back_y))).max() == pytest.approx(20, abs=1)
    # The middle moves by shift and crop alone, both shrunk: 2.8 pixels of one, half of 14 of the other.
    assert np.abs(seen[0] - 14).max() == pytest.approx((2.8 + 7) / 1.5, rel=0.05)


def test_a_mirror_is_exact_and_as_likely_as_stated():
    pixels = noise(1).expand(2000, 1, 28, 28)
    views = make(pixels, flip=0.3)
    plain = (views - pixels / 255).abs().amax(dim=(1, 2, 3)) < 1e-4
    mirrored = (views - pixels.flip(3) / 255).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert (plain ^ mirrored).all()
    assert mirrored.float().mean().item() == pytest.approx(0.3, abs=0.04)


def test_brightness_multiplies_and_is_as_likely_as_stated():
    pixels = 20 + noise(2000) // 3
    factor = (make(pixels, jitter=(0.5, 0, 0, 0), jitter_probability=0.8) / (pixels / 255)).double()
    lowest, highest = factor.amin(dim=(1, 2, 3)), factor.amax(dim=(1, 2, 3))
    torch.testing.assert_close(lowest, highest, atol=1e-3, rtol=0)
    assert ((highest - 1).abs() > 1e-3).double().mean().item() == pytest.approx(0.8, abs=0.04)
    assert highest.max().item() == pytest.approx(1.5, abs=0.01)
    assert highest.min().item() == pytest.approx(0.5, abs=0.01)


def test_contrast_keeps_the_mean_and_scales_what_differs_from_it():
    pixels = 100 + noise(500) // 8
    views = make(pixels, jitter=(0, 0.4, 0, 0), jitter_probability=1).double()
    plain = pixels.double() / 255
    torch.testing.assert_close(views.mean(dim=(1, 2, 3)), plain.mean(dim=(1, 2, 3)), atol=1e-4, rtol=0)
    factor = views.std(dim=(1, 2, 3)) / plain.std(dim=(1, 2, 3))
    assert factor.min().item() == pytest.approx(0.6, abs=0.01)
    assert factor.max().item() == pytest.approx(1.4, abs=0.01)


def test_saturation_keeps_lightness_and_stretches_colour():
    pixels = 100 + noise(500, channels=3) // 8
    views = make(pixels, jitter=(0, 0, 0.5, 0), jitter_probability=1).double()
    plain = pixels.double() / 255
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)
    torch.testing.assert_close((views * luma).sum(1), (plain * luma).sum(1), atol=1e-4, rtol=0)
    factor = (views[:, 0] - views[:, 1]).std(dim=(1, 2)) / (plain[:, 0] - plain[:, 1]).std(dim=(1, 2))
    assert factor.min().item() == pytest.approx(0.5, abs=0.01)
    assert factor.max().item() == pytest.approx(1.5, abs=0.01)


def test_hue_turns_both_ways_and_leaves_grey_alone():
    colour = torch.tensor([140, 110, 110], dtype=torch.uint8)
    pixels = colour.view(1, 3, 1, 1).expand(1000, 3, 28, 28)
    views = make(pixels, jitter=(0, 0, 0, 0.2), jitter_probability=1)[:, :, 14, 14].double()
    hue = np.array([colorsys.rgb_to_hsv(*view)[0] for view in views.tolist()])
    turned = (hue + 0.5) % 1 - 0.5
    # A rotation about the grey axis and HSV's hexagon agree at every sixth of a turn and nearly between.
    assert turned.min() == pytest.approx(-0.2, abs=0.015)
    assert turned.max() == pytest.approx(0.2, abs=0.015)
    torch.testing.assert_close(
        views.sum(dim=1), torch.full((1000,), 360 / 255, dtype=torch.float64), atol=1e-4, rtol=0
    )
    grey = torch.full((8, 3, 28, 28), 90, dtype=torch.uint8)
    torch.testing.assert_close(
        make(grey, jitter=(0, 0, 0, 0.5), jitter_probability=1), grey / 255, atol=1e-5, rtol=0
    )


def test_grey_is_the_weighted_mean_of_the_channels():
    pixels = noise(1000, channels=3)
    views = make(pixels, grey=0.2).double()
    plain = pixels.double() / 255
    luma = 0.299 * plain[:, 0] + 0.587 * plain[:, 1] + 0.114 * plain[:, 2]
    grey = (views - luma[:, None]).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert grey.double().mean().item() == pytest.approx(0.2, abs=0.04)
    torch.testing.assert_close(views[~grey], plain[~grey], atol=1e-4, rtol=0)


def test_blur_spreads_a_point_by_the_gaussian_of_its_width():
    pixels = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    pixels[:, :, 14, 14] = 255
    # Sixteen pixels of a view of 224 are two of a view of 28.
    views = make(pixels, blur=1.0, blur_sigma=(16.0, 16.0)).double().numpy()
    near = [
        [
            math.exp(-((x - 14) ** 2 + (y - 14) ** 2) / 8) if max(abs(x - 14), abs(y - 14)) <= 6 else 0
            for x in range(28)
        ]
        for y in range(28)
    ]
    expected = np.array(near) / np.sum(near)
    assert np.abs(views[:, 0] - expected).max() < 1e-5


def test_solarising_inverts_the_bright_half():
    pixels = noise(1000)
    views = make(pixels, solarise=0.25)
    inverted = torch.where(pixels >= 128, 255 - pixels, pixels) / 255
    solarised = (views - inverted).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert solarised.float().mean().item() == pytest.approx(0.25, abs=0.04)
    torch.testing.assert_close(views[~solarised], pixels[~solarised] / 255, atol=1e-4, rtol=0)


def test_erasing_paints_one_rectangle_with_the_mean():
    pixels = 100 + noise(1000) // 3
    erased = (make(pixels, erase=1.0, mean=[0.1], std=[0.2]) == 0)[:, 0]
    rows, columns = erased.any(dim=2), erased.any(dim=1)
    assert (erased == rows[:, :, None] & columns[:, None, :]).all()
    for ends in (rows, columns):
        assert (ends.int().diff(dim=1).abs().sum(dim=1) <= 2).all()
    share = erased.double().mean(dim=(1, 2))
    assert share.mean().item() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    assert share.max() < 0.4
    untouched = make(pixels, erase=0.4, mean=[0.1], std=[0.2])[:, 0] != 0
    assert untouched.all(dim=2).all(dim=1).double().mean().item() == pytest.approx(0.6, abs=0.05)


def test_the_generators_state_decides_and_each_image_has_draws_of_its_own():
    pixels = noise(1).expand(8, 1, 28, 28)
    changes = {"scale": (0.3, 0.9), "rotation": 20, "erase": 0.5}
    first, again, other = make(pixels, 3, **changes), make(pixels, 3, **changes), make(pixels, 4, **changes)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert all(not torch.equal(first[0], view) for view in first[1:])


def test_views_come_in_the_cards_order_each_as_often_as_it_says():
    cards = [
        ViewCard(**STILL | {"count": 2, "translation": 0.3}),
        ViewCard(**STILL | {"size": 12, "count": 3}),
    ]
    views = BatchViews(cards, mean=[0.0], std=[1.0])(noise(5), torch.Generator().manual_seed(0))
    assert [tuple(view.shape) for view in views] == [(5, 1, 28, 28)] * 2 + [(5, 1, 12, 12)] * 3
    assert not torch.equal(views[0], views[1])
    assert torch.equal(views[2], views[3])


@pytest.mark.parametrize(
    "change", [{"grey": 0.2}, {"jitter": (0.4, 0.4, 0.2, 0.0)}, {"jitter": (0, 0, 0, 0.1)}]
)
def test_colour_changes_of_images_without_colour_are_refused(change):
    cards = [ViewCard(**STILL), ViewCard(**STILL | change)]
    with pytest.raises(CardError, match=r"views\.1 changes colours"):
        BatchViews(cards, mean=[0.0], std=[1.0])
