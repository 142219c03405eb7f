from carp_eval.cards.recipe import ViewCard
from carp_eval.pretrain import pairs


def test_two_views_are_compared_both_ways():
    assert sorted(pairs.ordered([ViewCard(size=32, count=2)])) == [(0, 1), (1, 0)]


def test_a_query_and_a_key_are_compared_once():
    cards = [ViewCard(size=32, to_teacher=False), ViewCard(size=32)]
    assert pairs.ordered(cards) == [(0, 1)]
    assert pairs.seen_by_teacher(cards) == [1]


def test_small_views_are_compared_with_those_that_the_teacher_sees():
    cards = [ViewCard(size=32, count=2), ViewCard(size=16, count=2, to_teacher=False)]
    assert sorted(pairs.ordered(cards)) == [(0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1)]
