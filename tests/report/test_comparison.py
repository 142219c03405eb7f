import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from carp_eval.errors import DataError, UnknownNameError, UsageError
from carp_eval.report import alike, comparison, comparison_words
from carp_eval.results import Score
from tests.report.records import Page, record, saved

DATA = {"train": "1" * 64, "test": "2" * 64}
LABELS = np.repeat(np.arange(4), 50)
KEYS = [f"image-{number:03d}" for number in range(200)]


def answers(seed, *, right=0.7):
    """Classes named for each image, mostly the right ones."""
    random = np.random.default_rng(seed)
    return np.where(random.random(200) < right, LABELS, (LABELS + 1) % 4)


def knn(folder, predicted, *, keys=KEYS, labels=LABELS, index=None, k=20, **changes):
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    index = np.arange(len(keys)) if index is None else index
    scores = [Score(metric="top1", value=float((predicted == labels).mean() * 100), settings={"k": k})]
    told = {"data": DATA, "card": {"kind": "knn", "k": [k], "temperature": 0.07}} | changes
    columns = {"index": index, "key": list(keys), "label": labels, f"predicted_k{k}": predicted}
    return saved(folder, record(*scores, **told), **columns)


def by_hand(one, other, labels=LABELS):
    """Count, image by image, who is right."""
    counts = {"both": 0, "only_first": 0, "only_second": 0, "neither": 0}
    for first, second, label in zip(one, other, labels, strict=True):
        who = {(True, True): "both", (True, False): "only_first", (False, True): "only_second"}
        counts[who.get((first == label, second == label), "neither")] += 1
    return counts


def test_images_are_paired_by_their_keys_in_whatever_order_they_lie(tmp_path):
    one, other = answers(1), answers(2, right=0.8)
    order = np.random.default_rng(0).permutation(200)
    first = knn(tmp_path / "a", one)
    second = knn(
        tmp_path / "b", other[order], keys=[KEYS[place] for place in order], labels=LABELS[order], index=order
    )
    found = comparison.compare(first, second)
    (score,) = found.scores
    counts = by_hand(one, other)
    assert score.outcomes._asdict() == counts
    test = stats.binomtest(counts["only_second"], counts["only_second"] + counts["only_first"])
    assert score.p_value == pytest.approx(test.pvalue)
    assert score.difference.value == pytest.approx(((other == LABELS).mean() - (one == LABELS).mean()) * 100)
    assert score.difference.low < score.difference.value < score.difference.high
    assert found.common == 200
    expected = [key for key, a, b, c in zip(KEYS, one, other, LABELS, strict=True) if a == c != b]
    assert [each.key for each in found.first_better] == expected
    for each in found.second_better:
        assert each.taken_for == (one[each.index], other[each.index])
        assert each.taken_for[1] == each.label == LABELS[each.index]


def test_classes_are_told_by_how_much_they_gained(tmp_path):
    one, other = LABELS.copy(), LABELS.copy()
    one[:10] = 3  # The first errs on a fifth of class 0, the second on a tenth of class 2.
    other[100:105] = 0
    found = comparison.compare(knn(tmp_path / "a", one), knn(tmp_path / "b", other))
    told = [(each.label, each.images, each.first, each.second) for each in found.classes]
    assert told == [(2, 50, 100, 90), (1, 50, 100, 100), (3, 50, 100, 100), (0, 50, 80, 100)]


def test_a_key_that_is_there_several_times_is_paired_in_the_order_of_the_split(tmp_path):
    keys = ["a", "a", "b", "a"]
    first = knn(tmp_path / "a", [0, 1, 1, 1], keys=keys, labels=[0, 1, 1, 0])
    # The same images, the file's rows backwards: of the images by number, it is right on 1 and 3.
    second = knn(tmp_path / "b", [0, 0, 1, 1], keys=keys[::-1], labels=[0, 1, 1, 0], index=np.arange(4)[::-1])
    found = comparison.compare(first, second)
    assert found.common == 4
    # The first is right on 0, 1 and 2.
    assert found.scores[0].outcomes._asdict() == {"both": 1, "only_first": 2, "only_second": 1, "neither": 0}
    assert [(each.key, each.index) for each in found.first_better] == [("a", 0), ("b", 2)]


def test_skipped_images_are_told_and_left_out_of_both(tmp_path):
    one, other = answers(1), answers(2)
    first = knn(tmp_path / "a", one)
    kept = np.arange(5, 200)
    second = knn(tmp_path / "b", other[kept], keys=KEYS[5:], labels=LABELS[kept], index=kept)
    found = comparison.compare(first, second)
    assert (found.common, found.alone) == (195, (5, 0))
    assert found.scores[0].first == pytest.approx((one[5:] == LABELS[5:]).mean() * 100)
    assert found.scores[0].outcomes._asdict() == by_hand(one[5:], other[5:], LABELS[5:])
    assert "A has 5 images that B lacks" in comparison_words.skipped(found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": DATA | {"test": "9" * 64}},
            r"scored images: cifar10 test, 222222222222 and .*999999999999",
        ),
        ({"data": DATA | {"train": "9" * 64}}, "images of train"),
        ({"variant": "swav"}, "variant: dino and swav"),
        ({"card": {"kind": "knn", "k": [20], "temperature": 0.1}}, "temperature: 0.07 and 0.1"),
        ({"dropped_leaks": True}, "near-duplicates left out: no and yes"),
        ({"protocol": "linear"}, "protocol: knn and linear"),
    ],
)
def test_what_was_judged_otherwise_is_refused_and_what_differs_is_told(tmp_path, changes, message):
    first, second = knn(tmp_path / "a", answers(1)), knn(tmp_path / "b", answers(2), **changes)
    with pytest.raises(UsageError, match=message) as refused:
        comparison.compare(first, second)
    assert "carp eval knn" in str(refused.value)
    assert str(refused.value).count("\n") == 2, "one line of what differs, and one of what to do"


def test_a_copy_of_the_data_and_words_of_the_card_do_not_matter(tmp_path):
    first = knn(tmp_path / "a", answers(1), card={"kind": "knn", "k": [20], "summary": "x"})
    second = knn(
        tmp_path / "b",
        answers(2),
        dataset="cifar10:/a/copy",
        query_dataset="cifar10:/a/copy",
        card={"kind": "knn", "k": [10, 20], "summary": "y"},
    )
    assert comparison.compare(first, second).common == 200


def test_a_score_that_one_alone_has_is_told(tmp_path):
    first, second = knn(tmp_path / "a", answers(1), k=20), knn(tmp_path / "b", answers(2), k=10)
    with pytest.raises(UsageError, match="no score in common"):
        comparison.compare(first, second)


def test_predictions_that_do_not_belong_to_their_record_are_refused(tmp_path):
    first, second = knn(tmp_path / "a", answers(1)), knn(tmp_path / "b", answers(2, right=0.9))
    first.predictions.write_bytes(second.predictions.read_bytes())
    with pytest.raises(DataError, match="do not belong together"):
        comparison.compare(first, second)
    first.predictions.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="cannot be read"):
        comparison.compare(first, second)
    first.predictions.unlink()
    with pytest.raises(DataError, match="not there"):
        comparison.compare(first, second)


def test_labels_that_were_changed_are_refused(tmp_path):
    first = knn(tmp_path / "a", answers(1))
    second = knn(tmp_path / "b", answers(1), labels=(LABELS + 1) % 4)
    with pytest.raises(DataError, match="other classes"):
        comparison.compare(first, second)


def test_the_same_result_twice_and_an_unknown_score_are_refused(tmp_path):
    first, second = knn(tmp_path / "a", answers(1)), knn(tmp_path / "b", answers(2))
    with pytest.raises(UsageError, match="twice"):
        comparison.compare(first, first)
    with pytest.raises(UnknownNameError, match=r"top1 \(k = 20\)"):
        comparison.compare(first, second, score="top1 (k = 2)")


def test_average_precision_is_compared_query_by_query(tmp_path):
    random = np.random.default_rng(0)
    values = random.random((2, 200))
    values[:, 7] = np.nan  # It has nothing to be found.
    sides = []
    for name, of_query in zip("ab", values, strict=True):
        score = Score(metric="map", value=float(np.nanmean(of_query) * 100))
        result = record(score, protocol="retrieval", data=DATA)
        columns = {"index": np.arange(200), "key": KEYS, "label": LABELS, "average_precision": of_query}
        sides.append(saved(tmp_path / name, result, **columns))
    found = comparison.compare(*sides)
    (score,) = found.scores
    assert score.difference.value == pytest.approx(float(np.nanmean(values[1] - values[0]) * 100))
    assert score.outcomes is None
    assert score.p_value is None
    assert len(found.first_better) + len(found.second_better) == 199
    best = np.nanargmax(values[1] - values[0])
    assert found.second_better[0].index == best
    assert found.second_better[0].gain == pytest.approx(values[1, best] - values[0, best])


def test_clusters_are_paired_by_matched_images_alone(tmp_path):
    sides = []
    for name, seed in (("a", 1), ("b", 2)):
        right = answers(seed) == LABELS
        scores = [
            Score(metric="nmi", value=40.0 + seed),
            Score(metric="cluster_accuracy", value=float(right.mean() * 100)),
        ]
        columns = {"index": np.arange(200), "key": KEYS, "label": LABELS, "cluster": LABELS, "matched": right}
        sides.append(saved(tmp_path / name, record(*scores, protocol="cluster", data=DATA), **columns))
    nmi, accuracy = comparison.compare(*sides).scores
    assert nmi.difference is None
    assert nmi.p_value is None
    assert "no image has a share" in nmi.why
    assert nmi.second - nmi.first == 1.0
    assert accuracy.outcomes._asdict() == by_hand(answers(1), answers(2))


def test_multilabel_results_are_compared_by_mean_average_precision(tmp_path):
    random = np.random.default_rng(0)
    targets = np.where(random.random((120, 2)) < 0.4, 1, -1).astype(np.int8)
    sides, means = [], []
    for name, noise in (("a", 2.0), ("b", 0.7)):
        decided = targets + random.normal(0, noise, targets.shape)
        by_class = [average_precision_score(targets[:, n] > 0, decided[:, n]) for n in range(2)]
        means.append(by_class)
        columns = {"index": np.arange(120), "key": KEYS[:120], "label": np.full(120, -1)}
        for number, of_class in enumerate(("cat", "dog")):
            columns[f"target_{of_class}"] = targets[:, number]
            columns[f"decision_{of_class}"] = decided[:, number]
        score = Score(metric="map", value=float(np.mean(by_class) * 100))
        card = {"kind": "voc07", "difficult_in_test": "negative"}
        sides.append(saved(tmp_path / name, record(score, protocol="voc07", card=card, data=DATA), **columns))
    found = comparison.compare(*sides)
    (score,) = found.scores
    # At all points with the precision made to fall, which is no less than scikit-learn's area under the steps.
    assert score.first == pytest.approx(np.mean(means[0]) * 100, abs=4)
    assert score.difference.value == pytest.approx((np.mean(means[1]) - np.mean(means[0])) * 100, abs=5)
    assert 0 < score.difference.low < score.difference.value < score.difference.high
    assert sorted((each.name, each.images) for each in found.classes) == [
        ("cat", int((targets[:, 0] > 0).sum())),
        ("dog", int((targets[:, 1] > 0).sum())),
    ]


def test_answers_of_images_with_several_right_classes_are_right_as_told(tmp_path):
    sides = []
    for name, right in (("a", [True, False, True]), ("b", [True, True, False])):
        result = record(Score(metric="top1", value=200 / 3, settings={"k": 20}), data=DATA)
        columns = {"index": np.arange(3), "key": KEYS[:3], "label": np.array([0, 0, 0])}
        columns |= {"predicted_k20": np.array([1, 1, 1]), "right_k20": np.array(right)}
        sides.append(saved(tmp_path / name, result, **columns))
    outcomes = comparison.compare(*sides).scores[0].outcomes
    assert outcomes._asdict() == {"both": 1, "only_first": 1, "only_second": 1, "neither": 0}


def test_numbers_without_single_images_are_compared_as_numbers(tmp_path):
    sides = [
        saved(tmp_path / name, record(Score(metric="rankme", value=value), protocol="labelfree", data=DATA))
        for name, value in (("a", 10.0), ("b", 30.0))
    ]
    found = comparison.compare(*sides)
    assert (found.scores[0].first, found.scores[0].second, found.looked_at) == (10.0, 30.0, "")
    assert found.scores[0].why


def test_the_newest_results_that_fit_are_matched_and_the_rest_told(tmp_path):
    def at(folder, minute, **changes):
        return knn(
            tmp_path / folder, answers(minute), finished=f"2026-11-21T10:{minute:02d}:00+00:00", **changes
        )

    first = [at("a", 3), at("a", 2), at("a", 1, variant="swav"), at("a", 0, protocol="linear")]
    second = [at("b", 5, variant="swav", data=DATA | {"test": "9" * 64}), at("b", 4), at("b", 1)]
    matched, alone = alike.pairs(first, second)
    assert [(one.path, other.path) for one, other in matched] == [(first[0].path, second[1].path)]
    assert len(alone) == 2
    assert "scored images" in alone[0]
    assert "alone was judged by linear" in alone[1]


def test_the_command_that_judges_alike_is_that_of_the_first(tmp_path):
    told = "/usr/bin/carp eval knn --k 20 -m runs/a --set x"
    first = knn(tmp_path / "a", answers(1), command=told)
    assert alike.command_for(first, "runs/b") == "carp eval knn --k 20 --set x -m runs/b"
    by_python = knn(tmp_path / "c", answers(1), command="train.py 'unfinished")
    assert alike.command_for(by_python, "m") == "carp eval knn --variant dino -d cifar10 -m m"


def test_the_page_escapes_names_and_shows_what_the_table_shows(tmp_path):
    from carp_eval.report import comparison_page

    hostile = "<script>alert(1)</script>\x1b[31m\u202e"
    keys = [f"{hostile}{number}" for number in range(200)]
    first = knn(tmp_path / "a", answers(1), keys=keys, model=hostile)
    second = knn(tmp_path / "b", answers(2), keys=keys)
    found = comparison.compare(first, second)
    path = tmp_path / "page.html"
    comparison_page.write([found], [f"why {hostile}"], path, data_root=tmp_path)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.all("script")) == 1
    assert "alert(1)</script>" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert not [e for e in page.elements if {"src", "href"} & e["attributes"].keys()], "nothing is fetched"
    (row,) = page.rows("Scores in percent")
    assert row == [found.scores[0].name, *comparison_words.cells(found.scores[0])]
    assert len(page.rows("All classes")) == 4
    assert len(page.all("figure")) == min(48, len(found.first_better)) + min(48, len(found.second_better))


def test_predictions_are_read_whatever_type_their_keys_have(tmp_path):
    first, second = knn(tmp_path / "a", answers(1)), knn(tmp_path / "b", answers(2))
    table = pq.read_table(second.predictions)
    place = table.column_names.index("key")
    narrow = table.set_column(place, "key", table.column("key").cast(pa.large_string()))
    pq.write_table(narrow, second.predictions)
    assert comparison.compare(first, second).common == 200
