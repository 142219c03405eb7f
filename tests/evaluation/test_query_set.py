"""Queries of another data set: some of the bank's classes, in another order, or several classes for one image."""

import hashlib

import numpy as np
import pytest
import torch

from carp_eval.cards import loading
from carp_eval.errors import DataError, UsageError
from carp_eval.evaluation import knn, leaks, linear, query_set
from carp_eval.evaluation.answers import Answers, rank_among
from carp_eval.evaluation.job import Settings
from carp_eval.evaluation.query_set import of_classes
from carp_eval.evaluation.running import evaluate
from carp_eval.features.bank_view import BankView
from carp_eval.features.extraction.running import extract
from tests.features.scene import PREPROCESSING, Noise, model

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")


class Kinds(Noise):
    """Noise in named classes, several for an image where `right` says so."""

    def __init__(self, count, names, *, seed, right=None, split="train", distinct=False):
        super().__init__(count, seed=seed)
        self.split, self.class_names = split, names
        self.labels = np.random.default_rng(seed).integers(0, len(names), count)
        if distinct:
            # So that features tell of the class.
            self.content = (self.content // 8 + self.labels[:, None, None] * 30).astype(np.uint8)
        if right is not None:
            self.targets = np.where(right, 1, -1).astype(np.int8)
            self.labels[:] = -1

    def hash_manifest(self):
        names = "/".join(self.class_names)
        return hashlib.sha256(self.content.tobytes() + self.labels.tobytes() + names.encode()).hexdigest()


def banked(home, images):
    return extract(
        model(), images, PREPROCESSING, bank_home=home, num_workers=0, device="cpu", dtype="float32"
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("banks")


@pytest.fixture(scope="module")
def bank(home):
    return banked(home, Kinds(150, NAMES, seed=1))


def view_of(home, bank, images):
    return of_classes(banked(home, images), images, bank)


def test_classes_are_found_by_name_whatever_their_order(home, bank):
    images = Kinds(40, ("eel", "bee", "ant"), seed=2)
    found = view_of(home, bank, images)
    assert [NAMES[label] for label in found.bank.labels] == [
        images.class_names[label] for label in images.labels
    ]
    assert found.bank.candidates.tolist() == [0, 1, 4]
    assert found.bank.class_names == NAMES
    everything = Kinds(40, tuple(reversed(NAMES)), seed=3)
    found = view_of(home, bank, everything)
    assert found.bank.candidates is None
    assert [NAMES[label] for label in found.bank.labels] == [
        everything.class_names[label] for label in everything.labels
    ]


def test_queries_of_the_banks_classes_are_left_as_they_are(home, bank):
    images = Kinds(20, NAMES, seed=4)
    queries = banked(home, images)
    assert of_classes(queries, images, bank).bank is queries


def test_a_class_that_the_bank_has_not_is_refused(home, bank):
    with pytest.raises(UsageError, match=r"1 of 2 classes that noise .* has not: yak"):
        view_of(home, bank, Kinds(9, ("ant", "yak"), seed=5))


def test_classes_of_one_name_cannot_be_found_by_name(home):
    twins = banked(home, Kinds(30, ("crane", "crane", "ant"), seed=6))
    with pytest.raises(DataError, match="classes of one name"):
        view_of(home, twins, Kinds(9, ("ant",), seed=7))


def plain_votes(bank, queries, k, temperature):
    """Votes of every class by loops, in float64."""
    rows, asked = (b.features().double().numpy() for b in (bank, queries))
    rows, asked = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (rows, asked))
    votes = np.zeros((len(asked), len(bank.class_names)))
    for query in range(len(asked)):
        near = sorted(range(len(rows)), key=lambda row: (-(rows[row] @ asked[query]), row))[:k]
        for row in near:
            votes[query, bank.labels[row]] += np.exp((rows[row] @ asked[query] - 1) / temperature)
    return votes


def test_neighbours_of_other_classes_have_no_vote(home, bank):
    found = view_of(home, bank, Kinds(60, ("eel", "bee", "ant"), seed=2)).bank
    outcome = knn.run(loading.protocol_card("knn", "dino", {"k": [1, 9]}), bank, found, 0)
    scores = {(score.metric, score.settings["k"]): score.value for score in outcome.scores}
    for k in (1, 9):
        votes = plain_votes(bank, found, k, 0.07)
        allowed = [0, 1, 4]
        predicted = [max(allowed, key=lambda label: (row[label], -label)) for row in votes]
        assert outcome.predictions[f"predicted_k{k}"].tolist() == predicted
        right = np.array(predicted) == found.labels.numpy()
        assert scores["top1", k] == pytest.approx(right.mean() * 100)
        means = [right[found.labels.numpy() == label].mean() for label in allowed]
        assert scores["mean_per_class", k] == pytest.approx(np.mean(means) * 100)
    free = knn.run(
        loading.protocol_card("knn", "dino", {"k": [9]}),
        bank,
        BankView(found.bank, labels=found.labels, class_names=NAMES),
        0,
    )
    assert set(free.predictions["predicted_k9"].tolist()) - {0, 1, 4}
    silent = sum(not row[[0, 1, 4]].any() for row in plain_votes(bank, found, 1, 0.07))
    assert silent
    assert any("only the queries' 3 of the bank's 7 classes" in note for note in outcome.notes)
    assert any(f"given the first of them: {silent} at k = 1" in note for note in outcome.notes)


def test_any_of_several_right_classes_is_right_and_none_is_left_out(home, bank):
    right = np.random.default_rng(8).random((50, 7)) < 0.25
    right[3] = False
    images = Kinds(50, NAMES, seed=8, right=right)
    found = view_of(home, bank, images)
    kept = right.any(axis=1)
    assert found.counts == {"without_class": 50 - kept.sum()}
    assert not kept[3]
    assert found.bank.index.tolist() == np.flatnonzero(kept).tolist()
    outcome = knn.run(loading.protocol_card("knn", "dino", {"k": [20]}), bank, found.bank, 0)
    votes = plain_votes(bank, found.bank, 20, 0.07)
    order = [sorted(range(7), key=lambda label: (-row[label], label)) for row in votes]
    first = [right[image][names[0]] for image, names in zip(np.flatnonzero(kept), order)]
    five = [right[image][names[:5]].any() for image, names in zip(np.flatnonzero(kept), order)]
    scores = {score.metric: score for score in outcome.scores}
    assert scores.keys() == {"top1", "top5"}
    assert scores["top1"].value == pytest.approx(np.mean(first) * 100)
    assert scores["top5"].value == pytest.approx(np.mean(five) * 100)
    assert scores["top1"].low < scores["top1"].value < scores["top1"].high
    assert outcome.predictions["right_k20"].tolist() == first
    several = (right.sum(axis=1) > 1).sum()
    assert any(
        f"{several} of {kept.sum()} queries have several right classes" in note for note in outcome.notes
    )


def test_targets_of_a_shuffled_subset_of_classes(home, bank):
    right = np.zeros((4, 2), dtype=bool)
    right[0, 0] = right[1] = right[3, 1] = True
    images = Kinds(4, ("fox", "ant"), seed=9, right=right)
    images.targets[0, 1] = 0  # hard to tell is not right
    found = view_of(home, bank, images).bank
    assert found.index.tolist() == [0, 1, 3]
    assert [[NAMES[n] for n in np.flatnonzero(row)] for row in found.right] == [
        ["fox"],
        ["ant", "fox"],
        ["ant"],
    ]
    assert found.candidates.tolist() == [0, 5]


def test_no_image_with_a_class_is_refused(home, bank):
    images = Kinds(3, NAMES, seed=10, right=np.zeros((3, 7), dtype=bool))
    with pytest.raises(UsageError, match=r"no image of noise .* has a class"):
        view_of(home, bank, images)


@pytest.mark.parametrize(
    "card",
    [
        loading.protocol_card(
            "linear", "cached-grid", {"epochs": 5, "batch_size": 32, "learning_rates": [0.1]}
        ),
        loading.protocol_card("linear", "logreg", {"number": 3}),
    ],
    ids=["cached-grid", "logreg"],
)
def test_a_probe_names_the_queries_classes_alone(home, bank, card):
    full = view_of(home, bank, Kinds(60, tuple(reversed(NAMES)), seed=2)).bank
    few = BankView(full, candidates=torch.tensor([0, 1, 4]))
    free, bound = (linear.run(card, bank, queries, 0) for queries in (full, few))
    assert set(free.predictions["predicted"].tolist()) - {0, 1, 4}
    assert set(bound.predictions["predicted"].tolist()) <= {0, 1, 4}
    # Where the free probe's choice is allowed, binding it changes nothing.
    allowed = np.isin(free.predictions["predicted"], [0, 1, 4])
    assert np.array_equal(free.predictions["predicted"][allowed], bound.predictions["predicted"][allowed])
    assert any("only the queries' 3 of the bank's 7 classes" in note for note in bound.notes)


def test_ranking_among_some_classes_by_hand():
    scores = torch.tensor([[5.0, 1.0, 4.0, 4.0], [0.0, -1.0, -3.0, -2.0]])
    assert rank_among(scores, torch.tensor([1, 2, 3]), places=2).tolist() == [[2, 3], [1, 3]]
    assert rank_among(scores, None, places=9).tolist() == [[0, 2, 3, 1], [0, 1, 3, 2]]


def test_queries_without_a_label_are_refused(bank):
    with pytest.raises(UsageError, match="1 of 150 images have no label"):
        Answers.to(BankView(bank, labels=torch.where(torch.arange(150) == 3, -1, bank.labels)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data set of four classes, and one of two of them whose first image is an image of the first's train."""
    root = tmp_path_factory.mktemp("folders")
    sets = {
        "whole/train": Kinds(60, NAMES[:4], seed=11, distinct=True),
        "whole/test": Kinds(20, NAMES[:4], seed=12, distinct=True),
        "few/test": Kinds(20, ("dog", "bee"), seed=13),
    }
    for place, images in sets.items():
        for number in range(len(images)):
            folder = root / place / images.class_names[images.labels[number]]
            folder.mkdir(parents=True, exist_ok=True)
            images.image(number).save(folder / f"{number:02d}.png")
    leaked = sorted((root / "whole/train/dog").iterdir())[0]
    (root / "few/test/dog/copy.png").write_bytes(leaked.read_bytes())
    return root


def scored(folders, tmp_path, **options):
    card = loading.protocol_card("knn", "dino", {"k": [5]})
    settings = Settings(bank_home=tmp_path / "banks", num_workers=0, device="cpu")
    return evaluate(
        model(),
        card,
        dataset=f"folder:{folders}/whole",
        settings=settings,
        output=tmp_path / "out",
        **options,
    )


def test_an_evaluation_scores_another_data_set_and_counts_leaks(folders, tmp_path):
    import pyarrow.parquet as pq

    record, path = scored(folders, tmp_path, queries=f"folder:{folders}/few")
    assert record.query_dataset == f"folder:{folders}/few"
    assert record.dataset == f"folder:{folders}/whole"
    assert record.counts == {"bank": 60, "classes": 4, "queries": 21, "leaks": 1}
    assert "few" in path.name
    assert any("1 of 21 queries (4.76%)" in note and "dog/copy.png" in note for note in record.notes)
    predictions = pq.read_table(path.with_suffix(".parquet")).to_pydict()
    # By the bank's numbers: ant, bee, cat, dog.
    assert {key.split("/")[0]: label for key, label in zip(predictions["key"], predictions["label"])} == {
        "bee": 1,
        "dog": 3,
    }
    assert set(predictions["predicted_k5"]) <= {1, 3}
    dropped, path = scored(folders, tmp_path, queries=f"folder:{folders}/few", leaks="drop")
    assert dropped.counts["queries"] == 20
    assert dropped.dropped_leaks
    keys = pq.read_table(path.with_suffix(".parquet")).to_pydict()["key"]
    assert len(keys) == 20
    assert "dog/copy.png" not in keys
    ignored, _ = scored(folders, tmp_path, queries=f"folder:{folders}/few", leaks="ignore")
    assert "leaks" not in ignored.counts
    own, _ = scored(folders, tmp_path)
    assert (own.counts["leaks"], own.counts["queries"], own.query_dataset) == (0, 20, own.dataset)
    assert not any("near-duplicates" in note for note in own.notes)


def test_nothing_left_to_score_is_said(home, bank):
    images = Kinds(3, NAMES, seed=14)
    found = query_set.QuerySet(banked(home, images), (), {})
    pairs = [leaks.Leak(number, 0, False) for number in range(3)]
    with pytest.raises(UsageError, match=r"3 of 3 queries .*nothing is left to score"):
        query_set.without_leaks(found, pairs, images, images)


def test_the_same_images_are_not_called_leaks(folders, tmp_path):
    card = loading.protocol_card("knn", "dino", {"k": [5], "query_split": "train"})
    settings = Settings(bank_home=tmp_path / "banks", num_workers=0, device="cpu")
    record, _ = evaluate(model(), card, dataset=f"folder:{folders}/whole", settings=settings, output=tmp_path)
    assert "leaks" not in record.counts
    assert any("no image voted for itself" in note for note in record.notes)


def test_a_protocol_of_its_own_data_alone_refuses_queries(folders, tmp_path):
    card = loading.protocol_card("copydays", "copies")
    settings = Settings(bank_home=tmp_path, num_workers=0, device="cpu")
    with pytest.raises(UsageError, match="leave --queries out"):
        evaluate(
            model(),
            card,
            dataset=f"folder:{folders}/whole",
            queries="digits",
            settings=settings,
            output=tmp_path,
        )


def test_clustering_leaves_leaks_out_too(folders, tmp_path):
    import shutil

    copy = shutil.copytree(folders / "whole", tmp_path / "copy")
    shutil.copy(sorted((copy / "train/cat").iterdir())[0], copy / "test/cat/copy.png")
    card = loading.protocol_card("cluster", "carp", {"restarts": 1})
    settings = Settings(bank_home=tmp_path / "banks", num_workers=0, device="cpu")
    for choice, scored_images in (("count", 21), ("drop", 20)):
        record, _ = evaluate(
            model(), card, dataset=f"folder:{copy}", settings=settings, output=tmp_path / "out", leaks=choice
        )
        assert (record.counts["leaks"], record.counts["queries"]) == (1, scored_images)
        assert any("cat/copy.png" in note for note in record.notes)
