from functools import partial

import pytest
import torch

from carp_eval.errors import UsageError
from carp_eval.features.rows import unit_rows
from carp_eval.features.search import bf16, search_plan, slabs, streamed
from carp_eval.features.search.bf16 import Bf16Finder, proven
from carp_eval.features.search.overlap import measured_overlap
from carp_eval.features.search.search_plan import Plan, by_bf16, plan_for
from carp_eval.features.search.slabs import Best
from carp_eval.features.search.streamed import search_bank, stream
from carp_eval.features.stored import StoredRows
from tests.features.search.searched import CPU, Kept, by_fsum, random_rows
from tests.features.written_bank import written


def rectified(rows, dim, seed):
    """All in one corner, as features after a ReLU are."""
    return (4 + random_rows(rows, dim, seed)).relu()


def heavy_tailed(rows, dim, seed):
    """A few values that outweigh all others."""
    return random_rows(rows, dim, seed) * torch.exp(2 * random_rows(rows, dim, seed + 1))


def crowded(seed, spread=1e-3):
    """Rows that eight bits do not tell apart."""
    return unit_rows([random_rows(1, 64, seed=0) + spread * random_rows(600, 64, seed)]).half()


def chosen(features, queries, *, fetched):
    rows = StoredRows(features.split(100), normalise=True)
    finder = Bf16Finder(rows, queries, device=CPU)
    best = Best.none_yet(len(queries), fetched, device=CPU)
    for first in range(0, len(rows), 250):
        finder.load(rows.slab(first, min(first + 250, len(rows))), first=first)
        finder.look(slice(0, len(queries)), best)
    return rows, finder, best


@pytest.fixture
def halved(monkeypatch):
    """Have bf16 choose in banks of any size; which queries were searched again is told."""
    again = []
    searched = streamed._by_float32
    monkeypatch.setattr(search_plan, "ROWS_A_CANDIDATE", 1)
    monkeypatch.setattr(search_plan, "FEWEST_QUERIES", 1)
    monkeypatch.setattr(bf16, "is_faster", lambda *_: True)
    monkeypatch.setattr(
        streamed,
        "_by_float32",
        lambda bank, asked, *args, **named: again.append(len(asked)) or searched(bank, asked, *args, **named),
    )
    return again


@pytest.mark.parametrize("made", [rectified, heavy_tailed, random_rows])
def test_no_product_is_further_off_than_its_bound(made):
    features, queries = made(900, 96, 0).half(), unit_rows([made(50, 96, 7)])
    _, finder, best = chosen(features, queries, fetched=900)
    whole = unit_rows([features]).double()
    centre = whole[:: max(1, 900 // bf16.CENTRE_ROWS)].mean(dim=0)
    wanted = queries.double() @ (whole - centre).T
    off = (best.similarities - wanted.gather(1, best.rows)).abs()
    bound = finder.error(queries)[:, None] + bf16.ROUNDING * best.similarities.abs()
    assert (off <= bound).all()
    # And it says something: the bound is a few roundings, not the length of a vector.
    assert bound.max() < 0.01
    assert off.max() > bound.max() / 50


def test_neighbours_that_are_proven_are_those_of_exact_sums():
    features, queries = rectified(1500, 96, 0).half(), unit_rows([rectified(40, 96, 7)])
    wanted = by_fsum(unit_rows([features]), queries, 10)
    shares = []
    for fetched in (12, 40, 100, 300):
        rows, finder, best = chosen(features, queries, fetched=fetched)
        near, sure = proven(rows, finder, queries, best, k=10)
        assert torch.equal(near.indices[sure], wanted[sure])
        shares.append(sure.double().mean().item())
    # The more are fetched, the more is proven.
    assert shares[0] < shares[-1]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_the_rounding_of_the_product_itself_is_reckoned_with():
    # Whole numbers of eight bits, and rows whose mean is zero: nothing but the product is rounded.
    draw = torch.Generator().manual_seed(0)
    half = torch.randint(-1, 2, (700, 64), generator=draw).float()
    features, queries = (
        torch.cat([half, -half]).half(),
        torch.randint(-127, 128, (200, 64), generator=draw).float(),
    )
    rows = StoredRows([features], normalise=False)
    finder = Bf16Finder(rows, queries, device=CPU)
    best = Best.none_yet(200, 21, device=CPU)
    finder.load(rows.slab(0, 1400), first=0)
    finder.look(slice(0, 200), best)
    assert finder.error(queries).max() < 0.1
    near, sure = proven(rows, finder, queries, best, k=20)
    wanted = by_fsum(features.float(), queries, 20)
    assert (near.indices != wanted).any(), "nothing was missed: the test shows nothing"
    assert sure.any()
    assert torch.equal(near.indices[sure], wanted[sure])


def test_what_is_not_proven_is_searched_again(tmp_path, halved):
    features = torch.cat([crowded(3), random_rows(900, 64, 4).half()])
    bank = written(tmp_path, features)
    queries = torch.cat([unit_rows([crowded(5)[:10]]), unit_rows([random_rows(90, 64, 6)])])
    found = search_bank(bank, queries, k=7, device=CPU)
    assert halved
    assert 0 < halved[0] < 100
    assert torch.equal(found.indices, by_fsum(unit_rows([features]), queries, 7))
    halved.clear()
    search_bank(bank, queries, k=7, precision="bf16", device=CPU)
    assert not halved


def test_where_little_can_be_proven_bf16_is_given_up(tmp_path, halved, monkeypatch):
    monkeypatch.setattr(streamed, "TRIED", 16)
    features, queries = crowded(3), unit_rows([crowded(5)[:200]])
    plans, searched = [], streamed.stream

    def stream_by(bank, asked, plan, **named):
        plans.append(plan.products)
        return searched(bank, asked, plan, **named)

    monkeypatch.setattr(streamed, "stream", stream_by)
    bank = written(tmp_path, features)
    found = search_bank(bank, queries, k=7, device=CPU)
    assert plans == []
    assert torch.equal(found.indices, by_fsum(unit_rows([features]), queries, 7))
    # Most of what is tried can be proven: the rest is searched again.
    features = torch.cat([features, random_rows(2000, 64, 4).half()])
    queries = torch.cat([queries[:20], unit_rows([random_rows(180, 64, 6)])])
    found = search_bank(written(tmp_path / "mixed", features), queries, k=7, device=CPU)
    assert plans == ["bf16", "float32"]
    assert torch.equal(found.indices, by_fsum(unit_rows([features]), queries, 7))


def test_of_more_copies_than_are_put_in_order_the_lowest_rows_stand_first(tmp_path, halved, monkeypatch):
    monkeypatch.setattr(streamed, "PROVEN_SHARE", 0.0)
    features = random_rows(900, 64, 0)
    features[::30] = features[0]
    queries = unit_rows([features[:1] + 0.1 * random_rows(40, 64, 1)])
    found = search_bank(written(tmp_path, features.half()), queries, k=7, device=CPU)
    assert torch.equal(found.indices, torch.arange(0, 210, 30).expand(40, -1))
    assert halved == [40]


def test_whom_bf16_serves_is_not_searched_again(tmp_path, halved):
    features, queries = random_rows(3000, 64, 0).half(), unit_rows([random_rows(60, 64, 1)])
    found = search_bank(written(tmp_path, features), queries, k=7, device=CPU)
    assert not halved
    assert torch.equal(found.indices, by_fsum(unit_rows([features]), queries, 7))


def test_products_that_are_further_off_than_assumed_are_not_believed(tmp_path, halved, monkeypatch):
    features, queries = random_rows(800, 64, 0).half(), unit_rows([random_rows(20, 64, 1)])
    bank = written(tmp_path, features)
    look = Bf16Finder.look

    def careless(finder, asked, best):
        look(finder, asked, best)
        best.similarities[best.similarities > best.similarities.mean()] += 0.05

    monkeypatch.setattr(Bf16Finder, "look", careless)
    monkeypatch.setattr(streamed, "PROVEN_SHARE", 0.0)
    found = search_bank(bank, queries, k=7, device=CPU)
    assert halved == [20]
    assert torch.equal(found.indices, by_fsum(unit_rows([features]), queries, 7))


def test_a_bank_before_itself_leaves_each_row_out(tmp_path, halved):
    features = random_rows(500, 64, 0).half()
    bank = written(tmp_path, features)
    own = unit_rows([features])
    found = search_bank(bank, own, k=5, exclude_self=True, device=CPU)
    assert torch.equal(found.indices, by_fsum(own, own, 5, own=range(500)))


def test_a_search_that_was_stopped_still_knows_the_rows_it_met(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed, "SECONDS_BETWEEN_SAVES", 0.0)
    features = random_rows(500, 16, seed=0)
    # The longest row passes first; what is proven rests on it.
    features[3] *= 5
    bank, queries = written(tmp_path, features.half()), unit_rows([random_rows(30, 16, seed=1)])
    plan = Plan(fetched=60, slab_rows=50, products="bf16")
    finders = []

    class Seen(Bf16Finder):
        def __init__(self, *args, **named):
            super().__init__(*args, **named)
            finders.append(self)

    monkeypatch.setattr(streamed, "Bf16Finder", Seen)

    def run(kept):
        return stream(bank.stored_rows(normalise=False), queries, plan, k=5, kept=kept, name="one")

    undisturbed = run(None)
    kept = Kept(dies_after=4)
    with pytest.raises(KeyboardInterrupt):
        run(kept)
    again = run(kept)
    assert torch.equal(again.indices, undisturbed.indices)
    assert torch.equal(again.similarities, undisturbed.similarities)
    first, _, last = finders
    assert first.learnt["length"] > 10
    assert first.learnt == last.learnt


def test_bf16_is_taken_where_it_pays(tmp_path, monkeypatch):
    bank, queries = written(tmp_path, random_rows(2000, 64, 0).half()), unit_rows([random_rows(60, 64, 1)])
    monkeypatch.setattr(bf16, "is_faster", lambda *_: True)
    monkeypatch.setattr(search_plan, "ROWS_A_CANDIDATE", 20)
    monkeypatch.setattr(search_plan, "FEWEST_QUERIES", 60)
    least = int(float(str(too_little(bank, queries)).split("give ")[1].split(" MB")[0]) * 1e6)
    ours = partial(by_bf16, bank, budget=least, device=CPU)
    assert ours(queries, k=20)
    assert not ours(queries, k=100)
    assert not ours(queries[:59], k=20)
    # What float32 still fits into, bf16 does not.
    assert not by_bf16(bank, queries, k=20, budget=least - 200_000, device=CPU)
    assert plan_for(bank, queries, k=20, budget=least - 200_000)
    monkeypatch.setattr(bf16, "is_faster", lambda *_: False)
    assert not ours(queries, k=20)


def too_little(bank, queries):
    with pytest.raises(UsageError, match="are too little") as told:
        plan_for(bank, queries, k=20, budget=1, products="bf16")
    return told.value


@pytest.mark.parametrize(("half", "taken"), [(0.004, True), (0.009, False), (0.5, False)])
def test_the_faster_products_are_found_by_trying(monkeypatch, half, taken):
    tried = []

    def seconds(queries, rows):
        tried.append(queries.dtype)
        return half if queries.dtype == torch.bfloat16 else 0.01

    monkeypatch.setattr(bf16, "_seconds", seconds)
    assert bf16.is_faster.__wrapped__(CPU, 64) == taken
    # What is only emulated is not tried long.
    assert len(tried) == (2 if half > bf16.SLOW_SECONDS else 2 * bf16.TURNS)


def test_bf16_finds_nearly_all_and_orders_them_exactly(tmp_path, monkeypatch):
    monkeypatch.setattr(slabs, "BLOCK_ROWS", 700)
    # All in one corner, as rectified features are: without a centre, bf16 tells none of them apart.
    features = (4 + random_rows(4000, 64, seed=0)).relu().half()
    bank = written(tmp_path, features, shard_rows=1000)
    queries = unit_rows([(4 + random_rows(100, 64, seed=1)).relu()])
    whole = unit_rows([features]).double()
    wanted = (queries.double() @ whole.T).sort(dim=1, descending=True, stable=True).indices[:, :10]
    found = search_bank(bank, queries, k=10, precision="bf16", device=CPU)
    right = torch.stack([torch.isin(a, b) for a, b in zip(wanted, found.indices, strict=True)])
    assert 0.98 < right.double().mean() <= 1
    assert (found.similarities.diff(dim=1) <= 0).all()
    products = (queries.double()[:, None] * whole[found.indices]).sum(dim=2)
    torch.testing.assert_close(found.similarities, products, rtol=0, atol=1e-6)
    assert (products.diff(dim=1) <= 0).all()
    assert measured_overlap(bank, queries, found).right == pytest.approx(right.double().mean().item())
    wrong = found._replace(indices=(found.indices + 1) % 4000)
    assert measured_overlap(bank, queries, wrong).right < 0.1


def test_of_equal_rows_that_bf16_found_the_lower_stands_first(tmp_path):
    features = random_rows(40, 16, seed=0).half()
    features[10:20] = features[30:40] = features[3]
    found = search_bank(
        written(tmp_path, features), unit_rows([features[3:4]]), k=21, precision="bf16", device=CPU
    )
    assert found.indices.tolist() == [[3, *range(10, 20), *range(30, 40)]]
