"""The end of a view's way against torchvision's functions on floats, and against the same view made by Pillow."""

import math
import random

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from carp_eval.cards.recipe import ViewCard
from carp_eval.data import changes
from carp_eval.data.changes import BRIGHTNESS, CONTRAST, HUE, SATURATION, Changes
from carp_eval.data.finishing import Finishing
from carp_eval.data.views import UnfinishedViews, Views
from tests.data.pictures import picture

CPU = torch.device("cpu")
NOTHING = Changes((), False, 0.0, False, (0, 0, 0, 0))
BY_TORCHVISION = {
    BRIGHTNESS: F.adjust_brightness,
    CONTRAST: F.adjust_contrast,
    SATURATION: F.adjust_saturation,
    HUE: F.adjust_hue,
}
EVERYTHING = {"blur": 0.5, "solarise": 0.3, "erase": 0.4, "blur_sigma": (0.5, 4.0)}


def noise(count, side=32, channels=3, seed=0):
    """Soft noise: every colour, and neighbours alike as in a photograph."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 6, 6, generator=generator)
    soft = torch.nn.functional.interpolate(coarse, size=side, mode="bicubic").clamp(0, 1)
    return (soft * 255).round().to(torch.uint8)


def finish(pixels, drawn, device=CPU, mean=0.0, std=1.0, images_at_once=None):
    """Finish one view of each image, in [0, 1]."""
    card = ViewCard(size=pixels.shape[-1], blur=1.0)
    channels = pixels.shape[1]
    finishing = Finishing(
        [card], mean=[mean] * channels, std=[std] * channels, device=device, images_at_once=images_at_once
    )
    (view,) = finishing([pixels], torch.stack([one.packed() for one in drawn])[:, None])
    return view


def by_torchvision(pixels, drawn):
    view = pixels.float() / 255
    for which, amount in drawn.jitter:
        view = BY_TORCHVISION[which](view, amount)
    if drawn.grey:
        view = F.rgb_to_grayscale(view, num_output_channels=3)
    if drawn.sigma:
        kernel = 2 * (pixels.shape[-1] // 20) + 1
        view = F.gaussian_blur(view, [kernel, kernel], [drawn.sigma, drawn.sigma])
    if drawn.solarise:
        view = F.solarize(view, 0.5)
    top, left, height, width = drawn.erased
    return F.erase(view, top, left, height, width, torch.zeros(3, 1, 1))


def agree(drawn, tolerance=5e-4, side=32):
    pixels = noise(len(drawn), side=side)
    found = finish(pixels, drawn)
    for number, one in enumerate(drawn):
        expected = by_torchvision(pixels[number], one)
        # torchvision's weight of red is 0.2989, and not 0.299.
        assert (found[number] - expected).abs().max() < tolerance, one


@pytest.mark.parametrize(
    ("which", "amounts"),
    [
        (BRIGHTNESS, [0.2, 0.9, 1.0, 1.7]),
        (CONTRAST, [0.0, 0.6, 1.0, 1.8]),
        (SATURATION, [0.0, 0.5, 1.0, 1.9]),
        (HUE, [-0.5, -0.21, -0.1, 0.0, 0.07, 0.16, 0.34, 0.5]),
    ],
)
def test_each_change_of_a_jitter_is_torchvisions(which, amounts):
    agree([NOTHING._replace(jitter=((which, amount),)) for amount in amounts])


def test_grey_solarising_and_erasing_are_torchvisions():
    agree([NOTHING._replace(grey=True), NOTHING, NOTHING._replace(grey=True)])
    agree([NOTHING._replace(solarise=True), NOTHING])
    agree([NOTHING._replace(erased=(3, 5, 7, 20)), NOTHING, NOTHING._replace(erased=(0, 0, 32, 32))])


@pytest.mark.parametrize("side", [12, 32, 64, 224])
def test_the_blur_is_torchvisions_with_a_kernel_a_tenth_of_the_side(side):
    agree([NOTHING._replace(sigma=sigma) for sigma in (0.1, 0.0, 0.8, 3.0)], side=side, tolerance=1e-5)


def test_black_white_and_grey_have_no_hue_to_turn():
    levels = torch.tensor([0, 90, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 16, 16)
    turned = finish(levels, [NOTHING._replace(jitter=((HUE, 0.3),))] * 3)
    assert torch.allclose(turned, levels / 255, atol=1e-6)


def test_every_image_goes_through_its_own_changes_in_its_own_order():
    chance = random.Random(7)
    card = ViewCard(size=64, jitter=(0.8, 0.8, 0.8, 0.4), **EVERYTHING)
    drawn = [changes.draw(card, chance) for _ in range(200)]
    assert len({tuple(which for which, _ in one.jitter) for one in drawn}) == 25
    # Where a bright value is close to one half, solarising turns a difference round, but makes it no larger; chains
    # of saturation and contrast multiply that of the weights of grey.
    agree(drawn, tolerance=3e-3, side=64)


def test_what_a_card_asks_for_is_drawn_as_often_as_it_says():
    chance = random.Random(3)
    card = ViewCard(size=48, blur=0.5, solarise=0.2, erase=0.3, jitter=(0.4, 0.0, 0.2, 0.1))
    drawn = [changes.draw(card, chance) for _ in range(4000)]
    for seen, expected in (
        ([bool(one.jitter) for one in drawn], 0.8),
        ([one.grey for one in drawn], 0.2),
        ([one.sigma > 0 for one in drawn], 0.5),
        ([one.solarise for one in drawn], 0.2),
        ([any(one.erased) for one in drawn], 0.3),
    ):
        assert np.mean(seen) == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 4000))
    jitters = [one.jitter for one in drawn if one.jitter]
    # No strength, no change: contrast is never there, and the others come first as often as one another.
    assert {which for jitter in jitters for which, _ in jitter} == {BRIGHTNESS, SATURATION, HUE}
    for which, low, high in ((BRIGHTNESS, 0.6, 1.4), (SATURATION, 0.8, 1.2), (HUE, -0.1, 0.1)):
        assert np.mean([jitter[0][0] == which for jitter in jitters]) == pytest.approx(1 / 3, abs=0.04)
        amounts = [dict(jitter)[which] for jitter in jitters]
        assert min(amounts) == pytest.approx(low, abs=0.01)
        assert max(amounts) == pytest.approx(high, abs=0.01)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_views_finished_later_are_those_made_image_by_image(mode):
    """Pillow rounds after each change, and knows 256 hues: that is all that is between the two."""
    colours = (0.4, 0.4, 0.2, 0.1) if mode == "RGB" else (0.4, 0.4, 0.0, 0.0)
    options = {"jitter": colours, **EVERYTHING, "grey": 0.2 if mode == "RGB" else 0.0}
    cards = [ViewCard(size=64, count=2, **options), ViewCard(size=32, count=3, scale=(0.05, 0.14), **options)]
    channels = len(mode) if mode == "RGB" else 1
    mean, std = (0.4013, 0.5012, 0.6011)[:channels], (0.2, 0.3, 0.25)[:channels]
    whole = Views(cards, mean=mean, std=std)
    unfinished = UnfinishedViews(whole)
    images = [picture(seed, size=(80, 70)).convert(mode) for seed in range(40)]
    expected = [whole(image, seed) for seed, image in enumerate(images)]
    *pixels, drawn = (torch.stack(made) for made in zip(*(unfinished(i, s) for s, i in enumerate(images))))
    assert [tuple(view.shape[2:]) for view in pixels] == [(64, 64)] * 2 + [(32, 32)] * 3
    assert {view.dtype for view in pixels} == {torch.uint8}
    found = Finishing(cards, mean=mean, std=std, device=CPU)(pixels, drawn)
    scale = torch.tensor(std).view(-1, 1, 1) * 255
    for number, view in enumerate(found):
        plain = torch.stack([made[number] for made in expected])
        apart = ((view - plain) * scale).abs()
        assert apart.mean() < 1.5
        assert apart.mean(dim=(1, 2, 3)).max() < 8
        # No 8-bit value is the mean: 0 is what was erased.
        assert torch.equal(view == 0, plain == 0)
    assert not torch.equal(found[0], found[1])


def test_a_view_is_the_same_in_any_batch():
    chance = random.Random(1)
    card = ViewCard(size=32, **EVERYTHING)
    drawn = [changes.draw(card, chance) for _ in range(12)]
    pixels = noise(12)
    whole = finish(pixels, drawn, images_at_once=12)
    for at_once in (1, 5):
        assert torch.allclose(finish(pixels, drawn, images_at_once=at_once), whole, atol=1e-6)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = finish(pixels[order], [drawn[number] for number in order])
    assert torch.allclose(shuffled, whole[order], atol=1e-6)


def test_views_are_normalised_and_what_is_erased_is_the_mean():
    pixels = noise(2)
    found = finish(pixels, [NOTHING, NOTHING._replace(erased=(0, 0, 4, 4))], mean=0.4, std=0.2)
    assert torch.allclose(found[0], (pixels[0] / 255 - 0.4) / 0.2, atol=1e-6)
    assert (found[1, :, :4, :4] == 0).all()
    assert torch.allclose(found[1, :, 4:], (pixels[1, :, 4:] / 255 - 0.4) / 0.2, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_makes_the_same_views():
    chance = random.Random(5)
    card = ViewCard(size=224, jitter=(0.8, 0.8, 0.8, 0.2), **EVERYTHING)
    drawn = [changes.draw(card, chance) for _ in range(64)]
    pixels = noise(64, side=224)
    there = finish(pixels, drawn, device=torch.device("cuda"))
    assert there.is_cuda
    assert torch.allclose(there.cpu(), finish(pixels, drawn), atol=1e-4)
