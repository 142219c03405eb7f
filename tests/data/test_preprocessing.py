import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode, functional

from carp_eval.cards.protocol import PreprocessingCard
from carp_eval.data.images import ModelInput
from carp_eval.data.preprocessing import Preprocessing, for_model
from carp_eval.errors import BadImageError
from tests.data.pictures import picture

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def plain(image, resize, crop, interpolation, mean, std):
    """The same by Pillow and loops, in double precision."""
    width, height = image.size
    if resize:
        short = min(width, height)
        width, height = (resize if side == short else int(resize * side / short) for side in (width, height))
        image = image.resize((width, height), FILTERS[interpolation])
    if crop:
        left, top = round((width - crop) / 2), round((height - crop) / 2)
        image = image.crop((left, top, left + crop, top + crop))
    values = np.empty((3, image.height, image.width))
    for y in range(image.height):
        for x in range(image.width):
            for channel, value in enumerate(image.getpixel((x, y))):
                values[channel, y, x] = (value / 255 - mean[channel]) / std[channel]
    return values


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(40, 60), (61, 40), (20, 20)])
def test_an_image_is_resized_cropped_and_normalised(size, interpolation):
    image = picture(size=size)
    for resize, crop in ((32, 28), (None, None), (16, None), (None, 20), (50, 50)):
        tensor = Preprocessing(resize, crop, interpolation, MEAN, STD)(image)
        expected = plain(image, resize, crop, interpolation, MEAN, STD)
        assert tensor.dtype == torch.float32
        assert np.abs(tensor.numpy() - expected).max() < 1e-5


def test_grey_models_see_grey_and_colour_models_three_channels():
    grey = Preprocessing(None, None, "bicubic", (0.5,), (0.5,))(picture())
    assert np.allclose(grey[0] * 127.5 + 127.5, np.asarray(picture().convert("L")), atol=1e-3)
    colour = Preprocessing(None, None, "bicubic", (0.0,) * 3, (1.0,) * 3)(picture().convert("L"))
    assert torch.equal(colour[0], colour[1])
    assert torch.equal(colour[0], colour[2])


@pytest.mark.parametrize(
    ("native", "resize", "crop"),
    [
        (224, 256, 224),
        (192, 219, 192),
        (448, 512, 448),
        (128, 146, 128),
        (127, 127, 127),
        (32, 32, 32),
        (28, 28, 28),
    ],
)
def test_sizes_follow_the_model(native, resize, crop):
    card = PreprocessingCard(resize=256, crop=224, interpolation="bilinear")
    chosen = for_model(card, ModelInput(native, MEAN, STD))
    assert chosen == Preprocessing(resize, crop, "bilinear", MEAN, STD)
    assert chosen.describe() == {
        "resize": resize,
        "crop": crop,
        "interpolation": "bilinear",
        "mean": list(MEAN),
        "std": list(STD),
    }


def test_what_cannot_be_cropped_or_held_is_refused():
    with pytest.raises(BadImageError, match="8 x 6 pixels, the crop takes 7"):
        Preprocessing(None, 7, "bicubic", MEAN, STD)(picture())
    with pytest.raises(BadImageError, match=r"1 x 4000 pixels.*its long side would be 1024000"):
        Preprocessing(256, 224, "bicubic", MEAN, STD)(Image.new("RGB", (1, 4000)))


@pytest.mark.parametrize("given", [1, 3])
@pytest.mark.parametrize("wanted", [1, 3])
def test_a_batch_of_pixels_gives_to_the_bit_what_its_images_do(given, wanted):
    chance = np.random.default_rng(given)
    pixels = torch.from_numpy(chance.integers(0, 256, (30, given, 24, 24), dtype=np.uint8))
    prepare = Preprocessing(24, 24, "bicubic", MEAN[:wanted], STD[:wanted])
    arrays = pixels.permute(0, 2, 3, 1).squeeze(-1).numpy()
    one_by_one = torch.stack([prepare(Image.fromarray(array)) for array in arrays])
    assert torch.equal(prepare.of_pixels(pixels), one_by_one)


def test_it_knows_which_sizes_it_leaves_alone():
    def keeps(resize, crop, height, width):
        return Preprocessing(resize, crop, "bicubic", MEAN, STD).keeps(height, width)

    assert keeps(28, 28, 28, 28)
    assert keeps(None, 28, 28, 28)
    assert keeps(None, None, 28, 40)
    assert keeps(28, None, 28, 40)
    assert not keeps(28, 28, 28, 40)
    assert not keeps(28, 28, 32, 32)
    assert not keeps(32, 28, 32, 32)
    assert not keeps(32, 28, 28, 28)


@pytest.mark.parametrize(
    ("asked", "size", "expected"),
    [
        ({"side": "long"}, (80, 40), (32, 16)),
        ({"side": "long"}, (20, 30), (20, 30)),
        ({"side": "both"}, (80, 40), (32, 32)),
        ({"side": "short"}, (80, 40), (64, 32)),
        ({"side": "short", "squash": 28}, (80, 40), (28, 28)),
        ({"side": "both", "crop": 28}, (80, 40), (28, 28)),
    ],
)
def test_the_side_that_is_asked_for_gets_the_length(asked, size, expected):
    prepared = Preprocessing(
        32, asked.get("crop"), "bilinear", MEAN, STD, side=asked["side"], squash=asked.get("squash")
    )
    assert tuple(prepared(picture(size=size)).shape) == (3, expected[1], expected[0])


def test_a_squashed_image_keeps_what_a_crop_would_cut_off():
    image = Image.new("L", (80, 40))
    image.paste(255, (0, 0, 10, 40))
    squashed = Preprocessing(32, None, "bilinear", (0.0,), (1.0,), squash=16)(image)
    cropped = Preprocessing(32, 16, "bilinear", (0.0,), (1.0,))(image)
    assert squashed[0, :, 0].min() > 0.9
    assert cropped.max() == 0


@pytest.mark.parametrize(
    ("card", "native", "expected"),
    [
        ({"resize": 512, "side": "long"}, 224, (512, None, None)),
        ({"resize": 512, "side": "long"}, 28, (64, None, None)),
        ({"resize": 320, "side": "both"}, 224, (320, None, None)),
        ({"resize": 320, "side": "both"}, 28, (28, None, None)),
        ({"resize": 256, "squash": 224}, 28, (28, None, 28)),
        ({"resize": 256, "crop": 224, "side": "both"}, 32, (32, 32, None)),
    ],
)
def test_other_shapes_follow_the_models_size_too(card, native, expected):
    made = for_model(
        PreprocessingCard(interpolation="bilinear", **card),
        ModelInput(native_size=native, mean=MEAN, std=STD),
    )
    assert (made.resize, made.crop, made.squash) == expected


def test_only_what_gives_one_size_says_so():
    def gives(**options):
        crop = options.pop("crop", None)
        return Preprocessing(32, crop, "bilinear", MEAN, STD, **options).gives_one_size

    assert gives(crop=28)
    assert gives(squash=28)
    assert gives(side="both")
    assert not gives(side="long")
    assert not gives()


def test_images_are_kept_as_they_are_only_where_nothing_is_done():
    square = Preprocessing(32, None, "bilinear", MEAN, STD, side="both")
    assert square.keeps(32, 32)
    assert not square.keeps(32, 40)
    long = Preprocessing(40, None, "bilinear", MEAN, STD, side="long")
    assert long.keeps(32, 40)
    assert not long.keeps(32, 50)
    assert not Preprocessing(32, None, "bilinear", MEAN, STD, squash=28).keeps(32, 32)


def test_what_most_protocols_do_is_described_as_it_was():
    described = Preprocessing(256, 224, "bicubic", MEAN, STD).describe()
    assert set(described) == {"resize", "crop", "interpolation", "mean", "std"}
    other = Preprocessing(256, None, "bicubic", MEAN, STD, side="long", squash=20).describe()
    assert (other["side"], other["squash"]) == ("long", 20)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(40, 61), (61, 40), (33, 33), (57, 201), (28, 28), (31, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_the_fields_own_library_to_the_bit(size, interpolation, channels):
    image = picture(size=size).convert("L" if channels == 1 else "RGB")
    mode = InterpolationMode(interpolation)
    for resize, crop in ((32, 28), (45, 28), (28, 27), (33, 20), (None, 25), (47, None), (28, 28)):
        expected = image
        if resize is not None:
            expected = functional.resize(expected, [resize], interpolation=mode, antialias=True)
        if crop is not None:
            expected = functional.center_crop(expected, [crop])
        prepare = Preprocessing(resize, crop, interpolation, MEAN[:channels], STD[:channels])
        assert torch.equal(prepare.pixels(image), functional.pil_to_tensor(expected))
    both = Preprocessing(30, None, interpolation, MEAN[:channels], STD[:channels], side="both")
    expected = functional.resize(image, [30, 30], interpolation=mode, antialias=True)
    assert torch.equal(both.pixels(image), functional.pil_to_tensor(expected))
