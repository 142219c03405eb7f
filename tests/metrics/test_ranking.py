import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from carp_eval.errors import UsageError
from carp_eval.metrics import ranking
from carp_eval.metrics.ranking import ranked

# Few different scores, so that many tie.
ITEMS = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12).filter(
    lambda items: any(right for _, right in items)
)


def query(items, **options):
    scores, relevant = zip(*items, strict=True)
    return ranked(np.array(scores, dtype=np.float64), np.array(relevant, dtype=bool), **options)


def curve(items):
    """Precision and recall at each threshold, from the highest score down, by counting."""
    positives = sum(right for _, right in items)
    points = []
    for threshold in sorted({score for score, _ in items}, reverse=True):
        taken = [right for score, right in items if score >= threshold]
        points.append((sum(taken) / len(taken), sum(taken) / positives))
    return points


def area(points):
    total, before = 0.0, 0.0
    for precision, recall in points:
        total += precision * (recall - before)
        before = recall
    return total


def test_average_precision_by_hand():
    # Right at places 1, 3 and 6: (1/1 + 2/3 + 3/6) / 3.
    items = [(6, True), (5, False), (4, True), (3, False), (2, False), (1, True)]
    assert ranking.average_precision(query(items)) == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    # Right at 2, 3 and 6: precisions 1/2, 2/3, 1/2; at the first recall, 2/3 is the best there is from there on.
    items = [(6, False), (5, True), (4, True), (3, False), (2, False), (1, True)]
    assert ranking.average_precision(query(items)) == pytest.approx((1 / 2 + 2 / 3 + 1 / 2) / 3)
    assert ranking.all_points_average_precision(query(items)) == pytest.approx((2 / 3 + 2 / 3 + 1 / 2) / 3)


@given(ITEMS)
def test_average_precision_is_the_area_under_the_curve(items):
    points = curve(items)
    found = ranking.average_precision(query(items))
    assert found == pytest.approx(area(points))
    scores, relevant = zip(*items, strict=True)
    assert found == pytest.approx(average_precision_score(relevant, scores))
    best = [
        (max(precision for precision, reached in points if reached >= recall), recall) for _, recall in points
    ]
    assert ranking.all_points_average_precision(query(items)) == pytest.approx(area(best))


@given(ITEMS)
def test_what_looks_at_the_first_is_the_mean_over_the_orders_of_equals(items):
    items = items[:6]
    if not any(right for _, right in items):
        items[0] = (items[0][0], True)
    orders = [
        [right for _, right in order]
        for order in itertools.permutations(items)
        if all(a[0] >= b[0] for a, b in itertools.pairwise(order))
    ]
    count = sum(right for _, right in items)
    assert ranking.r_precision(query(items)) == pytest.approx(
        np.mean([sum(order[:count]) / count for order in orders])
    )
    for k in range(1, len(items) + 1):
        wanted = np.mean([any(order[:k]) for order in orders])
        assert ranking.recall_at(query(items), k) == pytest.approx(wanted)


def test_a_ranking_without_ties_by_hand():
    items = [(5, False), (4, True), (3, False), (2, True), (1, True)]
    assert ranking.r_precision(query(items)) == pytest.approx(1 / 3)
    assert [ranking.recall_at(query(items), k) for k in (1, 2, 5)] == [0, 1, 1]


def test_scores_within_the_tolerance_are_equal():
    items = [(1.0, False), (1.0 - 1e-14, True), (0.5, False)]
    assert ranking.average_precision(query(items)) == 0.5
    swapped = [(1.0 - 1e-14, False), (1.0, True), (0.5, False)]
    assert ranking.average_precision(query(swapped)) == 1
    for near in (items, swapped):
        tied = query(near, tolerance=1e-12)
        assert ranking.average_precision(tied) == ranking.all_points_average_precision(tied) == 0.5
        assert ranking.r_precision(tied) == ranking.recall_at(tied, 1) == 0.5


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(UsageError, match="none of 2 items"):
        query([(1, False), (2, False)])
    with pytest.raises(UsageError, match="NaN"):
        query([(1, True), (np.nan, False)])
    for k in (0, 2):
        with pytest.raises(UsageError, match=f"k is {k}, but 1 items"):
            ranking.recall_at(query([(1, True)]), k)


def test_trapezoids_by_hand():
    def average(*places, positives):
        return ranking.trapezoid_average_precision(np.array(places, dtype=np.int64), positives=positives)

    assert average(0, 1, positives=2) == 1
    # One at the second place: precision 0 before it, 1/2 with it.
    assert average(1, positives=1) == 0.25
    # First and fourth: 1 and 1 around the first, 1/3 and 2/4 around the other.
    assert average(0, 3, positives=2) == pytest.approx(((1 + 1) / 2 + (1 / 3 + 2 / 4) / 2) / 2)
    # One of two is not ranked at all.
    assert average(0, positives=2) == 0.5
    assert average(positives=2) == 0
    with pytest.raises(UsageError, match="2 positives were found of 1"):
        average(0, 1, positives=1)
    with pytest.raises(UsageError, match="0 positives were found of 0"):
        average(positives=0)


def test_precision_stops_at_the_last_positive():
    places = np.array([0, 2])
    # 1 of 1; at 5 and 10 only three are looked at, of which two are right.
    assert [ranking.revisited_precision(places, k) for k in (1, 2, 5, 10)] == [1, 0.5, 2 / 3, 2 / 3]
    assert ranking.revisited_precision(np.array([6]), 5) == 0
    assert ranking.revisited_precision(np.array([6]), 10) == pytest.approx(1 / 7)
    assert ranking.revisited_precision(np.array([], dtype=np.int64), 5) == 0


def numbers(*values):
    return np.array(values, dtype=np.int64)


def test_junk_leaves_the_ranking_and_queries_without_positives_the_mean():
    order = numbers(7, 3, 5, 0, 1, 2, 4, 6)
    # Without the junk 7 and 0 the ranking is 3 5 1 2 4 6: positives 5 and 2 stand at 1 and 3 (from 0).
    found = ranking.revisited(
        np.stack([order, order]), [numbers(2, 5), numbers()], [numbers(0, 7), numbers(3)], k=(1, 3, 10)
    )
    wanted = ((0 / 1 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2
    assert found.average_precision[0] == pytest.approx(wanted)
    assert found.precision[0].tolist() == pytest.approx([0, 1 / 3, 2 / 4])
    assert np.isnan(found.average_precision[1])
    assert np.isnan(found.precision[1]).all()
    average, precision = found.mean()
    assert average == pytest.approx(wanted)
    assert precision == pytest.approx([0, 1 / 3, 2 / 4])


def by_loops(order, right, junk, numbers):
    """Walk down the ranking, in plain arithmetic."""
    seen, found, area, places = 0, 0, 0.0, []
    for image in order:
        if image in junk:
            continue
        before = found / seen if seen else 1.0
        seen += 1
        if image in right:
            found += 1
            places.append(seen)
            area += (before + found / seen) / 2
    last = max(places)
    return area / len(right), [
        sum(place <= min(last, number) for place in places) / min(last, number) for number in numbers
    ]


@given(
    st.permutations(range(12)),
    st.lists(st.sampled_from(["easy", "hard", "junk", "other"]), min_size=12, max_size=12),
)
def test_every_difficulty_is_a_walk_down_the_ranking(order, kinds):
    lists = {kind: numbers(*(i for i in range(12) if kinds[i] == kind)) for kind in ("easy", "hard", "junk")}
    rules = {
        "easy": ({"easy"}, {"junk", "hard"}),
        "medium": ({"easy", "hard"}, {"junk"}),
        "hard": ({"hard"}, {"junk", "easy"}),
    }
    for difficulty, (right, ignored) in rules.items():
        positives, junk = ranking.by_difficulty(difficulty, **lists)
        found = ranking.revisited(np.array([order]), [positives], [junk])
        right = {i for i in range(12) if kinds[i] in right}
        if not right:
            assert np.isnan(found.average_precision).all()
            with pytest.raises(UsageError, match="none of 1 queries"):
                found.mean()
            continue
        average, precision = by_loops(order, right, {i for i in range(12) if kinds[i] in ignored}, (1, 5, 10))
        assert found.average_precision[0] == pytest.approx(average)
        assert found.precision[0].tolist() == pytest.approx(precision)


def test_lists_that_contradict_each_other_are_refused():
    order = numbers(0, 1, 2)[None]
    with pytest.raises(UsageError, match=r"query 0 .* positive and junk at once: \[1\]"):
        ranking.revisited(order, [numbers(1, 2)], [numbers(0, 1)])
    with pytest.raises(UsageError, match="1 rankings need as many lists"):
        ranking.revisited(order, [numbers(1), numbers(2)], [numbers()])
