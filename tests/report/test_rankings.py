"""What the report shows of landmarks, of images of several classes, and of copies, beside what is plain to see."""

import re

import numpy as np
import pytest
from PIL import Image
from torch import nn

from carp_eval.cards import loading
from carp_eval.checkpoints.opening import open_model
from carp_eval.data.images import ModelInput
from carp_eval.evaluation.job import Settings
from carp_eval.evaluation.running import evaluate
from carp_eval.models.model import Model, weights_sha256
from carp_eval.report import found as founds
from carp_eval.report import writing
from carp_eval.report.evidence import Shelf
from carp_eval.report.parts import multilabel, rankings
from carp_eval.report.thumbnails import Thumbnails
from carp_eval.results import Score
from tests.evaluation import landmarks_scene as scene
from tests.report.records import Page, record, saved

QUIET = Settings(num_workers=0, device="cpu", dtype="float32")


class Colour(nn.Sequential):
    """Its last feature map is the image: pooled, it is the mean colour."""

    def __init__(self):
        super().__init__(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(home):
    writing.write(founds.results(), home / "r.html")
    return Page((home / "r.html").read_text(encoding="utf-8"))


def labels(page):
    return [e["attributes"]["aria-label"] for e in page.all("svg") if e["attributes"].get("class") == "thumb"]


@pytest.mark.parametrize("variant", ["revisitop", "carp"])
def test_landmarks_are_shown_as_they_were_ranked_with_junk_marked(home, variant):
    network = Colour().eval()
    model = Model(
        name="colour",
        network=network,
        input=ModelInput(native_size=224, mean=(0.0,) * 3, std=(1.0,) * 3),
        feature_dim=3,
        weights_sha256=weights_sha256(network.state_dict()),
    )
    card = loading.protocol_card("retrieval", variant, {})
    evaluate(model, card, dataset=scene.make(home), settings=QUIET)
    page = written(home)
    first, last = (row[0] for row in page.rows("colour on landmarks"))
    # Grass is found at once, where it is cropped, and else later than crimson on the whole.
    assert "average precision easy 25.0%" in first
    order = ("crimson", "grass") if variant == "revisitop" else ("grass", "crimson")
    assert [name in row for name, row in zip(order, (first, last), strict=True)] == [True, True]
    told = [label for label in labels(page) if label.startswith("rank ")]
    assert len(told) == 2 * len(scene.DATABASE)
    of_crimson = told[:8] if order[0] == "crimson" else told[8:]
    names = [re.match(r"rank \d, (\w+): jpg/(\w+)\.jpg", label).groups()[::-1] for label in of_crimson[:4]]
    assert names == [("red", "junk"), ("rust", "another"), ("amber", "easy"), ("violet", "hard")]
    marks = {e["attributes"]["class"] for e in page.all("figure")}
    assert marks == {"pic ", "pic right", "pic wrong", "pic junk"}
    assert "○" in page.all("main")[0]["text"]


def test_whitened_landmarks_are_ranked_by_their_whitened_features(home):
    network = Colour().eval()
    model = Model(
        name="colour",
        network=network,
        input=ModelInput(native_size=224, mean=(0.0,) * 3, std=(1.0,) * 3),
        feature_dim=3,
        weights_sha256=weights_sha256(network.state_dict()),
    )
    dataset = scene.make(home)
    card = loading.protocol_card("retrieval", "revisitop", {"whitening": dataset})
    result, _ = evaluate(model, card, dataset=dataset, settings=QUIET)
    assert {"database", "query", "whitening"} <= result.banks.keys()

    def features(names):
        rows = np.array(
            [
                np.asarray(Image.open(home / "landmarks" / "jpg" / f"{name}.jpg")).mean((0, 1))
                for name in names
            ]
        )
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    bank = features(scene.DATABASE)
    mean = bank.mean(axis=0)
    _, sizes, axes = np.linalg.svd(bank - mean, full_matrices=False)

    def whitened(rows):
        rows = (rows - mean) @ axes.T / sizes
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    wanted = np.array(list(scene.DATABASE))[
        np.argsort(-(whitened(features(["crimson"])) @ whitened(bank).T)[0])
    ]
    told = [label for label in labels(written(home)) if label.startswith("rank ")]
    names = [re.search(r"jpg/(\w+)\.jpg", label).group(1) for label in told]
    assert wanted.tolist() in (names[:8], names[8:])


def test_the_worst_mistakes_of_each_class_are_shown_and_what_is_difficult_is_none(home):
    targets = {"cat": [1, 1, -1, -1, 0], "dog": [-1, -1, -1, 1, 1]}
    decided = {"cat": [0.9, -0.8, 0.7, -0.9, 0.95], "dog": [0.1, 0.2, 0.3, 0.9, 0.8]}
    scores = [
        Score(metric="ap", value=value, settings={"class": name})
        for name, value in (("cat", 40.0), ("dog", 90.0))
    ]
    columns = {f"target_{name}": values for name, values in targets.items()}
    columns |= {f"decision_{name}": values for name, values in decided.items()}
    result = record(
        Score(metric="map", value=65.0), *scores, protocol="voc07", variant="pcl", card={"kind": "voc07"}
    )
    found = saved(home / "results", result, index=range(5), key=list("abcde"), **columns)
    (part,) = multilabel.part([found], Shelf(), Thumbnails())
    told = [
        (one.name, one.precision, one.images, [s.alt[0] for s in one.taken], [s.alt[0] for s in one.missed])
        for one in part.classes
    ]
    assert told == [("cat", 40.0, 2, ["c", "d"], ["b", "a"]), ("dog", 90.0, 2, ["c", "b", "a"], ["e", "d"])]
    page = written(home)
    assert [row[:3] for row in page.rows("The images that each class")] == [
        ["cat", "40.0 %", "2"],
        ["dog", "90.0 %", "2"],
    ]


def test_copies_are_made_again_for_a_model_that_is_no_run(home, digit_folder):
    card = loading.protocol_card("copydays", "copies", {"num_originals": 8, "num_distractors": 12})
    evaluate(open_model("pixels:digits"), card, dataset=f"folder:{digit_folder}", settings=QUIET)
    page = written(home)
    assert "copies of" not in page.all("header")[0]["text"]
    told = labels(page)
    assert (
        sum(label.startswith("a copy of ") for label in told)
        == sum(label.startswith("its original ") for label in told)
        > 2
    )


def test_the_extremes_come_first_and_no_query_twice():
    precision = np.array([0.5, np.nan, 0.1, 0.9, 0.3])
    assert rankings.worst_and_best(precision, 4) == [2, 4, 3, 0]
    assert rankings.worst_and_best(precision, 3) == [2, 3, 0]
    assert rankings.worst_and_best(precision[:1], 10) == [0]
    assert rankings.worst_and_best(np.full(3, np.nan), 10) == []
