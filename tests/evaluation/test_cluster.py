import hashlib

import numpy as np
import pytest
import torch
from sklearn import metrics

from carp_eval.cards import loading
from carp_eval.cards.cluster import LloydCard, MiniBatchCard
from carp_eval.checkpoints.opening import open_model
from carp_eval.data import subsets
from carp_eval.data.subsets import KnownList
from carp_eval.errors import CardError, DataError, UsageError
from carp_eval.evaluation import cluster, kmeans, kmeans_runs, kmeans_streamed
from carp_eval.evaluation.job import Job, Settings
from carp_eval.features import stored
from tests.features import scene
from tests.features.scene import Noise, take
from tests.features.written_bank import written
from tests.private_memory import on_linux, watched

SCORES = {"nmi", "ami", "ari", "fms", "homogeneity", "completeness", "v", "cluster_accuracy"}
QUICK = {"iterations": 5, "restarts": 2}


def card(variant, **changes):
    return loading.protocol_card("cluster", variant, changes)


@pytest.fixture(scope="module")
def banks(tmp_path_factory):
    home = tmp_path_factory.mktemp("banks")
    return take(home, images=Noise(60, seed=1)), take(home, images=Noise(30, seed=2))


def job(card, digit_folder, home, **options):
    settings = Settings(num_workers=0, bank_home=home, **options)
    return Job(card, open_model("random:digits"), f"folder:{digit_folder}", settings=settings, seed=4)


def test_banks_are_clustered_by_the_card(banks):
    bank, queries = banks
    told = []
    lloyd = card("carp", points_per_centre=0, **QUICK)
    outcome = cluster.judge(lloyd, bank, queries, seed=0, progress=lambda *done: told.append(done))
    scores = {score.metric: score for score in outcome.scores}
    assert set(scores) == SCORES
    assert all(-60 < score.low <= score.value <= score.high <= 100 for score in scores.values())
    assigned, labels = outcome.predictions["cluster"], queries.labels.numpy()
    assert scores["nmi"].value == pytest.approx(metrics.normalized_mutual_info_score(labels, assigned) * 100)
    assert scores["cluster_accuracy"].value == pytest.approx(outcome.predictions["matched"].mean() * 100)
    assert assigned.shape == (30,)
    assert outcome.counts["clusters"] == 3
    assert outcome.counts["fitted"] == 60
    assert 2 <= outcome.counts["iterations"] <= 10
    assert told[-1] == (10, 10)
    assert any("60 images for 3 clusters are few" in note for note in outcome.notes)
    again = cluster.judge(lloyd, bank, queries, seed=0)
    assert again.scores == outcome.scores


def test_the_card_decides_how_many_points_and_clusters(banks):
    outcome = cluster.judge(card("carp", points_per_centre=5, clusters=2, **QUICK), *banks, seed=0)
    assert outcome.counts["fitted"] == 10
    assert any("10 of 60 images" in note for note in outcome.notes)
    assert set(outcome.predictions["cluster"].tolist()) <= {0, 1}


def test_small_batches_cluster_what_they_score(banks):
    mteb = card("mteb")
    assert isinstance(mteb, MiniBatchCard)
    assert (mteb.batch_size, mteb.restarts, mteb.bank_split, mteb.query_split) == (500, 1, "test", "test")
    outcome = cluster.judge(mteb, banks[0], banks[0], seed=0)
    assert {score.metric for score in outcome.scores} == SCORES
    assert any("those that are scored" in note for note in outcome.notes)


def test_the_gtsrb_mistake_is_a_variant_of_its_own():
    mistaken, right = card("carp-gtsrb100"), card("carp")
    assert mistaken.clusters == 100
    changed = {"variant", "summary", "source", "clusters"}
    assert mistaken.model_dump(exclude=changed) == right.model_dump(exclude=changed)


def test_a_share_of_each_class_is_fitted_and_the_rest_needs_no_features(digit_folder, tmp_path):
    tenth = card("carp-imagenet", fit_share=0.25, **QUICK)
    assert isinstance(tenth, LloydCard)
    run = job(tenth, digit_folder, tmp_path)
    outcome = cluster.run(run)
    whole = run.images("train").labels
    counts = np.bincount(run.banks["train"].labels)
    expected = np.bincount(np.asarray(run.images("train")._whole.labels))
    assert counts.tolist() == np.maximum(np.floor(expected / 4 + 0.5), 1).tolist()
    assert len(whole) == counts.sum() == outcome.counts["fitted"]
    assert (
        f"{counts.sum()} of {expected.sum()} images of train were clustered, 25% of each class, drawn with the seed: "
        f"the field has no list of folder:{digit_folder}" == outcome.notes[0]
    )
    again = job(tenth, digit_folder, tmp_path)
    assert cluster.run(again).scores == outcome.scores
    everything = job(card("carp", **QUICK), digit_folder, tmp_path)
    assert cluster.run(everything).counts["fitted"] == expected.sum()


def test_the_list_that_the_field_uses_is_taken_where_it_has_one(tmp_path, monkeypatch):
    images, scored = Noise(60, seed=1), Noise(30, seed=2)
    named = [3, 7, 12, 13, 20, 31, 44, 58]
    text = "".join(f"n01_{number:03d}.png\n" for number in named)
    keys = [f"n0/n01_{number:03d}.png" for number in range(60)]
    monkeypatch.setattr(images, "key", keys.__getitem__)
    (tmp_path / "imagenet_subsets").mkdir()
    (tmp_path / "imagenet_subsets" / "10percent.txt").write_text(text)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    known = KnownList("10percent.txt", len(named), sha256)
    monkeypatch.setitem(subsets.KNOWN_LISTS, ("imagenet", 0.1), known)

    def found(dataset, **changes):
        settings = Settings(num_workers=0, bank_home=tmp_path, device="cpu", data_root=tmp_path)
        chosen = card("carp-imagenet", **QUICK, **changes)
        work = Job(chosen, scene.model(), dataset, settings=settings, leaks="ignore")
        work.opened |= {"train": images, "test": scored}
        return work, cluster.run(work)

    work, outcome = found("imagenet")
    assert work.banks["train"].index.tolist() == list(range(len(named)))
    assert list(work.banks["train"].keys) == [keys[number] for number in named]
    assert outcome.notes[0] == f"clustered were the 8 images of SimCLR's list, SHA-256 {sha256}"
    _, drawn = found("other")
    assert "10% of each class, drawn with the seed: the field has no list of other" in drawn.notes[0]
    _, drawn = found("imagenet", fit_list=False)
    assert drawn.notes[0].endswith("images of train were clustered, 10% of each class")
    (tmp_path / "imagenet_subsets" / "10percent.txt").unlink()
    with pytest.raises(DataError, match=r"no list of images .*Get 10percent.txt from"):
        found("imagenet")
    with pytest.raises(CardError, match="fit_list goes with a fit_share"):
        card("carp", fit_list=True)


def test_images_of_one_class_are_told_to_say_nothing(banks, monkeypatch):
    bank, queries = banks
    said = "of one class: how clusters agree"
    assert not any(said in note for note in cluster.judge(card("carp", **QUICK), *banks, seed=0).notes)
    monkeypatch.setitem(queries.__dict__, "labels", queries.labels * 0)
    outcome = cluster.judge(card("carp", **QUICK), bank, queries, seed=0)
    assert any(said in note for note in outcome.notes)


def test_a_share_of_unlabelled_images_is_drawn_from_all():
    images = Noise(40)
    images.labels[::2] = -1
    part = cluster._share_of(images, 0.25, seed=0)
    assert len(part) == 10
    assert (np.diff(part.numbers) > 0).all()


def test_a_share_of_what_is_scored_is_refused():
    with pytest.raises(CardError, match="draws from the split that is scored"):
        card("mteb", fit_share=0.5)
    for changes in ({"mode": "other"}, {"fit_share": 0.0}, {"fit_share": 1.5}):
        with pytest.raises(CardError):
            card("carp", **changes)


def test_progress_is_shown_by_the_job(digit_folder, tmp_path):
    told = {}

    def bar(what):
        return lambda done, total: told.setdefault(what, []).append((done, total))

    cluster.run(job(card("carp", **QUICK), digit_folder, tmp_path, progress=bar))
    assert told["k-means"][-1] == (10, 10)


def test_images_without_classes_are_refused(tmp_path):
    images = Noise(12)
    for split in ("train", "test"):
        (tmp_path / "flat" / split).mkdir(parents=True)
        for number in range(len(images)):
            images.image(number).save(tmp_path / "flat" / split / f"{number}.png")
    with pytest.raises(UsageError, match="flat has no classes, which clusters are held against"):
        cluster.run(job(card("carp", **QUICK), tmp_path / "flat", tmp_path))


def test_unlabelled_images_cannot_be_scored(banks, monkeypatch):
    bank, queries = banks
    labels = queries.labels.clone()
    labels[0] = -1
    monkeypatch.setitem(queries.__dict__, "labels", labels)
    with pytest.raises(UsageError, match="1 of 30 images have no class"):
        cluster.judge(card("carp", **QUICK), bank, queries, seed=0)


@pytest.mark.parametrize("changes", [{"points_per_centre": 0}, {"points_per_centre": 9, "spherical": False}])
def test_points_larger_than_the_memory_have_the_same_clusters_and_are_told_of(banks, monkeypatch, changes):
    in_memory = cluster.judge(card("carp", **QUICK | changes), *banks, seed=0)
    monkeypatch.setattr(kmeans, "BESIDE", 0)
    monkeypatch.setattr(kmeans_streamed, "FEWEST_SLAB_ROWS", 1)
    streamed = cluster.judge(card("carp", **QUICK | changes), *banks, seed=0, memory=3500)
    assert streamed.predictions["cluster"].tolist() == in_memory.predictions["cluster"].tolist()
    assert streamed.scores == in_memory.scores
    assert streamed.counts == in_memory.counts
    (told,) = set(streamed.notes) - set(in_memory.notes)
    assert "are more than the memory that k-means may take: each iteration read them from disk" in told
    with pytest.raises(UsageError, match=r"too little for k-means of 3 clusters, 2 restarts .* --memory"):
        cluster.judge(card("carp", **QUICK | changes), *banks, seed=0, memory=1000)
    with pytest.raises(UsageError, match=r"small batches of 60 images .* are given: take --variant carp"):
        cluster.judge(card("mteb"), *banks, seed=0, memory=1000)


def test_what_was_drawn_is_told(banks):
    outcome = cluster.judge(card("carp", points_per_centre=9, **QUICK), *banks, seed=5)
    assert outcome.notes[0] == (
        "k-means was fitted on 27 of 60 images, drawn by the seed 5 as FAISS draws them: 9 for each of 3 clusters"
    )


@on_linux
@pytest.mark.parametrize("points_per_centre", [0, 300])
def test_a_bank_larger_than_the_memory_is_clustered_within_it(tmp_path, monkeypatch, points_per_centre):
    monkeypatch.setattr(kmeans, "BESIDE", 10**7)
    monkeypatch.setattr(kmeans_streamed, "MOST_SLAB_ROWS", 4096)
    monkeypatch.setattr(stored, "PART_VALUES", 2**18)
    features = torch.randn(80_000, 256, generator=torch.Generator().manual_seed(0)).half()
    bank = written(tmp_path / "bank", features, shard_rows=4096)
    queries = written(tmp_path / "queries", features[::40], manifest="q")
    few = card("carp", clusters=20, iterations=2, restarts=2, points_per_centre=points_per_centre)
    cluster.judge(few, queries, queries, seed=0)
    with watched() as most:
        outcome = cluster.judge(few, bank, queries, seed=0, memory=40_000_000)
    assert outcome.counts["fitted"] == (6000 if points_per_centre else 80_000)
    assert any("from disk" in note for note in outcome.notes) == (not points_per_centre)
    assert most[0] < 40_000_000 < 2 * features.numel()


def test_k_means_has_the_memory_of_the_settings_and_keeps_its_state(digit_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path))
    monkeypatch.setattr(kmeans_runs, "SECONDS_BETWEEN_SAVES", 0.0)
    with pytest.raises(UsageError, match="of memory are too little for k-means"):
        cluster.run(job(card("carp", **QUICK), digit_folder, tmp_path, memory=1000))
    work = job(card("carp", **QUICK), digit_folder, tmp_path)
    outcome = cluster.run(work)
    assert work.unfinished().load()["taken"].sum() == outcome.counts["iterations"]
