import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.model_selection import cross_val_score

from carp_eval.cards import loading
from carp_eval.checkpoints.opening import open_model
from carp_eval.errors import CardError, DataError, UsageError
from carp_eval.evaluation.job import Job, Settings
from carp_eval.evaluation.running import evaluate
from carp_eval.features.bank import Bank
from carp_eval.metrics import voc
from carp_eval.models.pooling import pooled
from tests.evaluation import voc_scene
from tests.evaluation.test_liblinear import by_scikit_learn
from tests.metrics.test_voc import by_loops

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
COSTS = [0.1, 1.0, 20.0]


@pytest.fixture
def copy(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    return voc_scene.make(tmp_path / "copy")


@pytest.fixture(scope="module")
def model():
    return open_model("random:digits")


def score(model, copy, tmp_path, variant="pcl", changes=None, *, leaks="ignore", **settings):
    card = loading.protocol_card("voc07", variant, changes)
    settings = Settings(num_workers=0, device="cpu", **settings)
    return evaluate(model, card, dataset=copy, leaks=leaks, settings=settings, output=tmp_path / "results")


def by_metric(record, metric):
    return [found for found in record.scores if found.metric == metric]


def features_and_targets(model, copy, variant):
    """Both splits as the references scale them, from the banks."""
    card = loading.protocol_card("voc07", variant)
    job = Job(card, model, copy, settings=Settings(num_workers=0))
    windows = {"vissl": 2}.get(variant)
    shown = windows and pooled(model, pooling="places", places=windows, per_scale_unit=False)
    for split in ("trainval", "test"):
        bank = job.bank(split, model=shown)
        assert bank.dim == model.feature_dim * (windows or 1) ** 2
        assert isinstance(bank, Bank)
        rows = bank.features().double().numpy()
        yield rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-5)
        targets = job.images(split).targets
        assert targets is not None
        yield targets


def test_pcl_is_scikit_learn_class_by_class(model, copy, tmp_path):
    record, path = score(model, copy, tmp_path)
    features, targets, scored, shown = features_and_targets(model, copy, "pcl")
    predictions = pq.read_table(path.with_suffix(".parquet"))
    found = []
    for c, name in enumerate(voc_scene.CLASSES):
        machine = by_scikit_learn(features, np.where(targets[:, c] == 1, 1, -1), 0.5)
        decided = machine.decision_function(scored)
        assert np.array_equal(predictions[f"decision_{name}"].to_numpy(), decided)
        assert np.array_equal(predictions[f"target_{name}"].to_numpy(), shown[:, c])
        # What is difficult is absent.
        found.append(by_loops(decided, np.where(shown[:, c] == 1, 1, -1), "negative") * 100)
    of_class = by_metric(record, "ap")
    assert [one.settings for one in of_class] == [{"class": name} for name in voc_scene.CLASSES]
    assert [one.value for one in of_class] == pytest.approx(found, abs=1e-9)
    (mean,) = by_metric(record, "map")
    assert mean.value == pytest.approx(np.mean(found), abs=1e-9)
    assert (mean.settings, record.bank_split, record.query_split) == ({}, "trainval", "test")
    assert predictions["key"].to_pylist() == [f"{number:06d}.jpg" for number in range(61, 101)]
    assert record.counts == {"bank": 60, "queries": 40, "classes": 20, "judged_classes": 20, "machines": 20}


def test_intervals_are_those_of_the_test_images(model, copy, tmp_path):
    record, path = score(model, copy, tmp_path)
    predictions = pq.read_table(path.with_suffix(".parquet"))
    decided, shown = (
        np.stack([predictions[f"{what}_{name}"].to_numpy() for name in voc_scene.CLASSES], axis=1)
        for what in ("decision", "target")
    )
    wanted = voc.intervals(decided, shown, difficult="negative", seed=0)
    (mean,) = by_metric(record, "map")
    assert (mean.low, mean.high) == pytest.approx(np.array(wanted.mean) * 100)
    cow = by_metric(record, "ap")[voc_scene.CLASSES.index("cow")]
    assert (cow.low, cow.high) == pytest.approx(np.array(wanted.per_class[9]) * 100)


def test_vissl_chooses_c_as_cross_val_score_does(model, copy, tmp_path):
    record, _ = score(model, copy, tmp_path, "vissl", {"costs": COSTS})
    features, targets, scored, shown = features_and_targets(model, copy, "vissl")
    moved = 0
    for c in range(8):
        found = by_metric(record, "ap")[c]
        learnt = np.where(targets[:, c] == 1, 1, -1)
        means = [
            cross_val_score(
                by_scikit_learn(features, learnt, cost), features, learnt, cv=3, scoring="average_precision"
            ).mean()
            for cost in COSTS
        ]
        chosen = COSTS[int(np.argmax(means))]
        assert found.settings == {"class": voc_scene.CLASSES[c], "C": chosen}
        decided = by_scikit_learn(features, learnt, chosen).decision_function(scored)
        wanted = by_loops(decided, shown[:, c], "ignored")
        assert found.value == pytest.approx(wanted * 100, abs=1e-9)
        moved += wanted != by_loops(decided, shown[:, c], "negative")
    assert moved
    assert len({found.settings["C"] for found in by_metric(record, "ap")}) > 1
    assert any("C by class, best of 3 over 3 folds of trainval: aeroplane" in note for note in record.notes)
    assert record.counts["machines"] == 20 * (3 * 3 + 1)


def test_the_variants_differ_as_the_references_do():
    pcl, vissl, swav = (loading.protocol_card("voc07", name) for name in ("pcl", "vissl", "swav"))
    assert pcl.costs == (0.5,)
    assert vissl.costs == swav.costs == (0.01, 0.1, 1, 2, 5, 10, 15, 20, 50, 100, 1000)
    assert [card.difficult_in_train for card in (pcl, vissl, swav)] == ["negative"] * 3
    assert [card.difficult_in_test for card in (pcl, vissl, swav)] == ["negative", "ignored", "ignored"]
    sizes = [
        (c.preprocessing.resize, c.preprocessing.crop, c.preprocessing.squash) for c in (pcl, vissl, swav)
    ]
    assert sizes == [(256, 224, None), (256, None, 224), (256, 224, None)]
    with pytest.raises(CardError, match="costs"):
        loading.protocol_card("voc07", "pcl", {"costs": []})


def test_a_part_of_the_data_set_says_so_and_leaves_out_what_it_cannot_judge(model, copy, tmp_path):
    folder = tmp_path / "copy/VOCdevkit/VOC2007/JPEGImages"
    for number in range(60, 100):
        if voc_scene.targets(number)[9] == 1:
            (folder / f"{number + 1:06d}.jpg").unlink()
    record, _ = score(model, copy, tmp_path)
    left = 40 - sum(voc_scene.targets(number)[9] == 1 for number in range(60, 100))
    assert record.notes[:2] == (
        "60 of 5,011 trainval images are there: its scores do not compare with those of the whole",
        f"{left} of 4,952 test images are there: its scores do not compare with those of the whole",
    )
    assert record.notes[2] == "mAP is over 19 of 20 classes: too few images show cow"
    of_class = by_metric(record, "ap")
    assert len(of_class) == 19
    assert "cow" not in {found.settings["class"] for found in of_class}
    (mean,) = by_metric(record, "map")
    assert mean.value == pytest.approx(np.mean([found.value for found in of_class]))


def test_folds_need_as_many_images_of_a_class(model, copy, tmp_path):
    folder = tmp_path / "copy/VOCdevkit/VOC2007/JPEGImages"
    showing = [number for number in range(60) if voc_scene.targets(number)[9] == 1]
    for number in showing[2:]:
        (folder / f"{number + 1:06d}.jpg").unlink()
    assert len(by_metric(score(model, copy, tmp_path, "vissl", {"costs": [0.1, 1.0]})[0], "ap")) == 19
    assert len(by_metric(score(model, copy, tmp_path, "vissl", {"costs": [0.1]})[0], "ap")) == 20


def test_data_of_one_class_an_image_are_refused(model, digit_folder, tmp_path):
    with pytest.raises(UsageError, match=r"show several classes.*say -d voc07"):
        score(model, f"folder:{digit_folder}", tmp_path, changes={"bank_split": "train"})


def test_another_kind_of_data_is_told_so_whatever_its_splits(model, copy, digit_folder, tmp_path):
    with pytest.raises(
        UsageError, match=r"show several classes.*has test, train, and .* one of 4 classes each"
    ):
        score(model, f"folder:{digit_folder}", tmp_path)
    # Of the right kind it is the split that is missing.
    with pytest.raises(DataError, match="no split 'other'"):
        score(model, copy, tmp_path, changes={"bank_split": "other"})
    with pytest.raises(DataError, match="nowhere"):
        score(model, f"voc07:{tmp_path}/nowhere", tmp_path)


def test_a_stopped_run_goes_on(model, copy, tmp_path):
    changes = {"costs": [0.1, 1.0]}
    wanted, _ = score(model, copy, tmp_path, "vissl", changes)

    def stop_at(stage, last, told):
        def bar(what):
            def tell(done, total):
                told.append((what, done, total))
                if (what, done) == (stage, last):
                    raise KeyboardInterrupt

            return tell

        return bar

    for stage in ("support vector machines, 3 folds", "support vector machines"):
        told = []
        with pytest.raises(KeyboardInterrupt):
            score(model, copy, tmp_path, "vissl", changes, progress=stop_at(stage, 7, told))
    # The folds were kept: their bar begins at its end.
    assert [step for step in told if "folds" in step[0]][-1:] == [
        ("support vector machines, 3 folds", 120, 120)
    ]
    told = []
    record, _ = score(model, copy, tmp_path, "vissl", changes, progress=stop_at("", 0, told))
    assert record.scores == wanted.scores
    assert [step for step in told if "folds" in step[0]] == [("support vector machines, 3 folds", 120, 120)]
    assert next(done for what, done, _ in told if what == "support vector machines") >= 7
    assert not list((tmp_path / "home" / "unfinished").glob("*"))


def test_near_duplicates_are_left_out_where_asked(model, copy, tmp_path):
    folder = tmp_path / "copy/VOCdevkit/VOC2007/JPEGImages"
    shutil.copy(folder / "000001.jpg", folder / "000061.jpg")
    counted, _ = score(model, copy, tmp_path, leaks="count")
    dropped, path = score(model, copy, tmp_path, leaks="drop")
    assert counted.counts["leaks"] == dropped.counts["leaks"] >= 1
    assert dropped.counts["queries"] == 40 - dropped.counts["leaks"]
    predictions = pq.read_table(path.with_suffix(".parquet"))
    assert len(predictions) == dropped.counts["queries"]
    assert "000061.jpg" not in predictions["key"].to_pylist()
    # Rows and what they show stay together.
    for key, cow in zip(predictions["key"].to_pylist(), predictions["target_cow"].to_pylist(), strict=True):
        assert voc_scene.targets(int(key[:6]) - 1)[9] == cow
