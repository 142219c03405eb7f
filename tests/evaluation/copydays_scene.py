"""Tiny data sets in Copydays' layout, and how a test scores a model on them."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from torch import nn

from carp_eval.cards import loading
from carp_eval.data.images import ModelInput
from carp_eval.evaluation.job import Settings
from carp_eval.evaluation.running import evaluate
from carp_eval.models.model import Model, weights_sha256

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
YELLOW, MAGENTA = (255, 255, 0), (255, 0, 255)


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


class MeanColour(nn.Module):
    """What an eye sees of an image of one colour."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images):
        return self.pool(images).flatten(1)


def model(network=None, *, native_size=224, name="colours", width=3):
    network = network or MeanColour()
    return Model(
        name=name,
        network=network,
        input=ModelInput(native_size=native_size, mean=(0.0,) * 3, std=(1.0,) * 3),
        feature_dim=width,
        weights_sha256=weights_sha256(network.state_dict()),
    )


def paint(root, colours, *, size=(12, 16)):
    for name, colour in colours.items():
        write(root, name, np.full((*size, 3), colour, dtype=np.uint8))


def draw_scene(root):
    """Three originals, copies of them of which some are nearer to another colour, and two distractors."""
    paint(
        root / "copydays",
        {
            "original/200000.jpg": RED,
            "original/200100.jpg": GREEN,
            "original/200200.jpg": BLUE,
            "strong/200001.jpg": (255, 40, 0),
            "strong/200002.jpg": (180, 0, 255),
            "strong/200101.jpg": (230, 250, 0),
            "jpegqual/3/200000.jpg": RED,
            "jpegqual/3/200100.jpg": (0, 250, 10),
            "jpegqual/3/200200.jpg": (10, 0, 250),
            "crops/10/200000.jpg": (0, 60, 250),
            "crops/10/200100.jpg": GREEN,
            "crops/10/200200.jpg": BLUE,
        },
    )
    paint(root / "others", {"yellow.jpg": YELLOW, "magenta.jpg": MAGENTA})
    return f"copydays:{root / 'copydays'}", f"folder:{root / 'others'}"


def card(variant="carp", **changes):
    return loading.protocol_card("copydays", variant, changes)


def score(card, dataset, *, judged=None, tmp_path, seed=0, **settings):
    record, path = evaluate(
        judged or model(),
        card,
        dataset=dataset,
        settings=Settings(num_workers=0, **settings),
        output=tmp_path / "results",
        seed=seed,
    )
    return record, pq.read_table(path.with_suffix(".parquet")).to_pydict()


def by_block(record, metric="map"):
    key = {"map": "block", "mean_map": "blocks"}[metric]
    return {found.settings[key]: found.value for found in record.scores if found.metric == metric}
