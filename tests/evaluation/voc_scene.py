"""A tiny copy of VOC2007 in its native layout.

Images are noise, with a bright square, in a place of its own, for each class they show.
"""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
CELL = 10
COLUMNS, ROWS = 5, 4
TRAINVAL, TEST = 60, 40
# How much brighter squares are: so little that classes are not told apart without mistakes.
SHOWN, DIFFICULT = 25, 20


def targets(number: int) -> list[int]:
    """What an image shows: one class or two, and mostly two more that are difficult to see."""
    shown = [-1] * len(CLASSES)
    shown[(number + 9) % 20] = shown[(number + 14) % 20] = 0
    if number % 3 == 0:
        shown[(number * 7 + 3) % 20] = 1
    shown[number % 20] = 1
    return shown


def make(root: Path) -> str:
    """Write a copy with 60 images in trainval and 40 in test, and return how the data set is spelled."""
    folder = root / "VOCdevkit" / "VOC2007"
    lists, photographs = folder / "ImageSets" / "Main", folder / "JPEGImages"
    for place in (lists, photographs):
        place.mkdir(parents=True)
    random = np.random.default_rng(0)
    names = {number: f"{number + 1:06d}" for number in range(TRAINVAL + TEST)}
    for number, name in names.items():
        pixels = random.integers(0, 100, (ROWS * CELL, COLUMNS * CELL, 3), dtype=np.uint8)
        for c, shown in enumerate(targets(number)):
            if shown >= 0:
                row, column = divmod(c, COLUMNS)
                cell = pixels[row * CELL :][:CELL, column * CELL :][:, :CELL]
                cell += np.uint8(SHOWN if shown else DIFFICULT)
        Image.fromarray(pixels).save(photographs / f"{name}.jpg", quality=95)
    trainval = range(TRAINVAL)
    splits = {
        "train": [number for number in trainval if number % 2],
        "val": [number for number in trainval if not number % 2],
        "trainval": trainval,
        "test": range(TRAINVAL, TRAINVAL + TEST),
    }
    for split, numbers in splits.items():
        for c, class_name in enumerate(CLASSES):
            lines = [f"{names[number]} {targets(number)[c]:2d}\n" for number in numbers]
            (lists / f"{class_name}_{split}.txt").write_text("".join(lines))
    return f"voc07:{root}"
