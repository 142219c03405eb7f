import faiss
import numpy as np
import pytest
import torch

from carp_eval.cards import loading
from carp_eval.errors import UsageError
from carp_eval.evaluation import cluster
from carp_eval.evaluation.cluster import Clusters
from tests.features.scene import Noise, take

OPTIONS = {
    "clusters": 4,
    "iterations": 20,
    "restarts": 3,
    "spherical": False,
    "points_per_centre": 0,
    "seed": 0,
}
CORNERS = torch.tensor([[5.0, 5.0], [-5.0, 5.0], [-5.0, -5.0], [5.0, -5.0]])


def heaps(count, seed=0):
    """Four heaps of points around the corners of a square, and which heap each is of."""
    generator = torch.Generator().manual_seed(seed)
    heap = torch.arange(count) % 4
    return CORNERS[heap] + torch.randn(count, 2, generator=generator) / 2, heap.numpy()


@pytest.mark.parametrize("spherical", [False, True])
def test_four_heaps_are_four_clusters(spherical):
    points, heap = heaps(80)
    found = cluster.fit(points, **OPTIONS | {"spherical": spherical})
    assigned = cluster.assign(points, found)
    assert len(set(zip(heap.tolist(), assigned.tolist()))) == 4
    new, new_heap = heaps(40, seed=1)
    name = dict(zip(heap.tolist(), assigned.tolist()))
    assert cluster.assign(new, found).tolist() == [name[number] for number in new_heap.tolist()]
    lengths = np.linalg.norm(found.centres, axis=1)
    assert (np.abs(lengths - 1) < 1e-5).all() == spherical
    if not spherical:
        means = [points[torch.from_numpy(assigned == number)].mean(dim=0).tolist() for number in range(4)]
        np.testing.assert_allclose(found.centres, means, atol=1e-4)


def test_a_point_belongs_to_the_largest_inner_product_or_the_smallest_distance():
    centres = np.array([[1.0, 0.0], [0.0, 3.0]], dtype=np.float32)
    point = torch.tensor([[1.0, 0.5]])
    assert cluster.assign(point, Clusters(centres, False, 2)).tolist() == [0]
    assert cluster.assign(point, Clusters(centres, True, 2)).tolist() == [1]


def test_the_seed_is_that_of_the_caller():
    points = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    one_start = OPTIONS | {"restarts": 1, "iterations": 2, "clusters": 9}
    once, again, other = (cluster.fit(points, **one_start | {"seed": seed}).centres for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert not np.allclose(np.sort(once, axis=0), np.sort(other, axis=0))


def test_restarts_keep_the_best():
    points = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))

    def loss(restarts, seed):
        found = cluster.fit(points, **OPTIONS | {"clusters": 12, "restarts": restarts, "seed": seed})
        return faiss.knn(points.numpy(), found.centres, 1)[0].sum()

    for seed in range(3):
        assert loss(10, seed) <= loss(1, seed) * (1 + 1e-6)
    assert any(loss(10, seed) < loss(1, seed) * 0.999 for seed in range(3))


def test_all_points_count_unless_the_card_says_otherwise():
    # A far heap of every hundredth point moves the one centre: were points drawn, not by this much.
    points = torch.zeros(1000, 1)
    points[::100] = 100
    everything = cluster.fit(points, **OPTIONS | {"clusters": 1})
    assert everything.points == 1000
    assert everything.centres[0, 0] == pytest.approx(1)
    some = cluster.fit(points, **OPTIONS | {"clusters": 1, "points_per_centre": 150})
    assert some.points == 150
    assert some.centres[0, 0] * 150 == pytest.approx(round(some.centres[0, 0] * 150 / 100) * 100, abs=0.01)


def test_few_points_warn_nobody_behind_our_back(capfd):
    cluster.fit(heaps(8)[0], **OPTIONS)
    assert capfd.readouterr() == ("", "")


def test_more_clusters_than_points_are_refused_and_as_many_are_found():
    points = heaps(6)[0]
    with pytest.raises(UsageError, match=r"7 clusters .* the bank has 6"):
        cluster.fit(points, **OPTIONS | {"clusters": 7})
    found = cluster.fit(points, **OPTIONS | {"clusters": 6})
    assert sorted(cluster.assign(points, found).tolist()) == list(range(6))


def test_a_run_clusters_by_the_card(tmp_path):
    bank, queries = take(tmp_path, images=Noise(60, seed=1)), take(tmp_path, images=Noise(30, seed=2))
    card = loading.protocol_card("cluster", "carp", {"points_per_centre": 0, "iterations": 5, "restarts": 2})
    outcome = cluster.run(card, bank, queries, 0)
    scores = {score.metric: score.value for score in outcome.scores}
    assert set(scores) == {"nmi", "ami", "ari", "fms", "homogeneity", "completeness", "v"}
    assert all(-10 < value <= 100 for value in scores.values())
    assert outcome.predictions["cluster"].shape == (30,)
    assert outcome.counts["clusters"] == 3
    assert outcome.counts["fitted"] == 60
    assert any("60 images for 3 clusters are few" in note for note in outcome.notes)
    again = cluster.run(card, bank, queries, 0)
    assert again.scores == outcome.scores
    few = card.model_copy(update={"points_per_centre": 5, "clusters": 2})
    outcome = cluster.run(few, bank, queries, 0)
    assert outcome.counts["fitted"] == 10
    assert any("10 of 60 images" in note for note in outcome.notes)


def test_clusters_that_follow_the_classes_score_a_hundred(tmp_path):
    images = Noise(30)
    images.content[:] = (images.labels * 100)[:, None, None]
    images.content[:, 0, 0] += np.arange(30, dtype=np.uint8)
    bank = take(tmp_path, images=images)
    outcome = cluster.run(loading.protocol_card("cluster", "carp", {"spherical": False}), bank, bank, 0)
    assert {score.metric: score.value for score in outcome.scores}["ari"] == pytest.approx(100)
