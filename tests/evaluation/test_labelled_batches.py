from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from carp_eval import distributed
from carp_eval.data.images import ModelInput
from carp_eval.evaluation import labelled_batches
from carp_eval.evaluation.labelled_batches import LabelledBatches
from tests.evaluation.training_scene import STILL, card
from tests.features.scene import SIDE, Noise

INPUT = ModelInput(native_size=SIDE, mean=(0.5,), std=(0.25,))


def dealt(images=None, *, batch_size=16, changes=STILL, **options):
    views = labelled_batches.crops(card("linear@swav", **changes), size=SIDE, model_input=INPUT)
    return LabelledBatches(
        images or Noise(50), views, batch_size=batch_size, seed=3, **{"num_workers": 0} | options
    )


def shared(monkeypatch, world, **options):
    """Return every process's deals of an epoch."""
    found = []
    for rank in range(world):
        monkeypatch.setattr(distributed, "world_size", lambda: world)
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        found.append(dealt(**options).deals(0))
    return found


def test_every_image_comes_once_an_epoch_in_an_order_of_its_own():
    batches = dealt()
    first, second = (
        [number for deal in batches.deals(epoch) for number in deal.numbers] for epoch in range(2)
    )
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert [deal.size for deal in batches.deals(0)] == [16, 16, 16, 2]
    assert batches.num_images == 50


@pytest.mark.parametrize("world", [2, 3, 5])
def test_processes_share_each_batch_in_its_order(monkeypatch, world):
    alone = [deal.numbers for deal in dealt().deals(0)]
    processes = shared(monkeypatch, world)
    for batch, whole in enumerate(alone):
        together = []
        for deals in processes:
            deal = deals[batch]
            assert deal.size == len(whole)
            assert deal.start == len(together)
            together += deal.numbers
            assert deal.stop == len(together)
        assert together == whole


def test_batches_that_are_too_small_for_all_processes_are_left_out(monkeypatch):
    assert [deal.size for deal in dealt(fewest=2).deals(0)] == [16, 16, 16, 2]
    assert [deal.size for deal in dealt(fewest=3).deals(0)] == [16, 16, 16]
    for deals in shared(monkeypatch, 2, fewest=2):
        assert [deal.size for deal in deals] == [16, 16, 16]
    assert dealt(fewest=3, batch_size=2).num_images == 0


def test_loading_gives_the_dealt_images_in_pieces():
    images = Noise(50)
    batches = dealt(images, chunk=6)
    loaded = list(batches.load(1))
    assert [len(batch.index) for batch in loaded] == [6, 6, 4] * 3 + [2]
    numbers = [number for deal in batches.deals(1) for number in deal.numbers]
    assert torch.cat([batch.index for batch in loaded]).tolist() == numbers
    whole = torch.from_numpy(images.content[numbers]).float()[:, None]
    assert torch.allclose(torch.cat([batch.images for batch in loaded]), (whole / 255 - 0.5) / 0.25)


def test_crops_depend_on_seed_epoch_and_image_alone():
    def by_image(epoch, **options):
        loaded = dealt(changes={}, **options).load(epoch)
        return {
            number: image.numpy().tobytes()
            for batch in loaded
            for number, image in zip(batch.index.tolist(), batch.images)
        }

    first = by_image(0)
    assert first == by_image(0, batch_size=7, chunk=3) == by_image(0, num_workers=2)
    second = by_image(1)
    assert Counter(first[number] == second[number] for number in first)[True] < 5


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_are_resampled_as_the_card_says(interpolation):
    images = Noise(3)
    still = STILL | {"crop_interpolation": interpolation}
    views = labelled_batches.crops(card("linear@swav", **still), size=5, model_input=INPUT)
    for number in range(3):
        wanted = images.image(number).resize((5, 5), Image.Resampling[interpolation.upper()])
        pixels = torch.from_numpy(np.asarray(wanted).astype(np.float32))
        assert torch.allclose(views(images.image(number), 0)[0][0], (pixels / 255 - 0.5) / 0.25)
