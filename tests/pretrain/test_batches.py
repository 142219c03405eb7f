"""Where views come from: the same ones however they are made, and where they lie."""

import math

import psutil
import pytest
import torch

from carp_eval.cards.recipe import RecipeCard
from carp_eval.data.folders import FolderSource
from carp_eval.pretrain import batches as module
from carp_eval.pretrain.batches import ViewBatches
from tests.data.pictures import write_folder
from tests.recipes import tiny

VIEWS = [
    {"size": 24, "count": 2, "blur": 0.5, "solarise": 0.2, "erase": 0.2},
    {"size": 16, "count": 3, "scale": [0.05, 0.14], "to_teacher": False},
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return FolderSource("pets", write_folder(tmp_path_factory.mktemp("pets"), {"cat": 12, "dog": 11})).open(
        "train"
    )


def recipe(augment) -> RecipeCard:
    plain = tiny(
        trunk__channels="3",
        data__mean="[0.4013, 0.5012, 0.6011]",
        data__std="[0.2, 0.25, 0.3]",
        data__augment=f'"{augment}"',
        schedule__batch_size="6",
    )
    return type(plain).model_validate(plain.model_dump() | {"views": VIEWS})


def loaded(images, augment, *, epochs=(0,), start_step=0, **options):
    made = ViewBatches(recipe(augment), images, **({"num_workers": 0} | options))
    return [batch for epoch in epochs for batch in made.epoch(epoch, start_step=start_step)]


def same(some, others):
    assert len(some) == len(others) > 0
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one.index, other.index)
        assert all(torch.equal(view, copy) for view, copy in zip(one.views, other.views, strict=True))


def test_views_finished_on_the_device_are_those_made_image_by_image(images):
    per_image, on_device = (loaded(images, augment, epochs=(0, 1)) for augment in ("per_image", "on_device"))
    assert len(per_image) == len(on_device) == 6
    scale = torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1) * 255
    for one, other in zip(per_image, on_device, strict=True):
        assert torch.equal(one.index, other.index)
        assert [view.shape for view in one.views] == [view.shape for view in other.views]
        assert [tuple(view.shape) for view in other.views] == [(6, 3, 24, 24)] * 2 + [(6, 3, 16, 16)] * 3
        for view, copy in zip(one.views, other.views, strict=True):
            assert copy.dtype == torch.float32
            # Levels of 255: Pillow rounds after each change, this form does not.
            assert ((view - copy) * scale).abs().mean() < 2


@pytest.mark.parametrize("augment", ["per_image", "on_device"])
def test_workers_and_a_start_in_mid_epoch_change_nothing(images, augment):
    whole = loaded(images, augment, epochs=(2,))
    same(whole, loaded(images, augment, epochs=(2,), num_workers=2))
    same(whole[1:], loaded(images, augment, epochs=(2,), start_step=1))


def test_an_epoch_left_early_leaves_no_worker_behind(images):
    before = set(psutil.Process().children())
    made = ViewBatches(recipe("on_device"), images, num_workers=2)
    epoch = made.epoch(0)
    next(epoch)
    started = set(psutil.Process().children()) - before
    assert len(started) >= 2
    epoch.close()
    _, alive = psutil.wait_procs(list(started), timeout=5)
    assert not alive


def test_the_share_of_waiting_is_known_and_told_once(images, monkeypatch):
    monkeypatch.setattr(module, "ENOUGH", 4)
    made = ViewBatches(recipe("per_image"), images, num_workers=0)
    assert made.loading_share == 0.0
    told = []
    for epoch in range(4):
        # A step that takes no time: nearly all goes by loading.
        for _ in made.epoch(epoch):
            told.append(made.advice())
    assert 0.5 < made.loading_share <= 1
    assert math.isfinite(made.loading_share)
    (said,) = [text for text in told if text]
    assert said.startswith("warning: ")
    assert "on_device" in said
    assert all(not text for text in told[:6])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("augment", ["per_image", "on_device", "per_batch"])
def test_views_lie_on_the_gpu_and_are_those_of_the_cpu(augment, digit_folder):
    images = FolderSource("digits", digit_folder).open("train")
    here = loaded(images, augment, num_workers=2)
    there = loaded(images, augment, num_workers=2, device=torch.device("cuda"))
    assert len(here) == len(there) > 2
    for one, other in zip(here, there, strict=True):
        assert all(view.is_cuda for view in other.views)
        assert not other.index.is_cuda
        assert torch.equal(one.index, other.index)
        for view, copy in zip(one.views, other.views, strict=True):
            assert torch.allclose(view, copy.cpu(), atol=2e-3)
