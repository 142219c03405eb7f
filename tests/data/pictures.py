"""Small pictures, and data sets of them, for the tests to open."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int = 0, *, size: tuple[int, int] = (8, 6)) -> Image.Image:
    """Return noise that no other seed gives, in RGB."""
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_folder(root: Path, counts: Mapping[str, int], *, size: tuple[int, int] = (8, 6)) -> Path:
    """Write so many pictures into each folder below `root`: `{"train/cat": 3}`."""
    seed = 0
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(seed, size=size).save(root / folder / f"{number}.png")
            seed += 1
    return root


def write_parquet(path: Path, columns: Mapping[str, list[object]], features: Mapping[str, object]) -> Path:
    """Write a table as the Hub has it; images are given as bytes."""
    import datasets

    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(dict(columns), features=datasets.Features(dict(features))).to_parquet(path)
    return path


def write_tar(
    path: Path, members: Iterable[tuple[str, bytes]], *, mode: str = "w", **options: object
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, **options) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_shards(
    folder: Path, sizes: Iterable[int], *, name: str = "train-{:04d}.tar", classes: int = 3, first: int = 0
) -> Path:
    """Write shards of so many samples; image and key of a sample follow from its number, its class too."""
    for shard, size in enumerate(sizes):
        members: list[tuple[str, bytes]] = []
        for number in range(first, first + size):
            members.append((f"{number:04d}.cls", str(number % classes).encode()))
            members.append((f"{number:04d}.png", encoded(picture(number))))
        write_tar(folder / name.format(shard), members)
        first += size
    return folder
