import math

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from carp_eval.errors import BankError, UsageError
from carp_eval.features.rows import unit_rows
from carp_eval.features.search import in_memory as searching
from carp_eval.features.search.exact import Exhaustive, dots, float32_error
from carp_eval.features.search.in_memory import search
from tests.features.search.searched import brute_force


def random_units(rows, dim, seed):
    return unit_rows([torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))])


def nudged(row, *, by, seed):
    """The same row, each value off by up to `by` units in its last place."""
    random = np.random.default_rng(seed)
    steps = random.integers(-by, by + 1, row.shape)
    return torch.from_numpy(row.numpy() + steps.astype(np.float32) * np.spacing(row.numpy()))


def test_points_on_a_circle_come_in_the_order_of_their_angles():
    angles = torch.tensor([0.0, 170.0, 30.0, -20.0, 90.0]).deg2rad()
    bank = torch.stack([angles.cos(), angles.sin()], dim=1)
    found = search(bank, torch.tensor([[1.0, 0.0], [0.0, 2.0]]), k=3)
    assert found.indices.tolist() == [[0, 3, 2], [4, 2, 1]]
    assert found.similarities[1].tolist() == pytest.approx([2, 1, 2 * math.sin(math.radians(170))], abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(2, 40),
    num_queries=st.integers(1, 22),
    dim=st.sampled_from([1, 3, 8, 32]),
    chunk=st.sampled_from([1, 7, 19, 20, 64]),
    copies=st.integers(0, 30),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_neighbours_are_those_of_exact_sums_with_copies_and_near_copies(
    rows, num_queries, dim, chunk, copies, seed, data
):
    bank, queries = random_units(rows, dim, seed), random_units(num_queries, dim, seed + 1)
    twins = [nudged(bank[0], by=data.draw(st.integers(0, 1)), seed=copy) for copy in range(copies)]
    bank = torch.cat([bank, *(twin[None] for twin in twins)])[torch.randperm(rows + copies)]
    queries[0] = bank[0]
    k = data.draw(st.integers(1, len(bank)))
    found = search(bank, queries, k=k, chunk=chunk)
    similarities, indices = brute_force(bank, queries, k)
    torch.testing.assert_close(found.similarities, similarities, rtol=0, atol=2 * float32_error(dim))
    # In one dimension and with nudges a sum of another order may differ in float64's last bit: those are no order.
    told_apart = torch.ones_like(indices, dtype=torch.bool)
    gaps = similarities[:, :-1] - similarities[:, 1:]
    unclear = (gaps > 0) & (gaps < 1e-14)
    told_apart[:, :-1] &= ~unclear
    told_apart[:, 1:] &= ~unclear
    assert (found.indices == indices)[told_apart].all()


def test_near_equals_that_float32_swaps_are_put_right():
    base = random_units(1, 512, seed=0)[0]
    bank = torch.stack([nudged(base, by=2, seed=seed) for seed in range(60)])
    queries = torch.cat([random_units(24, 512, seed=1), base[None]])
    similarities, indices = brute_force(bank, queries, 20)
    _, by_faiss = faiss.knn(queries.numpy(), bank.numpy(), 20, metric=faiss.METRIC_INNER_PRODUCT)
    assert (torch.from_numpy(by_faiss) != indices).any(), "float32 gets this right: the test shows nothing"
    for chunk in (1, 19, 25, 64):
        found = search(bank, queries, k=20, chunk=chunk)
        assert torch.equal(found.indices, indices), chunk
        torch.testing.assert_close(found.similarities, similarities, rtol=0, atol=1e-14)


def test_more_equal_rows_than_were_fetched_are_taken_by_number():
    bank = random_units(300, 16, seed=0)
    same = torch.randperm(300, generator=torch.Generator().manual_seed(1))[:120]
    bank[same] = bank[same[0]].clone()
    queries = torch.cat([bank[same[:1]], random_units(24, 16, seed=2), -bank[same[:1]]])
    indices = brute_force(bank, queries, 290)[1]
    for k in (1, 10, 119, 121, 290):
        for chunk in (3, 25, 1000):
            found = search(bank, queries, k=k, chunk=chunk)
            assert torch.equal(found.indices, indices[:, :k]), (k, chunk)
    assert indices[0, :120].tolist() == same.sort().values.tolist()


def test_a_bank_of_one_image_over_and_over_is_taken_by_number():
    row = random_units(1, 64, seed=0)
    found = search(row.expand(5000, -1), random_units(40, 64, seed=1), k=30)
    assert (found.indices == torch.arange(30)).all()


def test_a_query_of_zeros_takes_the_first_rows():
    found = search(random_units(50, 8, seed=0), torch.zeros(2, 8), k=4)
    assert found.indices.tolist() == [[0, 1, 2, 3]] * 2
    assert (found.similarities == 0).all()


def test_ties_between_different_rows_are_taken_by_number():
    found = search(torch.eye(40), torch.eye(40)[:3], k=30)
    assert found.indices.tolist() == [
        [query, *(row for row in range(40) if row != query)][:30] for query in range(3)
    ]


def test_a_search_that_is_further_off_than_assumed_is_done_again():
    bank, queries = random_units(200, 64, seed=0), random_units(30, 64, seed=1)

    def careless(asked, fetched):
        rough = torch.from_numpy(asked).bfloat16() @ bank.bfloat16().T
        values, rows = rough.float().topk(fetched)
        return values.numpy(), rows.numpy()

    tolerance = np.full(30, float32_error(64))
    near = searching._nearest(bank, Exhaustive(bank), careless, queries, tolerance, fetched=28, k=20)
    assert torch.equal(near.indices, brute_force(bank, queries, 20)[1])


def test_a_bank_queried_with_itself_leaves_each_query_out():
    bank = random_units(60, 8, seed=0)
    bank[10:30] = bank[10]
    for chunk in (7, 60):
        found = search(bank, bank, k=15, chunk=chunk, exclude_self=True)
        assert torch.equal(found.indices, brute_force(bank, bank, 15, own=range(60))[1])
    assert search(bank, bank, k=59, exclude_self=True).indices.shape == (60, 59)


def test_k_may_be_all_rows_and_no_more():
    bank = random_units(5, 3, seed=0)
    assert search(bank, bank[:1], k=5).indices.sort().values.tolist() == [[0, 1, 2, 3, 4]]
    with pytest.raises(UsageError, match=r"k is 6.*from 1 to 5"):
        search(bank, bank, k=6)
    with pytest.raises(UsageError, match=r"k is 5.*from 1 to 4"):
        search(bank, bank, k=5, exclude_self=True)
    with pytest.raises(UsageError, match="k is 0"):
        search(bank, bank, k=0)


def test_what_cannot_be_searched_is_refused():
    bank = random_units(5, 3, seed=0)
    with pytest.raises(UsageError, match=r"3 wide.*4"):
        search(bank, random_units(5, 4, seed=0), k=1)
    with pytest.raises(UsageError, match="chunk"):
        search(bank, bank, k=1, chunk=0)
    with pytest.raises(UsageError, match="5 rows, got 2"):
        search(bank, bank[:2], k=1, exclude_self=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_values_that_are_not_finite_are_an_error_that_numbers_the_rows(value):
    bank = random_units(300, 4, seed=0)
    broken = bank.clone()
    broken[[17, 250], 2] = value
    with pytest.raises(BankError, match=r"2 of 300 rows of the bank .*17, 250"):
        search(broken, bank, k=1)
    with pytest.raises(BankError, match=r"2 of 300 rows of the queries .*17, 250"):
        search(bank, broken, k=1)
    with pytest.raises(BankError, match=r"1 of 200 rows .*250"):
        unit_rows([bank[:100], broken[100:]])


def test_no_queries_have_no_neighbours():
    found = search(random_units(5, 3, seed=0), torch.empty(0, 3), k=2)
    assert found.indices.shape == found.similarities.shape == (0, 2)


def test_the_block_size_of_faiss_is_put_back(monkeypatch):
    monkeypatch.setattr(faiss.cvar, "distance_compute_blas_database_bs", 777)
    search(random_units(5, 3, seed=0), random_units(5, 3, seed=0), k=2)
    assert faiss.cvar.distance_compute_blas_database_bs == 777


def test_dots_give_a_pair_the_same_bits_wherever_it_stands():
    bank, queries = random_units(500, 2048, seed=0), random_units(3, 2048, seed=1)
    bank[1:] = bank[0]
    many = dots(bank, queries, torch.arange(500), torch.zeros(500, dtype=torch.int64))
    alone = dots(bank, queries, torch.tensor([499]), torch.tensor([0]))
    assert (many == alone).all()
    assert alone.item() == pytest.approx(
        math.fsum((bank[0].double() * queries[0].double()).tolist()), abs=1e-15
    )


@pytest.mark.parametrize("kind", ["signed", "positive", "heavy", "alike"])
@pytest.mark.parametrize("num_queries", [5, 100])
def test_float32_stays_within_the_error_that_is_assumed(kind, num_queries):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3000 + num_queries, 2048, generator=generator)
    values = {
        "signed": values,
        "positive": values.relu(),
        "heavy": (2 * values).exp(),
        "alike": 1 + values / 1000,
    }[kind]
    bank, queries = unit_rows([values[:3000]]), unit_rows([values[3000:]])
    found, rows = faiss.knn(queries.numpy(), bank.numpy(), 100, metric=faiss.METRIC_INNER_PRODUCT)
    exact = (queries.double() @ bank.double().T).gather(1, torch.from_numpy(rows))
    error = (torch.from_numpy(found).double() - exact).abs().max().item()
    assert 0 < error < float32_error(2048)
