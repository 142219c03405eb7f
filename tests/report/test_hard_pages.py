import json

import numpy as np
import pytest
from PIL import Image

from carp_eval.cards import loading
from carp_eval.checkpoints.opening import open_model
from carp_eval.data.images import Images
from carp_eval.errors import UsageError
from carp_eval.evaluation.running import evaluate
from carp_eval.report import found as founds
from carp_eval.report import writing
from carp_eval.report.thumbnails import Thumbnails
from carp_eval.results import Published, Score
from tests.report.records import record, saved, written

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&"
TURNED = "left\u202eright\nsecond"


def test_hostile_names_stay_names(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    # A class and a file of it, whose key together is `</script>...`.
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("<", TURNED, "'\"&<b>"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                picture = Image.fromarray(rng.integers(0, 255, (28, 28), dtype=np.uint8))
                picture.save(folder / f"script><script>alert({number})<.png")
    model = open_model("pixels:digits")
    for kind, variant, changes in (("knn", "dino", {"k": [3]}), ("cluster", "carp", {"restarts": 1})):
        card = loading.protocol_card(kind, variant, changes)
        evaluate(
            model, card, dataset=f"folder:{tmp_path / 'data'}", leaks="ignore", output=tmp_path / "results"
        )
    published = Published(
        value=1.0, delta=2.0, document=ATTACK, table=ATTACK, variant=ATTACK, same_variant=False
    )
    score = Score(metric=ATTACK, value=3.0, settings={ATTACK: ATTACK}, published=(published,))
    hostile = record(
        score,
        model=ATTACK,
        branch=ATTACK,
        variant="dino",
        notes=(ATTACK, TURNED),
        card={ATTACK: [ATTACK, TURNED]},
        command=f"carp eval {ATTACK}",
        machine=ATTACK,
        versions={ATTACK: ATTACK},
    )
    saved(
        tmp_path / "results",
        hostile,
        key=[ATTACK] * 4,
        index=[0, 1, 2, 3],
        label=[0, 1, 2, 3],
        predicted=[1, 1, 0, 0],
    )
    run = tmp_path / f"run <b>{TURNED}"
    run.mkdir()
    (run / "log.jsonl").write_text(json.dumps({"step": 1, "epoch": 1.0, "loss": 2.0, "<i>": 1}) + "\n")
    found = founds.results(roots=[tmp_path / "results"])
    assert len(found) == 3
    page = written(found, tmp_path / "r.html", runs=[run], unreadable=[ATTACK])
    assert len(page.all("script")) == 1 + len(page.data()) == 2
    allowed = (
        "html head meta title style body a svg symbol image header h1 h2 h3 bdi p nav div main section form label "
        "select option input output table caption thead tbody tr th td line circle path text rect polyline small br "
        "figure figcaption span use noscript canvas ul li script details summary code pre"
    )
    assert {element["tag"] for element in page.elements} <= set(allowed.split())
    assert not any(name.startswith("on") for e in page.elements for name in e["attributes"])
    text = page.all("body")[0]["text"]
    assert ATTACK in text
    assert "\u202e" not in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "left\\u202eright second" in text
    keys = page.data()[0]["data"]["keys"]
    assert "</script><script>alert(0)<.png" in keys
    assert ATTACK in {row[0] for row in page.rows("Scores")} or any(
        ATTACK in row[0] for row in page.rows("Scores")
    )


def test_a_record_alone_makes_a_page(tmp_path):
    found = saved(tmp_path, record(Score(metric="rankme", value=12.5)))
    found.path.with_suffix(".parquet").write_bytes(b"damaged")
    page = written([found], tmp_path / "r.html")
    assert [e["text"] for e in page.all("h2")] == ["Scores", "Origins"]
    assert page.rows("Scores")[0][4] == "12.50"


def test_of_nothing_there_is_no_page(tmp_path):
    with pytest.raises(UsageError, match="nothing to report"):
        writing.write([], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_a_hundred_results_and_a_thousand_classes_stay_readable(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 1000, 20_000)
    predicted = np.where(rng.random(20_000) < 0.7, labels, rng.integers(0, 1000, 20_000))
    predicted[labels == 7] = 8
    first = saved(
        tmp_path,
        record(),
        key=list(map(str, range(20_000))),
        index=range(20_000),
        label=labels,
        predicted=predicted,
    )
    others = [saved(tmp_path, record(model=f"model {number}"), key=[]) for number in range(99)]
    page = written([first, *others], tmp_path / "r.html")
    assert len(page.rows("Scores")) == 100
    assert len(page.all("details")) == 100
    matrix = next(e for e in page.all("svg") if e["attributes"].get("class") == "matrix")
    assert "30 classes" in matrix["attributes"]["aria-label"]
    assert "30 of 1000 classes: those with the most errors" in page.all("main")[0]["text"]
    assert page.rows("The pairs")[0][:4] == ["class 7", "class 8", str((labels == 7).sum()), "100.0 %"]
    assert len(page.rows("The pairs")) == 12
    assert (tmp_path / "r.html").stat().st_size < 2_000_000


def test_pictures_beyond_what_fits_are_those_of_least_importance(tmp_path):
    class Split(Images):
        def key(self, index):
            return str(index)

        def hash_manifest(self):
            return "a"

        def image(self, index):
            return Image.fromarray(
                np.random.default_rng(index % 20).integers(0, 255, (40, 40, 3), dtype=np.uint8)
            )

    pool = Thumbnails()
    names = [pool.add(Split(), index, importance=index % 3) for index in range(20)]
    assert pool.add(Split(), 25, importance=9) == names[5], "the same pixels are one picture"
    assert len(pool) == 20
    each = len(pool.within(10**9)[names[0]].address) + 160
    kept = pool.within(int(each * 5.5))
    assert 4 <= len(kept) <= 6
    assert set(kept) <= {names[5], *(name for place, name in enumerate(names) if place % 3 == 2)}
    assert names[5] in kept


def test_a_log_that_is_none_has_no_curves(tmp_path):
    lines = [
        '{"step": 1, "epoch": 1.0, "loss": 5.0}',
        '["no entry"}',
        '{"loss": 1.0}',
        '{"step": 2, "epoch": "two", "loss": 3.0}',
    ]
    for name, text in (("cut", lines[0]), ("other", lines[1]), ("odd", "\n".join((lines[0], *lines[2:])))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text(f"{text}\n")
    page = written([], tmp_path / "r.html", runs=[tmp_path / name for name in ("cut", "other", "odd")])
    assert [row[1:] for row in page.rows("loss, by run")] == [
        ["1", "loss", "5", "5"],
        ["2", "loss", "5", "5"],
    ]
    assert "other" not in page.all("main")[0]["text"]


def test_many_words_of_what_is_missing_do_not_push_the_page_down(tmp_path):
    damaged = [f"record {number} is damaged" for number in range(20)]
    page = written([saved(tmp_path, record())], tmp_path / "r.html", unreadable=damaged)
    (more,) = [e for e in page.all("details") if "more that are not shown" in e["text"]]
    assert "record 19" in more["text"]
    assert "record 5" not in more["text"]
    assert "record 5" in page.all("header")[0]["text"]
