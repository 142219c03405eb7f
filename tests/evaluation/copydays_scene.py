"""A tiny data set in Copydays' layout: what every card of copy detection can run on."""

from pathlib import Path

import numpy as np
from PIL import Image


def make(root: Path) -> str:
    """Write 130 originals, enough to copy 100 of them, and three blocks of copies; return how it is spelled."""
    chance = np.random.default_rng(0)
    for number in range(130):
        pixels = np.kron(chance.integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        write(root, f"original/{200_000 + 100 * number}.jpg", pixels)
        if number < 20:
            noisy = np.clip(pixels + chance.normal(0, 40, pixels.shape), 0, 255).astype(np.uint8)
            write(root, f"strong/{200_001 + 100 * number}.jpg", noisy[4:])
            write(root, f"strong/{200_002 + 100 * number}.jpg", pixels[:, 8:])
            write(root, f"jpegqual/3/{200_000 + 100 * number}.jpg", pixels, quality=3)
            write(root, f"crops/10/{200_000 + 100 * number}.jpg", pixels[1:-1, 1:-1])
    return f"copydays:{root}"


def write(root: Path, name: str, pixels: np.ndarray, *, quality: int = 95) -> None:
    """Write one image."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=quality)
