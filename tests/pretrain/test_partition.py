import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carp_eval.pretrain import partition


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@given(st.integers(2, 200), st.data())
def test_a_prototype_is_in_one_block_or_among_the_dropped(num_prototypes, data):
    block_size = data.draw(st.integers(2, num_prototypes))
    dropped = partition.num_dropped(num_prototypes, block_size=block_size)
    assert dropped == num_prototypes % block_size
    drawn = partition.draw(num_prototypes, block_size=block_size, generator=seeded(0))
    for blocks in (drawn, partition.constant(num_prototypes, block_size=block_size)):
        assert blocks.shape == (num_prototypes // block_size, block_size)
        named = blocks.flatten().tolist()
        assert len(set(named)) == len(named) == num_prototypes - dropped
        assert set(named) <= set(range(num_prototypes))
        partition.check(blocks, num_prototypes=num_prototypes)


def test_constant_blocks_are_sequential():
    assert partition.constant(7, block_size=3).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_each_draw_is_new_and_a_seed_repeats_it():
    generator = seeded(3)
    first, second = (partition.draw(64, block_size=8, generator=generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, partition.draw(64, block_size=8, generator=seeded(3)))


def test_a_draw_leaves_no_prototype_in_its_place_or_out_for_ever():
    generator = seeded(0)
    draws = [partition.draw(5, block_size=2, generator=generator) for _ in range(100)]
    assert all({int(draw[i, j]) for draw in draws} == set(range(5)) for i in range(2) for j in range(2))


@pytest.mark.parametrize(("block_size", "said"), [(1, "at least 2"), (0, "at least 2"), (9, "from 8")])
def test_a_block_size_that_cannot_be(block_size, said):
    for call in (
        lambda: partition.draw(8, block_size=block_size, generator=seeded(0)),
        lambda: partition.constant(8, block_size=block_size),
        lambda: partition.num_dropped(8, block_size=block_size),
    ):
        with pytest.raises(ValueError, match=said):
            call()


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        ([[0, 1], [2, 8]], "0 to 8, there are 0 to 7"),
        ([[0, -1]], "-1 to 0"),
        ([[0, 1], [2, 1]], "twice"),
        ([[0], [1]], "at least two prototypes"),
    ],
)
def test_a_partition_of_other_prototypes(blocks, said):
    with pytest.raises(ValueError, match=said):
        partition.check(torch.tensor(blocks), num_prototypes=8)
