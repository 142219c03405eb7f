import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from carp_eval.errors import BankError
from carp_eval.features import stored
from carp_eval.features.rows import plain_rows, unit_rows
from carp_eval.features.stored import StoredRows
from tests.private_memory import on_linux, watched


def random_shards(sizes, dim, *, dtype=torch.float16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shards = [torch.randn(size, dim, generator=generator).mul_(3).to(dtype) for size in sizes]
    for shard in shards:
        shard[:1] = 0
    return shards


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(sum),
    dim=st.sampled_from([1, 3, 64, 2048]),
    dtype=st.sampled_from([torch.float16, torch.float32]),
    normalise=st.booleans(),
    data=st.data(),
)
def test_rows_are_to_the_bit_those_of_the_whole_matrix(sizes, dim, dtype, normalise, data):
    shards = random_shards(sizes, dim, dtype=dtype)
    whole = (unit_rows if normalise else plain_rows)(shards)
    rows = StoredRows(shards, normalise=normalise)
    assert (len(rows), rows.dim) == whole.shape
    assert rows.longest >= whole.norm(dim=1).max() * (1 - 1e-6)
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(start + 1, len(whole)))
    assert torch.equal(rows.slab(start, stop), whole[start:stop])
    numbers = torch.tensor(
        data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=40)), dtype=torch.int64
    )
    assert torch.equal(rows.take(numbers), whole[numbers])


def test_values_that_are_not_finite_are_told_by_their_rows(monkeypatch):
    monkeypatch.setattr(stored, "PART_VALUES", 4 * 7)
    shards = random_shards([10, 20], 4)
    shards[1][8, 2] = math.inf
    with pytest.raises(BankError, match=r"rows 18"):
        StoredRows(shards, normalise=True)


@on_linux
def test_rows_that_are_taken_are_in_memory_once():
    shards = random_shards([1024] * 20, 256)
    rows = StoredRows(shards, normalise=True)
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    with watched() as most:
        taken = rows.take(chosen)
    assert most[0] < 1.3 * 4 * taken.numel()
