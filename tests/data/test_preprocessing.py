import numpy as np
import pytest
import torch
from PIL import Image

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
