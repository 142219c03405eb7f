import numpy as np
import pytest
import torch
from PIL import Image

from carp_eval.data.pixels import PixelImages
from carp_eval.data.preview import GAP, HEADING, TILE, preview
from carp_eval.errors import StorageError
from tests.recipes import tiny

COLOURS = [(250, 10, 20), (20, 240, 30), (40, 50, 230), (128, 128, 128)]


def still(augment, channels=3):
    """A recipe whose views change nothing, so that the picture must show the original again."""
    recipe = tiny()
    view = recipe.views[0].model_copy(
        update={
            "size": 12,
            "count": 2,
            "scale": (1.0, 1.0),
            "ratio": (1.0, 1.0),
            "rotation": 0.0,
            "translation": 0.0,
            "shear": 0.0,
            "flip": 0.0,
            "jitter": (0.0, 0.0, 0.0, 0.0),
            "jitter_probability": 0.0,
            "grey": 0.0,
            "blur": 0.0,
            "solarise": 0.0,
            "erase": 0.0,
        }
    )
    data = recipe.data.model_copy(
        update={"augment": augment, "mean": (0.2, 0.4, 0.6)[:channels], "std": (0.3, 0.2, 0.1)[:channels]}
    )
    trunk = recipe.trunk.model_copy(update={"channels": channels})
    return recipe.model_copy(update={"views": (view,), "data": data, "trunk": trunk})


def plain(colours=COLOURS):
    pixels = torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 12, 12).contiguous()
    return PixelImages("x", "train", pixels, np.zeros(len(colours), dtype=np.int64), ("a",))


@pytest.mark.parametrize("augment", ["per_image", "per_batch"])
def test_each_row_shows_an_image_and_its_views_as_they_look(tmp_path, augment):
    path = tmp_path / "views.png"
    preview(plain(), still(augment), path, num_rows=4)
    sheet = Image.open(path).convert("RGB")
    assert sheet.size == (GAP + 3 * (TILE + GAP), HEADING + GAP + 4 * (TILE + GAP))
    for row, colour in enumerate(COLOURS):
        for column in range(3):
            tile = GAP + column * (TILE + GAP), HEADING + GAP + row * (TILE + GAP)
            shown = np.asarray(sheet)[tile[1] + 4 : tile[1] + 140, tile[0] + 4 : tile[0] + 140].astype(int)
            assert np.abs(shown - colour).max() <= 1
    headings = np.asarray(sheet)[:HEADING]
    for column in range(3):
        left = GAP + column * (TILE + GAP)
        assert headings[:, left : left + TILE].min() < 100


def test_grey_images_and_fewer_images_than_rows(tmp_path):
    path = tmp_path / "views.png"
    preview(plain([(40,), (200,)]), still("per_image", channels=1), path, num_rows=6)
    sheet = Image.open(path).convert("RGB")
    assert sheet.size[1] == HEADING + GAP + 2 * (TILE + GAP)
    assert sheet.getpixel((GAP + 50, HEADING + GAP + 50)) == (40, 40, 40)
    assert sheet.getpixel((GAP + TILE + GAP + 50, HEADING + GAP + TILE + GAP + 50)) == (200, 200, 200)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        preview(plain(), still("per_image"), tmp_path / "file" / "views.png")
