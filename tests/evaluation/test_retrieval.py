import math

import numpy as np
import pytest
import torch

from carp_eval.cards import loading
from carp_eval.cards.retrieval import RetrievalCard
from carp_eval.errors import BankError, UsageError
from carp_eval.evaluation import retrieval
from carp_eval.features.rows import unit_rows
from tests.features.scene import Net, Noise, take


def by_loops(bank, labels, query, label, *, k, leave_out=None):
    """Average precision, R-precision and recall of one query, by walking down its ranking; rows must not tie."""
    order = sorted(
        (-math.fsum(a * b for a, b in zip(query, row)), number)
        for number, row in enumerate(bank)
        if number != leave_out
    )
    right = [labels[number] == label for _, number in order]
    total = sum(right)
    if not total:
        return [math.nan] * (2 + len(k))
    precisions = [sum(right[: place + 1]) / (place + 1) for place, hit in enumerate(right) if hit]
    recall = [float(any(right[:number])) for number in k]
    return [sum(precisions) / total, sum(right[:total]) / total, *recall]


def card(**changes):
    path = loading.folder(loading.PROTOCOLS) / "retrieval@classes.toml"
    return loading.check(
        RetrievalCard, loading.read(path, loading.PROTOCOLS) | changes, where="retrieval@classes"
    )


def features(count, seed, dim=4):
    return unit_rows([torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))])


@pytest.mark.parametrize("chunk", [None, 1, 4, 100])
@pytest.mark.parametrize("same", [False, True])
def test_scores_are_those_of_walking_down_each_ranking(chunk, same, monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK_ROWS", 7)
    bank = features(30, 0)
    queries = bank if same else features(9, 1)
    labels = torch.arange(30) % 4
    query_labels = labels if same else torch.arange(9) % 5
    found = retrieval.retrieve(bank, labels, queries, query_labels, k=[5, 1], chunk=chunk, exclude_self=same)
    for number, query in enumerate(queries.double().tolist()):
        wanted = by_loops(
            bank.double().tolist(),
            labels.tolist(),
            query,
            int(query_labels[number]),
            k=(1, 5),
            leave_out=number if same else None,
        )
        got = [found.average_precision, found.r_precision, found.recall[1], found.recall[5]]
        assert [values[number] for values in got] == pytest.approx(wanted, nan_ok=True)
    # Class 4 is in no bank.
    assert found.judged.tolist() == (query_labels != 4).tolist()


def test_points_on_a_circle_by_hand():
    def at(*degrees):
        angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
        return torch.stack([angles.cos(), angles.sin()], dim=1).float()

    # From 0 degrees the classes come as 1 0 1 0 0: right at 2, 4 and 5 for class 0.
    found = retrieval.retrieve(
        at(10, -20, 30, -40, 50), torch.tensor([1, 0, 1, 0, 0]), at(0), torch.tensor([0]), k=[1, 2]
    )
    assert found.average_precision[0] == pytest.approx((1 / 2 + 2 / 4 + 3 / 5) / 3)
    assert found.r_precision[0] == pytest.approx(1 / 3)
    assert (found.recall[1][0], found.recall[2][0]) == (0, 1)


def test_a_collapsed_network_scores_chance_whatever_the_order_of_the_bank():
    # Ten classes of five: were rows taken in their order, the first class would have it all.
    labels = torch.arange(50) // 5
    bank = torch.full((50, 37), 1 / math.sqrt(37))
    found = retrieval.retrieve(bank, labels, bank[:3], labels[[0, 20, 49]], k=[1, 10], chunk=2)
    assert found.average_precision == pytest.approx(0.1)
    assert found.r_precision == pytest.approx(0.1)
    assert found.recall[1] == pytest.approx(0.1)
    missed = math.comb(45, 10) / math.comb(50, 10)
    assert found.recall[10] == pytest.approx(1 - missed)


def test_similarities_that_only_rounding_tells_apart_tie():
    # The same values in other orders are equally near to a query that is the same all along.
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(129, generator=generator)
    bank = torch.stack([values[torch.randperm(129, generator=generator)] for _ in range(40)])
    labels = torch.arange(40) % 4
    found = retrieval.retrieve(bank, labels, torch.full((1, 129), 0.3), torch.tensor([2]), k=[1])
    assert found.average_precision[0] == found.r_precision[0] == found.recall[1][0] == 0.25


def test_images_that_are_the_same_tie_to_the_bit_in_any_chunk():
    generator = torch.Generator().manual_seed(0)
    bank = unit_rows([torch.randn(40, 129, generator=generator).repeat(3, 1)])
    labels = torch.randint(3, (120,), generator=generator)
    queries, query_labels = features(20, 2, dim=129), torch.arange(20) % 3
    whole, *parts = (
        retrieval.retrieve(bank, labels, queries, query_labels, k=[1, 3], chunk=chunk)
        for chunk in (20, 1, 3, 19)
    )
    assert ((whole.recall[1] > 0) & (whole.recall[1] < 1)).any()
    for part in parts:
        assert part.average_precision.tolist() == whole.average_precision.tolist()
        assert part.r_precision.tolist() == whole.r_precision.tolist()
        assert part.recall[3].tolist() == whole.recall[3].tolist()


@pytest.fixture(scope="module")
def banks(tmp_path_factory):
    home = tmp_path_factory.mktemp("banks")
    return take(home, images=Noise(60, seed=1)), take(home, images=Noise(30, seed=2))


@pytest.mark.parametrize("normalise", [True, False])
def test_a_run_scores_what_its_predictions_say(banks, normalise):
    bank, queries = banks
    outcome = retrieval.run(card(normalise=normalise), bank, queries, 0)
    rows, asked = (b.features().double() for b in banks)
    if normalise:
        rows, asked = (part / part.norm(dim=1, keepdim=True) for part in (rows, asked))
    wanted = np.array(
        [
            by_loops(rows.tolist(), bank.labels.tolist(), query, int(label), k=(1, 5, 10))
            for query, label in zip(asked.tolist(), queries.labels)
        ]
    )
    scores = {(score.metric, score.settings.get("k")): score for score in outcome.scores}
    names = [("map", None), ("r_precision", None), ("recall", 1), ("recall", 5), ("recall", 10)]
    assert list(scores) == names
    columns = ["average_precision", "r_precision", "recall_k1", "recall_k5", "recall_k10"]
    assert list(outcome.predictions) == columns
    for number, (name, column) in enumerate(zip(names, columns)):
        np.testing.assert_allclose(outcome.predictions[column], wanted[:, number], rtol=1e-6)
        assert scores[name].value == pytest.approx(wanted[:, number].mean() * 100)
        assert scores[name].low <= scores[name].value <= scores[name].high
    assert scores["map", None].low < scores["map", None].high
    assert outcome.notes == ()
    assert outcome.counts == {"queries_without_class": 0}


def test_a_bank_that_queries_itself_leaves_each_image_out(tmp_path):
    images = Noise(30, seed=1)
    images.labels[:] = np.arange(30) % 2
    # The only one of its class: beside it there is nothing to find for it.
    images.labels[7] = 2
    bank = take(tmp_path, images=images)
    outcome = retrieval.run(card(), bank, bank, 0)
    found = outcome.predictions["average_precision"]
    assert np.flatnonzero(np.isnan(found)).tolist() == [7]
    rows = bank.features().double()
    rows = (rows / rows.norm(dim=1, keepdim=True)).tolist()
    for number in (0, 29):
        wanted = by_loops(rows, images.labels, rows[number], images.labels[number], k=(1,), leave_out=number)
        assert found[number] == pytest.approx(wanted[0])
    value = next(score.value for score in outcome.scores if score.metric == "map")
    assert value == pytest.approx(np.nanmean(found) * 100)
    assert outcome.counts == {"queries_without_class": 1}
    assert any("no image was ranked for itself" in note for note in outcome.notes)
    assert any("1 of 30 queries have no image of their class" in note for note in outcome.notes)


def test_what_cannot_be_ranked_is_refused(banks, tmp_path):
    bank, queries = banks
    with pytest.raises(UsageError, match=r"k is 61.*60 rows"):
        retrieval.run(card(k=[61]), bank, queries, 0)
    with pytest.raises(UsageError, match=r"k is 60.*59 rows beside the query itself"):
        retrieval.run(card(k=[1, 60]), bank, bank, 0)
    images = Noise(30, seed=2)
    images.labels[3] = -1
    unlabelled = take(tmp_path, images=images)
    with pytest.raises(UsageError, match="1 of 30 queries have no label"):
        retrieval.run(card(), bank, unlabelled, 0)
    with pytest.raises(UsageError, match="1 of 30 rows of the bank have no label"):
        retrieval.run(card(), unlabelled, queries, 0)
    images = Noise(12, seed=2)
    images.labels[:] = 2
    nobody = take(tmp_path, images=images)
    images = Noise(12, seed=2)
    images.labels[:] = 1
    with pytest.raises(UsageError, match="none of 12 queries has an image of its class"):
        retrieval.run(card(), nobody, take(tmp_path, images=images), 0)
    network = Net().eval()
    with torch.no_grad():
        network.layers[0].bias += 1
    with pytest.raises(BankError, match="weights_sha256"):
        retrieval.run(card(), bank, take(tmp_path, network=network), 0)
