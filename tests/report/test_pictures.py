import json

import numpy as np
import pytest
from PIL import Image

from carp_eval.report import chosen, pictures
from carp_eval.results import Published, Score
from tests.report.records import record

BLUE, ORANGE = (0, 114, 178), (213, 94, 0)
STEPS = [
    {"step": 10, "loss": 5.0, "consistency": 4.5, "kl": 0.1, "epoch": 1.0, "lr": 1.0},
    {"step": 20, "loss": 4.0, "consistency": 3.0, "kl": 0.2, "epoch": 2.0, "lr": 1.0},
    {"step": 20, "knn_student": 50.0, "knn_teacher": 60.0},
]

pytest.importorskip("matplotlib")


def published(value, *, same=True):
    return Published(value=value, delta=0.0, document="d", table="t", variant="", same_variant=same)


def columns(path, colour):
    """Return where pixels of a colour are, below the legend; of blue, left of the numbers at the right."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    near = (np.abs(pixels - colour).sum(axis=2) < 30)[60:]
    return near[:, : int(near.shape[1] * 0.9)].nonzero()[1] if colour == BLUE else near.nonzero()[1]


def test_a_published_number_lies_where_its_value_is(tmp_path):
    for value in (40.0, 80.0):
        score = Score(metric="top1", value=60.0, low=58.0, high=62.0, published=(published(value),))
        path = pictures.scores([record(score)], tmp_path / f"{value}.png")
        ours, theirs = columns(path, BLUE), columns(path, ORANGE)
        assert len(ours) > 20
        assert len(theirs) > 20
        assert (theirs.min() > ours.max()) == (value > 60)
        assert (theirs.max() < ours.min()) == (value < 60)


def test_an_interval_is_as_wide_as_it_is(tmp_path):
    widths = []
    for half in (1.0, 10.0):
        score = Score(metric="top1", value=60.0, low=60 - half, high=60 + half, published=(published(20.0),))
        found = columns(pictures.scores([record(score)], tmp_path / f"{half}.png"), BLUE)
        widths.append(found.max() - found.min())
    assert widths[1] > 5 * widths[0]


def test_the_same_numbers_give_the_same_bytes_whatever_this_machine_prefers(tmp_path):
    import matplotlib

    score = Score(metric="top1", value=60.0, low=58.0, high=62.0, published=(published(61.0, same=False),))
    first = pictures.scores([record(score)], tmp_path / "first.png").read_bytes()
    preferred = {"axes.facecolor": "red", "font.size": 20.0, "savefig.dpi": 30}
    with matplotlib.rc_context(preferred):
        again = pictures.scores([record(score)], tmp_path / "again.png").read_bytes()
        assert {key: matplotlib.rcParams[key] for key in preferred} == preferred
    assert again == first
    with Image.open(tmp_path / "first.png") as picture:
        assert set(picture.info) <= {"dpi"}


def test_the_main_scores_are_shown():
    results = [
        record(
            Score(metric="top1", value=1.0, settings={"k": 20, "temperature": 0.07}),
            Score(metric="top5", value=2.0),
            Score(metric="mean_per_class", value=3.0),
        ),
        record(
            Score(metric="map", value=7.0),
            Score(metric="ap", value=8.0, settings={"class": "cat"}),
            protocol="voc07",
            variant="pcl",
        ),
        record(Score(metric="rankme", value=400.0), protocol="labelfree", variant="rankme"),
        record(
            Score(metric="nmi", value=5.0), Score(metric="ari", value=6.0), protocol="cluster", variant="carp"
        ),
    ]
    assert [(bar.name, bar.value) for bar in chosen.bars(results)] == [
        ("cluster@carp cifar10: nmi", 5.0),
        ("cluster@carp cifar10: ari", 6.0),
        ("knn@dino cifar10: top1 (k 20, temperature 0.07)", 1.0),
        ("voc07@pcl cifar10: map", 7.0),
    ]


def test_where_ones_own_images_lie_is_not_shown():
    score = Score(metric="top1", value=1.0)
    (bar,) = chosen.bars([record(score, query_dataset="folder:/home/somebody/photos/")])
    assert bar.name == "knn@dino photos: top1"


def test_the_curves_are_those_of_the_log():
    panels = chosen.panels(STEPS)
    loss = panels["loss"]
    assert (loss["loss"].epochs, loss["loss"].values) == ([1.0, 2.0], [5.0, 4.0])
    assert loss["entropy term"].values == [0.5, 1.0]
    (knn,) = (curves for title, curves in panels.items() if "20-NN" in title)
    assert (knn["teacher"].epochs, knn["teacher"].values) == ([2.0], [60.0])
    assert (knn["student"].epochs, knn["student"].values) == ([2.0], [50.0])
    (kl,) = panels["KL"].values()
    assert kl.values == [0.1, 0.2]


def test_a_log_of_another_method_shows_what_it_has():
    panels = chosen.panels(
        [{"step": 10, "loss": 5.0, "epoch": 1.0}, {"step": 20, "loss": float("nan"), "epoch": 2.0}]
    )
    assert list(panels) == ["loss"]
    assert list(panels["loss"]) == ["loss"]
    assert panels["loss"]["loss"].values == [5.0]


def test_a_long_training_is_thinned_and_keeps_its_end():
    entries = [{"step": n, "loss": float(n), "epoch": n / 10} for n in range(10_000)]
    curve = chosen.panels(entries)["loss"]["loss"]
    assert len(curve.values) <= chosen.MOST_POINTS
    assert (curve.epochs[-1], curve.values[-1]) == (999.9, 9999.0)


def test_a_run_is_drawn_from_its_log(tmp_path):
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in STEPS))
    path = pictures.training(tmp_path, tmp_path / "training.png")
    assert len(columns(path, BLUE)) > 100
    assert len(columns(path, ORANGE)) > 100
    few = tmp_path / "few"
    few.mkdir()
    (few / "log.jsonl").write_text(json.dumps(STEPS[0]) + "\n")
    with Image.open(path) as three, Image.open(pictures.training(few, few / "few.png")) as two:
        # A panel that has nothing to show is not there.
        assert two.height < three.height


def test_without_numbers_or_without_matplotlib_there_is_no_picture(tmp_path, monkeypatch):
    score = Score(metric="top1", value=60.0)
    assert pictures.scores([record(Score(metric="rankme", value=5.0))], tmp_path / "a.png") is None
    assert pictures.training(tmp_path, tmp_path / "a.png") is None
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    assert not pictures.available()
    assert pictures.scores([record(score)], tmp_path / "a.png") is None
    assert not list(tmp_path.iterdir())
