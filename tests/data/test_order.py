import numpy as np
import pytest

from carp_eval.data.order import epoch_steps, num_steps
from carp_eval.errors import DataError, UsageError


def test_an_epoch_takes_each_image_once_and_leaves_what_fills_no_batch():
    steps = epoch_steps(103, seed=1, epoch=0, batch_size=10)
    assert steps.shape == (10, 10) == (num_steps(103, 10), 10)
    assert len(set(steps.flatten())) == 100
    assert set(steps.flatten()) <= set(range(103))
    assert not np.array_equal(np.sort(steps.flatten()), steps.flatten())


def test_what_is_left_is_left_to_chance():
    left = [
        set(range(103)) - set(epoch_steps(103, seed=1, epoch=epoch, batch_size=10).flatten())
        for epoch in range(9)
    ]
    assert len(set.union(*left)) > 15


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        return tuple(epoch_steps(50, seed=seed, epoch=epoch, batch_size=5).flatten())

    assert order(3, 2) == order(3, 2)
    assert len({order(seed, epoch) for seed in range(4) for epoch in range(4)}) == 16


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_processes_share_each_step(world_size):
    whole = epoch_steps(100, seed=0, epoch=4, batch_size=12)
    parts = [
        epoch_steps(100, seed=0, epoch=4, batch_size=12, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert all(part.shape == (8, 12 // world_size) for part in parts)
    assert np.array_equal(np.concatenate(parts, axis=1), whole)


def test_an_epoch_can_be_taken_up_at_any_step():
    whole = epoch_steps(100, seed=0, epoch=4, batch_size=12, rank=1, world_size=2)
    for start in range(9):
        rest = epoch_steps(100, seed=0, epoch=4, batch_size=12, rank=1, world_size=2, start_step=start)
        assert np.array_equal(rest, whole[start:])


def test_what_cannot_be_dealt_is_an_error():
    with pytest.raises(DataError, match="a batch takes 11 images and the data set has 10"):
        num_steps(10, 11)
    with pytest.raises(UsageError, match="10 images cannot be shared evenly by 3"):
        epoch_steps(100, seed=0, epoch=0, batch_size=10, world_size=3)
