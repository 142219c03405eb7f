from dataclasses import dataclass

import psutil
import pytest
import torch

from carp_eval.data.folders import FolderSource
from carp_eval.data.skipping import SkippedImages
from carp_eval.data.training_batches import TrainingBatches
from carp_eval.errors import BadImageError, DataError, UsageError
from tests.data.pictures import write_folder


@dataclass
class Noted:
    """Views that tell which image they are of, and with which seed they were made."""

    def __call__(self, image, seed):
        first = float(image.getpixel((0, 0))[0])
        return [torch.full((3, 4, 4), first), torch.full((3, 2, 2), float(seed % 2**20))]


@pytest.fixture
def images(tmp_path):
    return FolderSource("pets", write_folder(tmp_path, {"cat": 12, "dog": 11})).open("train")


def loaded(images, epochs=(0,), start_step=0, **options):
    training = TrainingBatches(images, Noted(), **({"batch_size": 6, "seed": 5, "num_workers": 0} | options))
    return [batch for epoch in epochs for batch in training.epoch(epoch, start_step=start_step)]


def same(some, others):
    assert len(some) == len(others) > 0
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one.index, other.index)
        assert all(torch.equal(view, copy) for view, copy in zip(one.views, other.views, strict=True))


def test_a_step_has_every_view_of_every_image(images):
    steps = loaded(images)
    assert len(steps) == 3 == TrainingBatches(images, Noted(), batch_size=6, seed=5).num_steps
    for step in steps:
        assert [tuple(view.shape) for view in step.views] == [(6, 3, 4, 4), (6, 3, 2, 2)]
        for row, number in enumerate(step.index.tolist()):
            assert step.views[0][row, 0, 0, 0] == images.image(number).getpixel((0, 0))[0]
    assert len({number for step in steps for number in step.index.tolist()}) == 18


def test_workers_change_nothing(images):
    alone = loaded(images, epochs=(0, 1))
    same(alone, loaded(images, epochs=(0, 1), num_workers=1))
    same(alone, loaded(images, epochs=(0, 1), num_workers=2))


def test_an_epoch_taken_up_again_goes_on_as_it_would_have(images):
    whole = loaded(images, epochs=(4,))
    for start in range(3):
        same(whole[start:], loaded(images, epochs=(4,), start_step=start))


def test_an_epoch_left_early_does_not_leak_into_the_next(images):
    training = TrainingBatches(images, Noted(), batch_size=6, seed=5, num_workers=2)
    next(training.epoch(0))
    same(list(training.epoch(1)), loaded(images, epochs=(1,)))


def test_workers_stay_for_all_epochs_and_end_with_their_owner(images):
    training = TrainingBatches(images, Noted(), batch_size=6, seed=5, num_workers=2)
    list(training.epoch(0))
    workers = set(psutil.Process().children())
    list(training.epoch(1))
    assert set(psutil.Process().children()) == workers
    assert len(workers) == 2
    del training
    _, alive = psutil.wait_procs(list(workers), timeout=5)
    assert not alive


def test_processes_together_take_what_one_would(images):
    whole = loaded(images)
    parts = [loaded(images, rank=rank, world_size=3) for rank in range(3)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([part[step].index for part in parts]), batch.index)
        for view in range(2):
            assert torch.equal(torch.cat([part[step].views[view] for part in parts]), batch.views[view])


def test_every_image_and_epoch_has_a_chance_of_its_own(images):
    seeds = {
        float(value)
        for seed in (5, 6)
        for step in loaded(images, epochs=(0, 1), seed=seed)
        for value in step.views[1][:, 0, 0, 0]
    }
    assert len(seeds) == 2 * 2 * 18


def damage(images, numbers):
    for number in numbers:
        (images.folder / images.key(number)).write_bytes(b"no image")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_image_stops_the_training_unless_the_next_may_take_its_place(images, num_workers):
    before = loaded(images)
    bad = [0, 3, 4, 22]
    damage(images, bad)
    with pytest.raises(BadImageError, match=r"\.png is not an image .*--skip-bad"):
        loaded(images, num_workers=num_workers)
    skipped = SkippedImages()
    after = loaded(images, num_workers=num_workers, skip_bad=skipped)
    in_their_place = {0: 1, 3: 5, 4: 5, 22: 1}
    met = set()
    for old, new in zip(before, after, strict=True):
        met |= set(old.index.tolist()) & set(bad)
        assert new.index.tolist() == [in_their_place.get(number, number) for number in old.index.tolist()]
        assert new.views[0].shape == old.views[0].shape
    assert met
    assert met <= set(skipped.by_number) <= set(bad)


def test_a_data_set_without_one_good_image_ends(images):
    damage(images, range(23))
    with pytest.raises(BadImageError, match="not one image of pets can be read"):
        loaded(images, skip_bad=SkippedImages())


def test_what_cannot_be_dealt_is_an_error(images):
    with pytest.raises(DataError, match="a batch takes 24 images and the data set has 23"):
        TrainingBatches(images, Noted(), batch_size=24, seed=0)
    with pytest.raises(UsageError, match="shared evenly"):
        TrainingBatches(images, Noted(), batch_size=5, seed=0, world_size=2)
