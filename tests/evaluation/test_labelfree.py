import math
from itertools import combinations

import numpy as np
import pytest
import torch

from carp_eval.cards import loading
from carp_eval.cards.labelfree import LabelFreeCard
from carp_eval.checkpoints.opening import open_model
from carp_eval.data.skipping import SkippedImages
from carp_eval.errors import UsageError
from carp_eval.evaluation import labelfree
from carp_eval.evaluation.job import Job, Settings
from tests.features.scene import Noise, take


def card(**changes):
    path = loading.folder(loading.PROTOCOLS) / "labelfree@rankme.toml"
    return loading.check(
        LabelFreeCard, loading.read(path, loading.PROTOCOLS) | changes, where="labelfree@rankme"
    )


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    images = Noise(40, seed=1)
    images.labels[:] = -1
    return take(tmp_path_factory.mktemp("banks"), images=images)


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    """Two banks of other pictures each, of as many images."""
    return [take(tmp_path_factory.mktemp("views"), images=Noise(12, seed=seed)) for seed in (2, 3)]


def values(outcome):
    return {score.metric: score.value for score in outcome.scores}


def test_judging_needs_no_label_and_follows_the_equations(bank, views):
    outcome = labelfree.judge(card(), bank, *views, of=40)
    rows = bank.features().double().numpy()
    strengths = np.sqrt(np.linalg.eigvalsh(rows.T @ rows))
    shares = strengths / strengths.sum() + 1e-7
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [math.exp(-2 * ((x - y) ** 2).sum()) for x, y in combinations(unit, 2)]
    one, other = (view.features().double().numpy() for view in views)
    apart = [
        ((x / np.linalg.norm(x) - y / np.linalg.norm(y)) ** 2).sum() for x, y in zip(one, other, strict=True)
    ]
    assert values(outcome) == pytest.approx(
        {
            "rankme": math.exp(-(shares * np.log(shares)).sum()),
            "uniformity": math.log(np.mean(pairs)),
            "alignment": np.mean(apart),
        }
    )
    assert outcome.predictions == {}
    assert outcome.counts == {"looked_at": 40, "pairs": 12, "dim": 5}
    assert any("directions, of 5 at most" in note for note in outcome.notes)
    assert any("two views of 12 images" in note for note in outcome.notes)


def test_the_card_decides(bank, views):
    everything = values(labelfree.judge(card(), bank, *views, of=40))
    softer = values(labelfree.judge(card(t=0.1, epsilon=0.01), bank, *views, of=40))
    assert softer["uniformity"] > everything["uniformity"]
    assert softer["rankme"] != pytest.approx(everything["rankme"], rel=1e-3)


def job(digit_folder, *, seed=0, **changes):
    return Job(
        card(pairs=5, layer="pool", **changes),
        open_model("random:digits"),
        f"folder:{digit_folder}",
        settings=Settings(num_workers=0),
        seed=seed,
    )


def test_fewer_images_are_drawn_by_the_seed(digit_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path))
    jobs = [job(digit_folder, images=4, seed=seed) for seed in (0, 0, 1, 2)]
    outcomes = [labelfree.run(each) for each in jobs]
    assert outcomes[0].counts["looked_at"] == 4
    assert any("4 of 96 images, drawn at random" in note for note in outcomes[0].notes)
    assert any("directions, of 4 at most" in note for note in outcomes[0].notes)
    assert values(outcomes[0]) == values(outcomes[1])
    assert len({values(outcome)["uniformity"] for outcome in outcomes}) == 3
    assert len({tuple(each.banks["train"].keys) for each in jobs}) == 3
    # What is not looked at is not run through the network.
    assert len(jobs[0].banks["train"]) == 4
    whole = job(digit_folder, images=0)
    assert labelfree.run(whole).counts["looked_at"] == 96
    assert labelfree.run(job(digit_folder, images=500)).counts["looked_at"] == 96


def test_one_image_is_refused(digit_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="two or more, got 1"):
        labelfree.run(job(digit_folder, images=1))


def test_a_view_that_one_bank_has_skipped_has_no_pair(bank, views, tmp_path):
    images = Noise(12, seed=3, bad=(4,))
    short = take(tmp_path, images=images, skip_bad=SkippedImages())
    assert len(short) == 11
    outcome = labelfree.judge(card(), bank, views[0], short, of=40)
    assert outcome.counts["pairs"] == 11
    whole = [view.features()[torch.arange(12) != 4].double() for view in views]
    one, other = (rows / rows.norm(dim=1, keepdim=True) for rows in whole)
    expected = ((one - other) ** 2).sum(dim=1).mean().item()
    assert values(outcome)["alignment"] == pytest.approx(expected)


def test_views_of_other_images_agree_less_than_those_of_one(digit_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path))
    job = Job(
        card(
            pairs=30,
            layer="pool",
            view={
                "size": 224,
                "scale": (0.8, 1.0),
                "flip": 0.0,
                "jitter_probability": 0.0,
                "grey": 0.0,
                "jitter": (0, 0, 0, 0),
            },
        ),
        open_model("random:digits"),
        f"folder:{digit_folder}",
        settings=Settings(num_workers=0),
    )
    outcome = labelfree.run(job)
    assert outcome.counts == {"looked_at": 96, "pairs": 30, "dim": 256}
    one, other = (
        torch.nn.functional.normalize(job.banks[name].features().float(), dim=1) for name in labelfree.VIEWS
    )
    apart = ((one - other) ** 2).sum(dim=1).mean().item()
    assert values(outcome)["alignment"] == pytest.approx(apart, rel=1e-4)
    assert 0 < apart < ((one - other.roll(1, 0)) ** 2).sum(dim=1).mean().item()
    assert job.banks["view-1"].keys == job.banks["view-2"].keys
    assert set(job.banks["view-1"].keys) < set(job.banks["train"].keys)
