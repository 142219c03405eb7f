import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carp_eval.data.order import by_shard, epoch_steps, num_steps
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


shards = st.lists(st.integers(0, 30), min_size=1, max_size=40).map(
    lambda sizes: np.array(sizes, dtype=np.int64)
)


@settings(deadline=None)
@given(sizes=shards, seed=st.integers(0, 2**40), epoch=st.integers(0, 1000), window=st.integers(1, 12))
def test_by_shard_takes_each_image_once_and_few_shards_at_a_time(sizes, seed, epoch, window):
    order = by_shard(sizes, seed=seed, epoch=epoch, window=window)
    assert sorted(order.tolist()) == list(range(sizes.sum()))
    shard_of = [shard for shard, size in enumerate(sizes) for _ in range(size)]
    first, last = {}, {}
    for place, row in enumerate(order.tolist()):
        first.setdefault(shard_of[row], place)
        last[shard_of[row]] = place
    for place in range(len(order)):
        # Open are the shards of which something was read and something is to come.
        assert sum(first[shard] <= place <= last[shard] for shard in first) <= window


@settings(deadline=None)
@given(
    sizes=shards.filter(lambda sizes: sizes.sum() >= 12),
    seed=st.integers(0, 99),
    world_size=st.sampled_from([1, 2, 3]),
    start=st.integers(0, 5),
)
def test_processes_share_shards_without_an_image_twice(sizes, seed, world_size, start):
    def steps(**options):
        return epoch_steps(
            int(sizes.sum()),
            seed=seed,
            epoch=3,
            batch_size=6,
            shard_sizes=sizes,
            world_size=world_size,
            **options,
        )

    whole = np.concatenate([steps(rank=rank) for rank in range(world_size)], axis=1)
    taken = whole.flatten().tolist()
    assert len(taken) == len(set(taken)) == sizes.sum() // 6 * 6
    alone = epoch_steps(int(sizes.sum()), seed=seed, epoch=3, batch_size=6, shard_sizes=sizes)
    assert np.array_equal(whole, alone)
    assert np.array_equal(steps(rank=world_size - 1, start_step=start), steps(rank=world_size - 1)[start:])


def test_the_order_by_shard_changes_with_seed_and_epoch_and_mixes_its_window():
    sizes = np.full(12, 50, dtype=np.int64)
    orders = {
        tuple(by_shard(sizes, seed=seed, epoch=epoch, window=4)) for seed in range(3) for epoch in range(3)
    }
    assert len(orders) == 9
    order = by_shard(sizes, seed=0, epoch=0, window=4)
    # Of 40 images dealt at random from 4 shards of 50, one shard has 25 or more about once in 200,000 times.
    for start in range(0, 600, 40):
        among = np.bincount(order[start : start + 40] // 50, minlength=12)
        assert (among > 0).sum() >= 4
        assert among.max() < 25
    companions = [frozenset(by_shard(sizes, seed=0, epoch=epoch, window=4)[:200] // 50) for epoch in range(5)]
    assert len(set(companions)) > 1
