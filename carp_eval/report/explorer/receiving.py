"""From bytes that somebody sent to an image: what is too large or no image is refused before it is decoded."""

import io

from PIL import Image, UnidentifiedImageError

from carp_eval.data.decoding import decode
from carp_eval.errors import BadImageError

MOST_BYTES = 32 * 2**20
# A photograph has fewer; in memory, more would be a good part of a gigabyte.
MOST_PIXELS = 80_000_000
# Pillow reads others too, one of which would start Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_NAME = "the image"


def received(content: bytes) -> Image.Image:
    """Decode an image that was sent.

    Args:
        content: The file's bytes; nothing of them goes to the disk.

    Raises:
        BadImageError: If it is no image of a common format, damaged or too large.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            pixels = image.width * image.height
    except UnidentifiedImageError as error:
        raise BadImageError(
            f"this file is not an image in a format that is taken: {', '.join(FORMATS)}"
        ) from error
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        # Its header is damaged: what is wrong with it, the project's decoder says.
        return decode(content, _NAME)
    if pixels > MOST_PIXELS:
        raise BadImageError(
            f"the image has {pixels:,} pixels; at most {MOST_PIXELS:,} are taken: make it smaller"
        )
    return decode(content, _NAME)
