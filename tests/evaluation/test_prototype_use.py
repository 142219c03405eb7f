import math

import numpy as np
import pytest

from carp_eval.evaluation import prototype_use

# Prototype 0: five images, three of class 1, one of class 0, one without; 2: two of class 0; 3: one without.
ASSIGNED = np.array([0, 0, 0, 0, 0, 2, 2, 3])
LABELS = np.array([1, 1, 0, 1, -1, 0, 0, -1])
SURE = np.array([0.5, 0.9, 0.1, 0.7, 0.8, 0.2, 0.4, 0.6], dtype=np.float32)


def test_what_is_summed_up_can_be_counted_by_hand():
    use = prototype_use.use(ASSIGNED, SURE, LABELS, count=6)
    assert (use.prototypes, use.images, use.used, use.empty, use.largest) == (6, 8, 3, 3, 5)
    entropy = -(5 / 8 * math.log(5 / 8) + 2 / 8 * math.log(2 / 8) + 1 / 8 * math.log(1 / 8))
    assert use.entropy == pytest.approx(entropy)
    assert use.perplexity == pytest.approx(math.exp(entropy))
    assert use.confidence == pytest.approx(4.2 / 8)
    assert use.labelled == 6
    assert use.purity == pytest.approx(5 / 6)


def test_prototypes_used_alike_have_the_perplexity_of_their_number_and_one_has_that_of_one():
    none = np.full(12, -1)
    sure = np.ones(12, dtype=np.float32)
    assert prototype_use.use(np.arange(12) % 4, sure, none, count=4).perplexity == pytest.approx(4)
    alone = prototype_use.use(np.zeros(12, np.int64), sure, none, count=4)
    assert (alone.entropy, alone.perplexity) == (0, 1)
    assert alone.purity is None
    assert alone.purity_by_chance is None


def test_purity_by_chance_is_high_where_prototypes_are_small():
    labels = np.arange(1000) % 10
    sure = np.ones(1000, dtype=np.float32)
    few = prototype_use.use(np.arange(1000) // 500, sure, labels, count=2)
    many = prototype_use.use(np.arange(1000) // 2, sure, labels, count=500)
    assert few.purity_by_chance < 0.2
    assert many.purity_by_chance > 0.5
    assert many.purity == 0.5


def test_each_prototype_is_described_and_an_empty_one_has_no_numbers():
    columns = prototype_use.each(ASSIGNED, SURE, LABELS, count=5)
    assert columns["prototype"].tolist() == [0, 1, 2, 3, 4]
    assert columns["images"].tolist() == [5, 0, 2, 1, 0]
    assert columns["share"].tolist() == [5 / 8, 0, 2 / 8, 1 / 8, 0]
    assert columns["confidence"][[0, 2, 3]] == pytest.approx([0.6, 0.3, 0.6])
    assert columns["purity"][[0, 2]].tolist() == [3 / 4, 1]
    assert np.isnan(columns["confidence"][[1, 4]]).all()
    assert np.isnan(columns["purity"][[1, 3, 4]]).all()
    assert columns["label"].tolist() == [1, -1, 0, -1, -1]


def test_the_most_used_and_the_surest_come_first():
    assert prototype_use.most_used(np.array([2, 0, 7, 2, 0]), 4) == [2, 0, 3]
    assert prototype_use.surest(ASSIGNED == 0, SURE, 3) == [1, 4, 3]
    assert prototype_use.surest(ASSIGNED == 3, SURE, 3) == [7]


def test_bins_double():
    sizes = np.array([0, 0, 1, 2, 3, 4, 7, 8])
    assert prototype_use.sizes_in_bins(sizes) == {"0": 2, "1": 1, "2-3": 2, "4-7": 2, "8-15": 1}
