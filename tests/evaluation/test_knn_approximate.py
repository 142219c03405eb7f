import numpy as np
import pytest
import torch

from carp_eval.cards import loading
from carp_eval.data.digits import open_split
from carp_eval.errors import BankError, UsageError
from carp_eval.evaluation import knn
from carp_eval.features.indexes import index as indexing
from tests.features.indexes.scene import make_bank


def pixels(split):
    """The digits at a quarter of their pixels, each the mean of four."""
    images = open_split(split)
    pixels = np.stack([np.asarray(images.image(number), dtype=np.float32) for number in range(len(images))])
    side = pixels.shape[1] // 2
    small = pixels.reshape(-1, side, 2, side, 2).mean(axis=(2, 4)).reshape(len(pixels), -1)
    return torch.from_numpy(small) / 255, torch.as_tensor(images.labels)


@pytest.fixture(scope="module")
def banks(tmp_path_factory):
    home = tmp_path_factory.mktemp("banks")
    return [
        make_bank(home / split, *pixels(split), shard_rows=500, manifest=split) for split in ("train", "test")
    ]


def card(**changes):
    return loading.protocol_card("knn", "dino", {"k": [10, 20], **changes})


def test_without_an_index_it_is_told_how_to_make_one(banks):
    with pytest.raises(BankError, match="carp bank index"):
        knn.run(card(search="approximate"), *banks, seed=0)


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "ivf-pq"])
def test_accuracy_stays_within_a_fifth_of_a_point_of_exact(banks, kind):
    bank, queries = banks
    # One of 1,800 images is 0.06 points, and raw pixels leave many votes close: four change at 0.99, with ivf.
    index = indexing.build(bank, kind=kind, recall=0.999, k=20, queries=queries)
    assert index.record.recall.of == "rows of clusters (train)"
    assert index.record.candidates * 20 < len(bank) / 4, "it looks at nearly all: the test shows nothing"
    exact = knn.run(card(), bank, queries, seed=0)
    near = knn.run(card(search="approximate"), bank, queries, seed=0)
    assert not any("index" in note for note in exact.notes)
    (note,) = (note for note in near.notes if "approximate index" in note)
    assert f"({kind}, recall@20 {index.record.recall.value:.4f}" in note
    assert "of 1" in note
    assert 80 < exact.scores[0].value < 100
    for ours, true in zip(near.scores, exact.scores, strict=True):
        assert ours.settings == true.settings
        assert abs(ours.value - true.value) <= 0.2


def test_a_bank_asked_for_itself_votes_for_no_image_of_its_own(banks):
    bank = banks[0]
    indexing.build(bank, kind="ivf", recall=0.99, k=10)
    exact = knn.run(card(k=[1]), bank, bank, seed=0)
    near = knn.run(card(k=[1], search="approximate"), bank, bank, seed=0)
    assert exact.scores[0].value < 100
    assert abs(near.scores[0].value - exact.scores[0].value) <= 0.2


def test_an_index_is_not_for_features_of_any_length(banks):
    with pytest.raises(UsageError, match="normalise"):
        knn.run(card(search="approximate", normalise=False), *banks, seed=0)
