import io
import random

import numpy as np
import pytest
from PIL import Image

from carp_eval.data.decoding import decode, with_channels
from carp_eval.errors import BadImageError
from tests.data.pictures import encoded, picture


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "PPM", "WEBP"])
def test_lossless_formats_come_back_as_they_were(kind, tmp_path):
    original = picture(3)
    original = original.quantize(16) if kind == "GIF" else original
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(original, kind, **options)
    (tmp_path / "image").write_bytes(data)
    for source in (data, tmp_path / "image"):
        assert decode(source, "here").convert("RGB").tobytes() == original.convert("RGB").tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_file_cut_short_is_an_error_that_names_it(kind, share):
    data = encoded(picture(size=(64, 64)), kind)
    with pytest.raises(BadImageError, match=r"cat/7\.jpg"):
        decode(data[: int(len(data) * share)], "cat/7.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_are_an_image_or_a_clear_error_and_nothing_else(kind, capfd):
    chance = random.Random(kind)
    whole = encoded(picture(size=(20, 16)), kind)
    errors = 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(min(len(data), 200))] = chance.randrange(256)
        try:
            decode(bytes(data), "x")
        except BadImageError:
            errors += 1
    capfd.readouterr()
    assert errors > 10


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(BadImageError, match="No such file"):
        decode(tmp_path / "gone.png", "gone.png")


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadImageError, match="x is too large to decode safely"):
        decode(encoded(Image.new("1", (100, 100))), "x")


def test_pixels_without_a_stated_range_are_refused():
    with pytest.raises(BadImageError, match="mode F"):
        decode(encoded(Image.fromarray(np.zeros((2, 2), dtype=np.float32)), "TIFF"), "x")
    with pytest.raises(BadImageError, match="from 0 to 70000"):
        decode(encoded(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), "TIFF"), "x")


def test_sixteen_bits_are_scaled_to_eight_and_not_clipped():
    values = np.array([[0, 128, 129, 257, 32896, 65535]], dtype=np.uint16)
    image = decode(encoded(Image.fromarray(values)), "x")
    assert image.mode == "I;16"
    for channels in (1, 3):
        pixels = np.asarray(with_channels(image, channels)).reshape(1, 6, -1)
        # 65535 / 255 = 257, so 128 lies below and 129 above one half.
        assert pixels[0].tolist() == [[value] * channels for value in (0, 0, 1, 1, 128, 255)]


@pytest.mark.filterwarnings("error")
def test_every_mode_becomes_grey_or_rgb():
    red = (255, 0, 0)
    palette = Image.new("P", (2, 2))
    palette.putpalette([0, 0, 0, *red])
    palette.paste(1, (0, 0, 2, 2))
    transparent = palette.copy()
    transparent.info["transparency"] = b"\x80\x80"
    images = [
        palette,
        transparent,
        Image.new("RGB", (2, 2), red),
        Image.new("RGBA", (2, 2), (*red, 7)),
        Image.new("CMYK", (2, 2), (0, 255, 255, 0)),
        Image.new("YCbCr", (2, 2), (76, 85, 255)),
        Image.new("HSV", (2, 2), (0, 255, 255)),
    ]
    for image in images:
        colour = with_channels(image, 3)
        assert colour.mode == "RGB"
        assert np.abs(np.asarray(colour).astype(int) - red).max() <= 1, image.mode
        grey = with_channels(image, 1)
        assert grey.mode == "L"
        assert np.abs(np.asarray(grey).astype(int) - 76).max() <= 1, image.mode
    for image in (Image.new("L", (2, 2), 200), Image.new("LA", (2, 2), (200, 3)), Image.new("1", (2, 2), 1)):
        level = 255 if image.mode == "1" else 200
        assert (np.asarray(with_channels(image, 3)) == level).all()
        assert (np.asarray(with_channels(image, 1)) == level).all()


def test_the_first_frame_of_several_is_taken():
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (10, 200)]
    frames[0].save(buffer, "TIFF", save_all=True, append_images=frames[1:])
    assert decode(buffer.getvalue(), "x").getpixel((0, 0)) == (10, 0, 0)
