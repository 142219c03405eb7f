"""The downsampled ImageNet in its npz form (Chrabaszcz, Loshchilov and Hutter, 2017)."""

import math
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from carp_eval.data.layouts.lists import fields
from carp_eval.data.pixels import PixelImages
from carp_eval.data.source import Source
from carp_eval.errors import DataError

NUM_CLASSES = 1000
_BATCH = re.compile(r"train_data_batch_(\d+)\.npz")


def read_downsampled(name: str, place: Path) -> Source | None:
    """Read the npz form: ten batches to train on, and one to validate.

    The pickled form is refused: a pickle can run any code.
    """
    train = {int(found.group(1)): path for path in place.iterdir() if (found := _BATCH.fullmatch(path.name))}
    validation = place / "val_data.npz"
    if train or validation.exists():
        batches = [train[number] for number in sorted(train)]
        missing = sorted(set(range(1, max(train, default=0) + 1)) - set(train))
        if missing:
            raise DataError(f"{place} has no train_data_batch_{missing[0]}.npz; the copy is incomplete")
        splits = {"train": batches} if train else {}
        return _Batches(name, place, splits | ({"validation": [validation]} if validation.exists() else {}))
    pickled = [path for path in (place / "val_data", place / "train_data_batch_1") if path.is_file()]
    if pickled:
        raise DataError(
            f"{pickled[0]} is a pickle, which can run any code and is not read: get the npz form "
            f"(https://image-net.org/download-images.php, Imagenet64_val_npz.zip and the like), or Parquet "
            f"from the Hub, or folders of PNG"
        )
    return None


class _Batches(Source):
    """Batches of pixels, read into memory: 12 kB an image at 64 px, 16 GB for all to train on."""

    def __init__(self, name: str, folder: Path, batches: dict[str, list[Path]]) -> None:
        self.name = name
        self.splits = tuple(batches)
        self._folder = folder
        self._batches = batches

    def open_split(self, split: str) -> PixelImages:
        paths = self._batches[split]
        labels = np.concatenate([_array(path, "labels").astype(np.int64).reshape(-1) for path in paths]) - 1
        if labels.min() < 0 or labels.max() >= NUM_CLASSES:
            raise DataError(
                f"{paths[0]} has classes from {labels.min() + 1} to {labels.max() + 1}; 1 to {NUM_CLASSES} are expected"
            )
        pixels: UInt8[torch.Tensor, "image channel height width"] | None = None
        start = 0
        # Filled batch by batch: joining them afterwards would take twice the memory.
        for path in paths:
            batch = _array(path, "data")
            side = math.isqrt(batch.shape[-1] // 3)
            if batch.dtype != np.uint8 or batch.ndim != 2 or batch.shape[1] != 3 * side * side:
                raise DataError(
                    f"{path} should have rows of 3 x 64 x 64 bytes; it has {batch.dtype} of shape {batch.shape}"
                )
            if pixels is None:
                pixels = torch.empty((len(labels), 3, side, side), dtype=torch.uint8)
            if pixels.shape[-1] != side or start + len(batch) > len(labels):
                raise DataError(
                    f"{path} does not fit to the batches before it: sizes or numbers of labels differ"
                )
            pixels[start : start + len(batch)] = torch.from_numpy(batch).reshape(-1, 3, side, side)
            start += len(batch)
        if pixels is None or start != len(labels):
            raise DataError(f"{paths[0]} has {len(labels)} labels, but {start} images; get the batches again")
        return PixelImages(self.name, split, pixels, labels, self._class_names())

    def _class_names(self) -> tuple[str, ...]:
        """Name the classes: their order is the authors' own, not ImageNet's, and only their list tells it."""
        path = self._folder / "map_clsloc.txt"
        if not path.exists():
            return tuple(str(number) for number in range(1, NUM_CLASSES + 1))
        named = {number: wnid for wnid, number, *_ in fields(path, 2)}
        names = tuple(named.get(str(number), "") for number in range(1, NUM_CLASSES + 1))
        if not all(names):
            raise DataError(f"{path} should number {NUM_CLASSES} classes, but has {len(named)}; get it again")
        return names


def _array(path: Path, key: str) -> np.ndarray:
    """Read one array of a batch; nothing pickled is let through."""
    try:
        with np.load(path, allow_pickle=False) as batch:
            return batch[key]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read as a batch of the npz form with {key!r} ({error}); get it again"
        ) from error
