import faiss
import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans

from carp_eval.errors import UsageError
from carp_eval.evaluation import kmeans
from carp_eval.evaluation.kmeans import Clusters

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
    found = kmeans.fit(points, **OPTIONS | {"spherical": spherical})
    assigned = kmeans.assign(points, found)
    assert len(set(zip(heap.tolist(), assigned.tolist()))) == 4
    new, new_heap = heaps(40, seed=1)
    name = dict(zip(heap.tolist(), assigned.tolist()))
    assert kmeans.assign(new, found).tolist() == [name[number] for number in new_heap.tolist()]
    lengths = np.linalg.norm(found.centres, axis=1)
    assert (np.abs(lengths - 1) < 1e-5).all() == spherical
    if not spherical:
        means = [points[torch.from_numpy(assigned == number)].mean(dim=0).tolist() for number in range(4)]
        np.testing.assert_allclose(found.centres, means, atol=1e-4)


def test_a_point_belongs_to_the_largest_inner_product_or_the_smallest_distance():
    centres = np.array([[1.0, 0.0], [0.0, 3.0]], dtype=np.float32)
    point = torch.tensor([[1.0, 0.5]])
    assert kmeans.assign(point, Clusters(centres, False, 2, 1)).tolist() == [0]
    assert kmeans.assign(point, Clusters(centres, True, 2, 1)).tolist() == [1]


def test_the_seed_is_that_of_the_caller():
    points = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    one_start = OPTIONS | {"restarts": 1, "iterations": 2, "clusters": 9}
    once, again, other = (kmeans.fit(points, **one_start | {"seed": seed}).centres for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert not np.allclose(np.sort(once, axis=0), np.sort(other, axis=0))


def test_restarts_keep_the_best():
    points = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))

    def loss(restarts, seed):
        found = kmeans.fit(points, **OPTIONS | {"clusters": 12, "restarts": restarts, "seed": seed})
        return faiss.knn(points.numpy(), found.centres, 1)[0].sum()

    for seed in range(3):
        assert loss(10, seed) <= loss(1, seed) * (1 + 1e-6)
    assert any(loss(10, seed) < loss(1, seed) * 0.999 for seed in range(3))


def test_all_points_count_unless_the_card_says_otherwise():
    # A far heap of every hundredth point moves the one centre: were points drawn, not by this much.
    points = torch.zeros(1000, 1)
    points[::100] = 100
    everything = kmeans.fit(points, **OPTIONS | {"clusters": 1})
    assert everything.points == 1000
    assert everything.centres[0, 0] == pytest.approx(1)
    some = kmeans.fit(points, **OPTIONS | {"clusters": 1, "points_per_centre": 150})
    assert some.points == 150
    assert some.centres[0, 0] * 150 == pytest.approx(round(some.centres[0, 0] * 150 / 100) * 100, abs=0.01)


def test_few_points_warn_nobody_behind_our_back(capfd):
    kmeans.fit(heaps(8)[0], **OPTIONS)
    assert capfd.readouterr() == ("", "")


def test_more_clusters_than_points_are_refused_and_as_many_are_found():
    points = heaps(6)[0]
    with pytest.raises(UsageError, match=r"7 clusters .* the bank has 6"):
        kmeans.fit(points, **OPTIONS | {"clusters": 7})
    found = kmeans.fit(points, **OPTIONS | {"clusters": 6})
    assert sorted(kmeans.assign(points, found).tolist()) == list(range(6))


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("points_per_centre", [0, 40])
def test_one_iteration_at_a_time_gives_what_one_call_of_faiss_gives(spherical, points_per_centre):
    points = torch.randn(900, 12, generator=torch.Generator().manual_seed(0))
    whole = faiss.Kmeans(
        12,
        15,
        niter=25,
        nredo=3,
        spherical=spherical,
        seed=11,
        max_points_per_centroid=points_per_centre or len(points),
        min_points_per_centroid=1,
    )
    whole.train(points.numpy())
    options = {"clusters": 15, "iterations": 25, "seed": 11, "points_per_centre": points_per_centre}
    ours = kmeans.fit(points, **OPTIONS | options | {"spherical": spherical})
    np.testing.assert_allclose(ours.centres, whole.centroids, atol=1e-6)
    assert ours.points == (600 if points_per_centre else 900)


def test_a_run_that_has_come_to_rest_ends_and_its_progress_is_told():
    told = []
    points, _ = heaps(80)
    found = kmeans.fit(points, **OPTIONS, progress=lambda done, total: told.append((done, total)))
    assert found.iterations < OPTIONS["iterations"] * OPTIONS["restarts"] / 2
    assert told == sorted(told)
    assert told[-1] == (60, 60)
    assert len(told) == found.iterations + 1
    before = kmeans.fit(points, **OPTIONS | {"iterations": 19}).centres
    np.testing.assert_array_equal(found.centres, before)


def test_who_interrupts_one_run_ends_all():
    told = []

    def interrupt(done, total):
        told.append(done)
        if done == 3:
            raise KeyboardInterrupt

    points = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(KeyboardInterrupt):
        kmeans.fit(
            points, **OPTIONS | {"clusters": 50, "iterations": 10_000, "restarts": 9}, progress=interrupt
        )
    assert len(told) < 100


def test_small_batches_are_scikit_learns():
    points, heap = heaps(400)
    options = {"clusters": 4, "batch_size": 50, "max_epochs": 10, "restarts": 2, "seed": 3}
    told = []
    found = kmeans.fit_in_batches(points, **options, progress=lambda *done: told.append(done))
    theirs = MiniBatchKMeans(4, batch_size=50, max_iter=10, n_init=2, random_state=3).fit(points.numpy())
    assert kmeans.assign(points, found).tolist() == theirs.labels_.tolist()
    assert len(set(zip(heap.tolist(), theirs.labels_.tolist()))) == 4
    assert told == [(0, 1), (1, 1)]
    with pytest.raises(UsageError, match="5 clusters need as many rows or more, the bank has 4"):
        kmeans.fit_in_batches(points[:4], **options | {"clusters": 5})
