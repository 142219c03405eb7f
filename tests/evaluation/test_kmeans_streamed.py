import faiss
import numpy as np
import pytest
import torch

from carp_eval.errors import UsageError
from carp_eval.evaluation import kmeans, kmeans_runs, kmeans_streamed
from carp_eval.evaluation.scaled import ScaledRows
from carp_eval.features.rows import standardising
from carp_eval.features.stored import StoredRows
from tests.features.search.searched import Kept

OPTIONS = {
    "clusters": 15,
    "iterations": 25,
    "restarts": 3,
    "spherical": False,
    "points_per_centre": 0,
    "seed": 11,
}


def random_points(count=900, dim=12):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0))


def rows_of(points):
    return ScaledRows(StoredRows(points.split(70), normalise=False))


def streamed(points, *, at_once=128, **changes):
    return kmeans_streamed.fit(rows_of(points), **OPTIONS | changes, at_once=at_once)


def by_faiss(points, **changes):
    """One call of FAISS's own k-means."""
    options = OPTIONS | changes
    means = faiss.Kmeans(
        points.shape[1],
        options["clusters"],
        niter=options["iterations"],
        nredo=options["restarts"],
        spherical=options["spherical"],
        seed=options["seed"],
        max_points_per_centroid=options["points_per_centre"] or len(points),
        min_points_per_centroid=1,
    )
    means.train(points.numpy())
    return means.centroids


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("points_per_centre", [0, 40])
@pytest.mark.parametrize("at_once", [100, 4096])
def test_points_read_slab_by_slab_have_the_clusters_of_faiss(spherical, points_per_centre, at_once):
    points, changes = random_points(), {"spherical": spherical, "points_per_centre": points_per_centre}
    found = streamed(points, at_once=at_once, **changes)
    wanted = by_faiss(points, **changes)
    np.testing.assert_allclose(found.centres, wanted, atol=2e-6)
    assert found.points == (600 if points_per_centre else 900)
    in_memory = kmeans.fit(points, **OPTIONS | changes)
    assert kmeans.assign(points, found).tolist() == kmeans.assign(points, in_memory).tolist()
    assert found.iterations == in_memory.iterations


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_empty_clusters_are_filled_as_faiss_fills_them(spherical, seed):
    # Of equal points one centre gets all: the others are empty.
    points = random_points(9)[torch.randint(9, (300,), generator=torch.Generator().manual_seed(seed))]
    changes = {"spherical": spherical, "seed": seed, "iterations": 1, "restarts": 1}
    found = streamed(points, **changes)
    np.testing.assert_allclose(found.centres, by_faiss(points, **changes), atol=2e-6)
    assert len(np.unique(found.centres, axis=0)) == 15


def test_scaled_points_are_clustered_as_scaled():
    points = random_points() * torch.arange(1, 13) + 5
    scaling_by_hand = (points - points.mean(dim=0)) / points.std(dim=0, correction=0)
    stored = StoredRows(points.split(70), normalise=False)
    found = kmeans_streamed.fit(ScaledRows(stored, standardising(points.split(90))), **OPTIONS, at_once=128)
    np.testing.assert_allclose(found.centres, by_faiss(scaling_by_hand), atol=1e-5)


@pytest.mark.parametrize("form", ["in memory", "streamed"])
def test_a_run_that_was_stopped_goes_on_to_the_bit(monkeypatch, form):
    monkeypatch.setattr(kmeans_runs, "SECONDS_BETWEEN_SAVES", 0.0)
    points = random_points()
    told = []

    def fit(kept, name="one"):
        tell = {"kept": kept, "name": name, "progress": lambda done, _: told.append(done)}
        if form == "in memory":
            return kmeans.fit(points, **OPTIONS, **tell)
        return streamed(points, **tell)

    whole = fit(None)
    killed = Kept(dies_after=20)
    with pytest.raises(KeyboardInterrupt):
        fit(killed)
    # Runs side by side may go on for a moment.
    stopped = int(killed.state["taken"].sum())
    assert 20 <= stopped < whole.iterations
    told.clear()
    again = fit(killed)
    assert told[0] == stopped
    np.testing.assert_array_equal(again.centres, whole.centres)
    assert again.iterations == whole.iterations
    told.clear()
    fit(killed, name="another")
    assert told[0] == 0


def test_slabs_fit_the_memory():
    rows = rows_of(random_points(2000, 64))
    at_once = kmeans_streamed.slab_rows(rows, clusters=10, restarts=2, budget=kmeans.BESIDE + 10**6)
    assert at_once == 768
    assert kmeans_streamed.slab_rows(rows, clusters=10, restarts=2, budget=10**9) == 16384
    with pytest.raises(UsageError, match=r"90 MB .* 10 clusters, 2 restarts and 64 dimensions: give 101 MB"):
        kmeans_streamed.slab_rows(rows, clusters=10, restarts=2, budget=90_000_000)
    with pytest.raises(UsageError, match="15 clusters need as many rows or more, the bank has 9"):
        streamed(random_points(9))
