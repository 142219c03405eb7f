import numpy as np
import pytest
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

from carp_eval.metrics import chance
from carp_eval.metrics.chance import expected_mutual_information as ours


def test_chance_is_the_mean_over_shuffles():
    classes, clusters = np.repeat([0, 1, 2], [4, 3, 2]), np.repeat([0, 1], [5, 4])
    random = np.random.default_rng(0)
    found = []
    for _ in range(20_000):
        table = np.bincount(classes * 2 + random.permutation(clusters), minlength=6).reshape(3, 2) / 9
        even = table.sum(axis=1, keepdims=True) * table.sum(axis=0)
        found.append(sum(p * np.log(p / q) for p, q in zip(table.ravel(), even.ravel()) if p))
    expected = ours(np.array([[4, 3, 2]]), np.array([[5, 4]]), images=9)
    assert expected[0] == pytest.approx(np.mean(found), abs=4 * np.std(found) / np.sqrt(len(found)))


@pytest.mark.parametrize(
    ("tables", "classes", "clusters", "images"), [(5, 3, 4, 60), (40, 20, 30, 300), (2, 2, 3, 30_000)]
)
def test_chance_is_scikit_learns(tables, classes, clusters, images, monkeypatch):
    monkeypatch.setattr(chance, "CHUNK_TERMS", 1000)
    random = np.random.default_rng(0)
    rows = random.multinomial(images, random.dirichlet(np.ones(classes)), size=tables)
    columns = random.multinomial(images, random.dirichlet(np.ones(clusters)), size=tables)
    columns[0] = 0
    columns[0, 1] = images
    found = ours(rows, columns, images=images)
    for table in range(tables):
        parts = [np.repeat(np.arange(len(sizes)), sizes) for sizes in (rows[table], columns[table])]
        wanted = expected_mutual_information(contingency_matrix(*parts, sparse=True), images)
        assert found[table] == pytest.approx(wanted, rel=1e-8, abs=1e-12)
