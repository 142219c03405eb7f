"""From a file's bytes to an image, or to an error that names the file."""

import io
import struct
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from carp_eval.data import stopwatch
from carp_eval.errors import BadImageError

EXTENSIONS = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))

# What Pillow raises on bytes that are not what they claim to be: found by feeding it damaged files.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError, struct.error)
_MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"))
_SIXTEEN_BIT = frozenset(("I", "I;16", "I;16L", "I;16B", "I;16N"))


def decode(source: Path | bytes, where: str) -> Image.Image:
    """Decode one image, the first frame where there are several; orientation tags are not followed.

    Published scores rest on loaders that show a photograph as it is stored, whatever its EXIF tag says.

    Args:
        source: The file, or its bytes.
        where: What to call it in an error: its path, or data set and row.

    Raises:
        BadImageError: If it is not an image, is cut short, is too large to decode safely, or has pixels whose
            range nothing tells (floating point, integers above 65,535).
    """
    try:
        if stopwatch.is_running() and isinstance(source, Path):
            # Pillow reads while it decodes: what each takes can only be told of bytes that are there.
            source = source.read_bytes()
        with (
            stopwatch.lap("decode"),
            Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image,
        ):
            image.load()
    except Image.DecompressionBombError as error:
        raise BadImageError(f"{where} is too large to decode safely: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise BadImageError(f"{where} is not an image in a format that Pillow reads") from error
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or error
        raise BadImageError(f"{where} cannot be read as an image: {reason}") from error
    if image.mode in _SIXTEEN_BIT:
        low, high = np.asarray(image).min(), np.asarray(image).max()
        if low < 0 or high > 65535:
            raise BadImageError(f"{where} has values from {low} to {high}; 16-bit images end at 65535")
    elif image.mode not in _MODES:
        raise BadImageError(
            f"{where} has pixels of Pillow's mode {image.mode}; save it in 8 or 16 bits per channel"
        )
    return image


def with_channels(image: Image.Image, channels: int) -> Image.Image:
    """Bring an image to grey (1 channel) or RGB (3 channels) of 8 bits each.

    Palettes are looked up, 16 bits are scaled to 8, and transparency is dropped, not blended.
    """
    if image.mode in _SIXTEEN_BIT:
        # Pillow's own conversion clips at 255, which turns 16-bit photographs white.
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def pixels(image: Image.Image) -> UInt8[Tensor, "channel height width"]:
    """Copy an image of 8 bits per channel into a tensor."""
    copied = torch.from_numpy(np.array(image))
    return copied[None] if copied.ndim == 2 else copied.permute(2, 0, 1)
