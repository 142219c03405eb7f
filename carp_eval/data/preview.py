"""A picture of what views look like: each row an image and its views."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from carp_eval import seeds
from carp_eval.cards.recipe import RecipeCard
from carp_eval.data.batch_views import BatchViews
from carp_eval.data.decoding import pixels, with_channels
from carp_eval.data.images import Images
from carp_eval.data.views import Views
from carp_eval.files import replacing

TILE = 160
GAP = 8
HEADING = 24


def preview(images: Images, recipe: RecipeCard, path: Path, *, num_rows: int = 6) -> None:
    """Write a PNG that shows images and their views, as the recipe makes them in its first epoch.

    Args:
        images: The split; images are taken evenly from all of it.
        recipe: Says what the views are.
        path: The file to write.
        num_rows: Images to show.

    Raises:
        BadImageError: If an image cannot be read.
        CardError: If a view asks for what its images cannot give.
        StorageError: If the file cannot be written.
    """
    numbers = np.unique(np.linspace(0, len(images) - 1, num_rows).astype(np.int64)).tolist()
    originals = [with_channels(images.image(number), recipe.trunk.channels) for number in numbers]
    views = Views(recipe.views, mean=recipe.data.mean, std=recipe.data.std)
    if recipe.data.augment == "per_batch":
        made = _batch_views(originals, recipe)
    else:
        seed_of = [seeds.derive(recipe.seed, "views", 0, number) for number in numbers]
        made = [views(original, seed) for original, seed in zip(originals, seed_of, strict=True)]
    rows = [
        [
            with_channels(original, 3),
            *(_picture(view, recipe.data.mean, recipe.data.std) for view in its_views),
        ]
        for original, its_views in zip(originals, made, strict=True)
    ]
    with replacing(path) as beside:
        contact_sheet(rows, headings=["original", *views.labels]).save(beside, format="PNG")


def contact_sheet(rows: Sequence[Sequence[Image.Image]], *, headings: Sequence[str]) -> Image.Image:
    """Lay pictures out in rows and columns, each column with a heading.

    Args:
        rows: The pictures, as many in each row as there are headings.
        headings: What each column shows.
    """
    step = TILE + GAP
    size = (GAP + step * len(headings), HEADING + GAP + step * len(rows))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=12)
    for column, heading in enumerate(headings):
        draw.text((GAP + column * step, HEADING // 3), heading, fill="black", font=font)
        for row, pictures in enumerate(rows):
            picture = pictures[column]
            # What is enlarged must show the pixels there are, as in a view of 28.
            resampling = Image.Resampling.NEAREST if max(picture.size) <= TILE else Image.Resampling.BICUBIC
            tile = ImageOps.contain(picture, (TILE, TILE), resampling)
            sheet.paste(tile, (GAP + column * step, HEADING + GAP + row * step))
    return sheet


def _batch_views(originals: Sequence[Image.Image], recipe: RecipeCard) -> list[tuple[Tensor, ...]]:
    """Make views of a whole batch at once, and sort them by image."""
    make = BatchViews(recipe.views, mean=recipe.data.mean, std=recipe.data.std)
    batch = torch.stack([pixels(original) for original in originals])
    views = make(batch, seeds.generator(recipe.seed, "views", 0, 0, 0))
    return list(zip(*views, strict=True))


def _picture(
    view: Float[Tensor, "channel height width"], mean: Sequence[float], std: Sequence[float]
) -> Image.Image:
    """Undo the normalisation of a view."""
    scale, shift = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (std, mean))
    pixels = (view * scale + shift).mul(255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())
