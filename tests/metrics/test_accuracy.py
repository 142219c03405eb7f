import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carp_eval.errors import UsageError
from carp_eval.metrics import accuracy


def test_classes_are_ranked_by_score_and_equals_by_number():
    scores = torch.tensor([[0.2, 0.4, 0.0, 0.4, 0.0], [-3.0, -1.0, -7.0, -2.0, -1.0]])
    ranking = accuracy.rank_classes(scores, places=5)
    assert ranking.tolist() == [[1, 3, 0, 2, 4], [1, 4, 3, 0, 2]]
    assert accuracy.rank_classes(scores, places=2).tolist() == [[1, 3], [1, 4]]
    assert scores[0].tolist() == torch.tensor([0.2, 0.4, 0.0, 0.4, 0.0]).tolist()


def test_hits_by_hand():
    ranking = np.array([[2, 0, 1], [1, 2, 0], [0, 1, 2], [1, 0, 2]])
    labels = np.array([2, 0, 1, 2])
    assert accuracy.hits(ranking, labels, among=1).tolist() == [True, False, False, False]
    assert accuracy.hits(ranking, labels, among=2).tolist() == [True, False, True, False]
    assert accuracy.hits(ranking, labels, among=5).all()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_confusion_and_class_means_are_those_of_counting(pairs):
    labels, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    table = accuracy.confusion(predicted, labels, num_classes=4)
    assert table.tolist() == [[pairs.count((a, b)) for b in range(4)] for a in range(4)]
    shares = []
    for label in range(4):
        own = [b == label for a, b in pairs if a == label]
        shares.append(sum(own) / len(own) if own else math.nan)
    assert accuracy.per_class(predicted, labels, num_classes=4) == pytest.approx(shares, nan_ok=True)
    there = [share for share in shares if not math.isnan(share)]
    assert accuracy.mean_per_class(predicted, labels, num_classes=4) == pytest.approx(sum(there) / len(there))


def test_images_without_a_label_cannot_be_scored():
    ranking, labels = np.array([[0, 1], [1, 0]]), np.array([0, -1])
    with pytest.raises(UsageError, match="1 of 2 images have no label"):
        accuracy.hits(ranking, labels, among=1)
    with pytest.raises(UsageError, match="1 of 2 images have no label"):
        accuracy.confusion(ranking[:, 0], labels, num_classes=2)
    with pytest.raises(UsageError, match="no image"):
        accuracy.hits(ranking[:0], labels[:0], among=1)
