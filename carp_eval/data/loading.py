"""A split's images as batches for a frozen model, or all at once in memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from carp_eval.data import decoding
from carp_eval.data.decoding import with_channels
from carp_eval.data.image_loader import ImageLoader, Request
from carp_eval.data.images import Batch, Images
from carp_eval.data.pixels import DecodedImages, pixels_of
from carp_eval.data.preprocessing import Preprocessing
from carp_eval.data.skipping import SkippedImages
from carp_eval.data.stopwatch import Laps

Transform = Callable[[Image.Image], Float[Tensor, "channel height width"]]


class PixelBatch(NamedTuple):
    """Some images of a split, resized and cropped.

    Attributes:
        images: The pixels.
        index: Each image's number in the split.
    """

    images: UInt8[Tensor, "image channel height width"]
    index: Int64[Tensor, " image"]  # pyright: ignore[reportIncompatibleMethodOverride]


def batches(
    images: Images,
    transform: Transform,
    *,
    batch_size: int,
    num_workers: int | None = None,
    indices: Sequence[int] | None = None,
    skip_bad: SkippedImages | None = None,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Load images in order, the last batch as small as it comes.

    Args:
        images: The split.
        transform: Makes a tensor of an image, mostly a `Preprocessing`; it must pickle.
        batch_size: Images in a batch.
        num_workers: Processes that decode; 0 for none; left out, as many as make sense.
        indices: Which images, and in which order; left out, all.
        skip_bad: Collects images that cannot be read; without it the first one is an error.
        pin_memory: Whether batches lie in memory from which a GPU copies fast.

    Yields:
        Batches whose rows carry their image's number; smaller where images were skipped.

    Raises:
        BadImageError: If an image cannot be read and `skip_bad` is not given.
        DataError: If images come out in several sizes.
    """
    numbers = range(len(images)) if indices is None else indices
    pixels = pixels_of(images)
    if pixels is not None and isinstance(transform, Preprocessing) and transform.keeps(*pixels.shape[2:]):
        for chunk in in_chunks(numbers, batch_size):
            index = torch.tensor(chunk, dtype=torch.int64)
            yield Batch(transform.of_pixels(pixels[index]), index)
        return
    loader = ImageLoader(
        images, _Transformed(transform), num_workers=num_workers, skip_bad=skip_bad, pin_memory=pin_memory
    )
    with closing(loader):
        for prepared in loader.load(map(Request, in_chunks(numbers, batch_size))):
            yield Batch(prepared.tensors[0], prepared.numbers)


def pixel_batches(
    images: Images,
    preprocessing: Preprocessing,
    chunks: Iterable[list[int]],
    *,
    num_workers: int | None = None,
    skip_bad: SkippedImages | None = None,
    pin_memory: bool = False,
    stand_back: bool = False,
    laps: Callable[[Laps, int], None] | None = None,
) -> Iterator[PixelBatch]:
    """Load images without normalising them: a quarter of the bytes, for whoever does so for a batch, on its device.

    Args:
        images: The split.
        preprocessing: How images are resized and cropped.
        chunks: The images of each batch, asked for as they are needed.
        num_workers: Processes that decode; 0 for none; left out, as many as make sense.
        skip_bad: Collects images that cannot be read; without it the first one is an error.
        pin_memory: Whether batches lie in memory from which a GPU copies fast.
        stand_back: Whether these processes leave the cores to this one while it computes on them.
        laps: Is told what reading, decoding and transforming some images took, and of how many.

    Yields:
        Batches whose rows carry their image's number; smaller where images were skipped.

    Raises:
        BadImageError: If an image cannot be read and `skip_bad` is not given.
        DataError: If images come out in several sizes.
    """
    pixels = pixels_of(images)
    if pixels is not None and preprocessing.keeps(*pixels.shape[2:]):
        for chunk in chunks:
            index = torch.tensor(chunk, dtype=torch.int64)
            # A slice is no copy; pinning makes the one that is needed.
            together = chunk == list(range(chunk[0], chunk[0] + len(chunk)))
            found = preprocessing.in_channels(pixels[chunk[0] : chunk[-1] + 1] if together else pixels[index])
            yield PixelBatch(found.pin_memory() if pin_memory else found, index)
        return
    loader = ImageLoader(
        images,
        _Transformed(preprocessing.pixels),
        num_workers=num_workers,
        skip_bad=skip_bad,
        pin_memory=pin_memory,
        timed=laps is not None,
        stand_back=stand_back,
    )
    with closing(loader):
        for prepared in loader.load(map(Request, chunks)):
            if laps is not None and prepared.laps is not None:
                laps(prepared.laps, len(prepared.numbers))
            yield PixelBatch(prepared.tensors[0], prepared.numbers)


def in_chunks(numbers: Iterable[int], size: int) -> Iterator[list[int]]:
    """Cut numbers into lists of a size, the last as short as it comes."""
    rest = iter(numbers)
    return iter(lambda: list(islice(rest, size)), [])


def in_memory(images: Images, *, channels: int, num_workers: int | None = None) -> Images:
    """Decode a whole split of small images of one size, once, so that batches need no decoding.

    Args:
        images: The split.
        channels: 1 for grey, 3 for RGB.
        num_workers: Processes that decode; left out, as many as make sense.

    Returns:
        The same split, with an attribute `pixels`; itself if it has that already.

    Raises:
        DataError: If the images are of several sizes, or one cannot be read.
    """
    pixels = pixels_of(images)
    if pixels is not None and pixels.shape[1] == channels:
        return images
    loader = ImageLoader(images, _Decoded(channels), num_workers=num_workers)
    requests = [
        Request(list(range(start, min(start + 512, len(images))))) for start in range(0, len(images), 512)
    ]
    with closing(loader):
        parts = [prepared.tensors[0] for prepared in loader.load(requests)]
    return DecodedImages(images, torch.cat(parts))


@dataclass(frozen=True)
class _Transformed:
    transform: Callable[[Image.Image], Tensor]

    def __call__(self, image: Image.Image, number: int, epoch: int) -> list[Tensor]:  # noqa: ARG002
        return [self.transform(image)]


@dataclass(frozen=True)
class _Decoded:
    channels: int

    def __call__(self, image: Image.Image, number: int, epoch: int) -> list[Tensor]:  # noqa: ARG002
        return [decoding.pixels(with_channels(image, self.channels))]
