import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from carp_eval.errors import BankError, UsageError
from carp_eval.features.rows import unit_rows
from carp_eval.features.search import exact, search_plan, slabs, streamed
from carp_eval.features.search.overlap import measured_overlap
from carp_eval.features.search.search_plan import Plan, fits, plan_for
from carp_eval.features.search.slabs import Best, TorchFinder
from carp_eval.features.search.streamed import search_bank, stream
from carp_eval.features.stored import StoredRows
from tests.features.search.searched import CPU, Kept, by_fsum, hard_bank, random_rows
from tests.features.written_bank import written
from tests.private_memory import on_linux, watched


@settings(max_examples=30, deadline=None)
@given(
    slab_rows=st.integers(1, 100),
    shard_rows=st.integers(1, 100),
    queries_at_once=st.sampled_from([1, 7, 100]),
    k=st.sampled_from([1, 5, 31, 89]),
    normalise=st.booleans(),
    exclude_self=st.booleans(),
    by=st.sampled_from(["faiss", "torch", "bf16"]),
)
def test_neighbours_are_those_of_exact_sums_whatever_the_slabs(
    slab_rows, shard_rows, queries_at_once, k, normalise, exclude_self, by
):
    features = hard_bank()
    rows = StoredRows(features.split(shard_rows), normalise=normalise)
    whole = unit_rows([features]) if normalise else features.float()
    queries = (
        whole
        if exclude_self
        else torch.cat([whole[:9], torch.zeros(1, 16), unit_rows([random_rows(20, 16, 5)])])
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed, "QUERIES_AT_ONCE", queries_at_once)
        patch.setattr(slabs, "BLOCK_ROWS", 11)
        if by == "torch":
            # As a GPU does it.
            patch.setattr(
                streamed, "FaissFinder", lambda asked: TorchFinder(asked, device=CPU, dtype=torch.float32)
            )
        products = "bf16" if by == "bf16" else "float32"
        plan = Plan(min(k + exclude_self + 8, 90), slab_rows, products, settled=queries_at_once)
        found = stream(rows, queries, plan, k=k, exclude_self=exclude_self)
    own = range(90) if exclude_self else None
    wanted = by_fsum(whole, queries, k, own=own)
    # Sums of another order may differ in float64's last bit: rows that are no copies may then change places.
    products = queries.double() @ whole.double().T
    assert torch.allclose(products.gather(1, found.indices), products.gather(1, wanted), rtol=0, atol=1e-13)
    told_apart = (products.gather(1, wanted).diff(dim=1).abs() > 1e-13) | (
        products.gather(1, wanted).diff(dim=1) == 0
    )
    clear = torch.ones_like(wanted, dtype=torch.bool)
    clear[:, :-1] &= told_apart
    clear[:, 1:] &= told_apart
    assert (found.indices == wanted)[clear].all()
    assert torch.allclose(found.similarities, products.gather(1, wanted), atol=1e-5)


def test_near_equals_that_float32_swaps_are_put_right():
    base = unit_rows([random_rows(1, 512, seed=0)])[0]
    ulps = torch.randint(-2, 3, (60, 512), generator=torch.Generator().manual_seed(1))
    features = base + ulps * torch.from_numpy(np.spacing(base.numpy()))
    queries = torch.cat([unit_rows([random_rows(24, 512, seed=1)]), base[None]])
    wanted = by_fsum(features, queries, 20)
    rough = (queries @ features.T).topk(20, dim=1).indices
    assert (rough != wanted).any(), "float32 gets this right: the test shows nothing"
    for slab_rows in (7, 60):
        rows = StoredRows(features.split(25), normalise=False)
        found = stream(rows, queries, Plan(fetched=28, slab_rows=slab_rows), k=20)
        assert torch.equal(found.indices, wanted)


def test_what_streams_is_what_is_searched_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(search_plan, "BLOCK_VALUES", 1)
    monkeypatch.setattr(search_plan, "QUERIES_AT_ONCE", 10)
    bank = written(tmp_path, random_rows(3000, 32, seed=0).half())
    queries = unit_rows([random_rows(200, 32, seed=1)])
    told = []
    in_memory = search_bank(bank, queries, k=20, memory=10**9, device=CPU)
    needed = 200 * (4 * 32 + 12 * 28 + 16 * 20) + 60 * 28 * 10 + 20
    small = needed + 300 * 8 * 32
    assert plan_for(bank, queries, k=20, budget=small).slab_rows == 300
    found = search_bank(
        bank, queries, k=20, memory=small, device=CPU, progress=lambda *so_far: told.append(so_far)
    )
    assert torch.equal(found.indices, in_memory.indices)
    torch.testing.assert_close(found.similarities, in_memory.similarities, rtol=0, atol=1e-6)
    assert told == [(20 * part, 200) for part in range(1, 11)]
    searched = bank.search(queries, 20, memory=small)
    assert torch.equal(searched.indices, in_memory.indices)


def test_a_bank_that_streams_before_itself_leaves_each_row_out(tmp_path, monkeypatch):
    monkeypatch.setattr(search_plan, "BLOCK_VALUES", 1)
    monkeypatch.setattr(search_plan, "QUERIES_AT_ONCE", 10)
    monkeypatch.setattr(search_plan, "FEWEST_SLAB_ROWS", 10)
    monkeypatch.setattr(streamed, "CHUNK", 64)
    bank = written(tmp_path, random_rows(300, 512, seed=0).half())
    own = unit_rows(bank.shards())
    assert not fits(bank, own, 1_100_000)
    found = search_bank(bank, own, k=3, memory=1_100_000, device=CPU, exclude_self=True)
    products = (own.double() @ own.double().T).fill_diagonal_(-2)
    assert torch.equal(found.indices, products.topk(3, dim=1).indices)


def test_too_little_memory_is_told_with_what_is_needed(tmp_path):
    bank = written(tmp_path, random_rows(5000, 32, seed=0).half(), shard_rows=5000)
    queries = unit_rows([random_rows(200, 32, seed=1)])
    with pytest.raises(
        UsageError, match=r"1\.0 MB of memory are too little .* give [\d.]+ MB or more"
    ) as told:
        plan_for(bank, queries, k=20, budget=1_000_000)
    enough = int(float(str(told.value).split("give ")[1].split(" MB")[0]) * 1_000_000)
    assert plan_for(bank, queries, k=20, budget=enough).slab_rows >= 256
    with pytest.raises(UsageError):
        plan_for(bank, queries, k=20, budget=enough - 200_000)
    # A single query does not pay for thousands: its 2,000 neighbours are kept in 0.2 MB.
    alone = 20 * search_plan.BLOCK_VALUES + 1_000_000
    assert plan_for(bank, queries[:1], k=2000, budget=alone).slab_rows >= 256


def test_a_search_that_was_stopped_goes_on_and_finds_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed, "SECONDS_BETWEEN_SAVES", 0.0)
    features = random_rows(500, 16, seed=0).half()
    bank = written(tmp_path, features)
    queries = unit_rows([random_rows(30, 16, seed=1)])
    plan = Plan(fetched=13, slab_rows=50)
    looked_at = []
    slab = StoredRows.slab
    monkeypatch.setattr(
        StoredRows, "slab", lambda rows, *span, into: looked_at.append(span) or slab(rows, *span, into=into)
    )

    def run(kept, *, name="one", asked=queries):
        looked_at.clear()
        return stream(bank.stored_rows(normalise=True), asked, plan, k=5, kept=kept, name=name)

    undisturbed = run(None)
    kept = Kept(dies_after=4)
    with pytest.raises(KeyboardInterrupt):
        run(kept)
    again = run(kept)
    assert looked_at[0] == (200, 250)
    assert torch.equal(again.indices, undisturbed.indices)
    assert torch.equal(again.similarities, undisturbed.similarities)
    # Another search begins anew.
    other = run(kept, name="two", asked=queries.flip(0))
    assert looked_at[0] == (0, 50)
    assert torch.equal(other.indices, undisturbed.indices.flip(0))


def test_searches_are_told_apart_by_all_that_moves_them(tmp_path):
    features = random_rows(50, 8, seed=0).half()
    bank, queries = written(tmp_path / "a", features), unit_rows([random_rows(5, 8, seed=1)])
    other_bank = written(tmp_path / "b", features, manifest="of another")
    plan = Plan(fetched=9, slab_rows=50)
    names = [
        streamed._name(bank, queries, plan, normalise=True),
        streamed._name(other_bank, queries, plan, normalise=True),
        streamed._name(bank, queries[:4], plan, normalise=True),
        streamed._name(bank, queries, replace(plan, fetched=10), normalise=True),
        streamed._name(bank, queries, plan, normalise=False),
        streamed._name(bank, queries, replace(plan, products="bf16"), normalise=True),
    ]
    assert len(set(names)) == len(names)
    # How it is cut moves nothing.
    assert names[0] == streamed._name(bank, queries.clone(), replace(plan, slab_rows=10), normalise=True)


def test_overlap_of_a_bank_with_itself_leaves_each_row_out(tmp_path):
    bank = written(tmp_path, random_rows(300, 16, seed=0).half())
    own = unit_rows(bank.shards())
    found = search_bank(bank, own, k=7, exclude_self=True, device=CPU)
    assert measured_overlap(bank, own, found, exclude_self=True) == (1.0, 100)


def test_only_what_beats_a_querys_worst_is_added():
    best = Best.none_yet(2, 3, device=CPU)
    best.add(*best.above(torch.tensor([[1.0, 5, 3, 2], [9, 9, 9, 8]]), first=0))
    assert best.rows.tolist()[0] == [1, 2, 3]
    # So long a block that its few are picked out of it.
    block = torch.zeros(2, 1000)
    block[0, [3, 700, 999]] = torch.tensor([2.0, 4, 2.5])
    block[1, 10] = 9
    found, rows = best.above(block, first=4)
    assert found.tolist() == [[4, 2.5], [-torch.inf] * 2]
    best.add(found, rows)
    assert best.rows.tolist()[0] == [1, 704, 2]
    assert best.similarities.tolist() == [[5, 4, 3], [9, 9, 9]]
    # More than are kept.
    best.add(*best.above(10 + torch.arange(2000.0).view(2, 1000), first=2000))
    assert best.rows.tolist() == [[2999, 2998, 2997]] * 2


def test_a_value_that_is_not_finite_is_found_before_the_search(tmp_path):
    features = random_rows(200, 8, seed=0)
    features[77, 3] = math.nan
    bank = written(tmp_path, features)
    with pytest.raises(BankError, match="rows 77"):
        search_bank(bank, unit_rows([random_rows(3, 8, seed=1)]), k=2, precision="bf16", device=CPU)


def test_what_cannot_be_searched_is_refused(tmp_path):
    bank = written(tmp_path, random_rows(5, 8, seed=0).half())
    with pytest.raises(UsageError, match=r"k is 6.*from 1 to 5"):
        search_bank(bank, random_rows(2, 8, seed=1), k=6)
    with pytest.raises(UsageError, match=r"8 wide.*9"):
        search_bank(bank, random_rows(2, 9, seed=1), k=1)
    assert search_bank(bank, torch.empty(0, 8), k=2, precision="bf16").indices.shape == (0, 2)


@on_linux
@pytest.mark.parametrize("precision", ["exact", "bf16"])
def test_a_bank_larger_than_the_memory_is_searched_within_it(tmp_path, monkeypatch, precision):
    for module in (search_plan, exact):
        monkeypatch.setattr(module, "BLOCK_VALUES", 2**18)
    features = random_rows(1000, 512, seed=0).half().repeat(50, 1)
    features += torch.arange(len(features))[:, None].remainder(61) / 61
    bank = written(tmp_path, features, shard_rows=4096)
    queries = unit_rows([random_rows(40, 512, seed=1)])
    # What libraries take for themselves the first time is not the search's.
    search_bank(bank, queries[:5], k=5, precision=precision, memory=10**8, device=CPU)
    budget = 40_000_000
    assert 4 * features.numel() > 2 * budget
    with watched() as most:
        search_bank(bank, queries, k=20, memory=budget, precision=precision, device=CPU)
    assert most[0] < budget


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["exact", "bf16"])
def test_a_gpu_finds_what_the_processor_finds(tmp_path, precision):
    bank = written(tmp_path, random_rows(20_000, 256, seed=0).half(), shard_rows=4096)
    queries = unit_rows([random_rows(3000, 256, seed=1)])
    wanted = search_bank(bank, queries, k=50, memory=10**10, device=CPU)
    found = search_bank(bank, queries, k=50, precision=precision, device=torch.device("cuda"))
    if precision == "exact":
        assert torch.equal(found.indices, wanted.indices)
    else:
        assert measured_overlap(bank, queries, found).right > 0.98
