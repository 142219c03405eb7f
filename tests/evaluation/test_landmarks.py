import json
import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from carp_eval.cards import loading
from carp_eval.cards.published import PublishedCard
from carp_eval.cards.retrieval import LandmarkRetrievalCard, RetrievalCard
from carp_eval.data.images import ModelInput
from carp_eval.data.table import TABLE
from carp_eval.errors import BadImageError, CardError, UsageError
from carp_eval.evaluation import landmarks
from carp_eval.evaluation.job import Settings
from carp_eval.evaluation.running import evaluate
from carp_eval.features.rows import unit_rows
from carp_eval.models.model import Model, weights_sha256
from tests.evaluation import landmarks_scene as scene


class Colour(nn.Sequential):
    """Its last feature map is the image: pooled, it is the mean colour."""

    def __init__(self):
        super().__init__(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def model(native_size=224):
    network = Colour().eval()
    return Model(
        name="colour",
        network=network,
        input=ModelInput(native_size=native_size, mean=(0.0,) * 3, std=(1.0,) * 3),
        feature_dim=3,
        weights_sha256=weights_sha256(network.state_dict()),
    )


@pytest.fixture
def dataset(tmp_path):
    return scene.make(tmp_path)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))

    def run(dataset, variant="revisitop", *, of=None, settings=None, **changes):
        card = loading.protocol_card("retrieval", variant, changes)
        settings = {"num_workers": 0, "device": "cpu", "dtype": "float32"} | (settings or {})
        record, path = evaluate(
            of or model(), card, dataset=dataset, settings=Settings(**settings), output=tmp_path / "results"
        )
        return record, pq.read_table(path.with_suffix(".parquet")).to_pydict()

    return run


def scores(record):
    return {(score.metric, score.settings.get("k")): score.value for score in record.scores}


@pytest.mark.parametrize("variant", ["revisitop", "dino", "carp"])
def test_a_hand_worked_benchmark_with_junk_at_each_difficulty(run, dataset, variant):
    record, predictions = run(dataset, variant)
    # Crimson ranks red, rust, amber, violet. Easy: red and violet are junk, amber comes second. Medium: red is junk,
    # amber and violet come second and third. Hard: red and amber are junk, violet comes second.
    crimson = {"easy": 1 / 4, "medium": (1 / 4 + (1 / 2 + 2 / 3) / 2) / 2, "hard": 1 / 4}
    # Grass ranks green first, if it is cropped, and else second. There is nothing hard about it.
    grass = 1.0 if variant == "revisitop" else 1 / 4
    wanted = {
        "easy": [crimson["easy"], grass],
        "medium": [crimson["medium"], grass],
        "hard": [crimson["hard"], math.nan],
    }
    found = scores(record)
    for level, values in wanted.items():
        assert predictions[f"average_precision_{level}"] == pytest.approx(values, nan_ok=True)
        assert found[f"map_{level}", None] == pytest.approx(np.nanmean(values) * 100)
    first = 1.0 if variant == "revisitop" else 0.0
    assert found["mp_easy", 1] == pytest.approx(100 * (0 + first) / 2)
    # Up to the last right image and no further: the second place for crimson, the first or second for grass.
    assert found["mp_easy", 5] == pytest.approx(100 * (1 / 2 + (1.0 if first else 1 / 2)) / 2)
    assert found["mp_medium", 10] == pytest.approx(100 * (2 / 3 + (1.0 if first else 1 / 2)) / 2)
    assert predictions["precision_medium_k5"][0] == pytest.approx(2 / 3)
    assert predictions["key"] == ["jpg/crimson.jpg", "jpg/grass.jpg"]
    assert {name: record.counts[f"queries_{name}"] for name in wanted} == {"easy": 2, "medium": 2, "hard": 1}
    assert (record.bank_split, record.query_split) == ("database", "query")
    cropped = "queries were cropped" if variant == "revisitop" else "queries were not cropped"
    assert any(note.startswith(cropped) for note in record.notes)
    assert any("hard: 1 of 2 queries have no image to be found" in note for note in record.notes)
    assert any("2 queries are few" in note for note in record.notes)


def test_names_and_settings_are_those_of_published_numbers(run, dataset):
    record, _ = run(dataset, pooling="rmac", whitening=dataset, k=[1])
    given = {score.metric: score.settings for score in record.scores if score.metric.startswith("map")}
    settings = {"pooling": "rmac", "resize": 1024, "whitening": dataset}
    assert given == {f"map_{level}": settings for level in landmarks.DIFFICULTIES}
    columns = [
        column
        for table in loading.published()
        for column in table.columns.values()
        if column.protocol == "retrieval"
    ]
    assert len(columns) >= 10
    for column in columns:
        assert column.metric in given
        assert set(column.settings) <= set(settings)
        assert column.split == record.query_split


def a_table(dataset):
    column = {"protocol": "retrieval", "dataset": dataset, "split": "query", "metric": "map_medium"}
    content = {
        "version": 1,
        "summary": "made up",
        "document": "none",
        "table": "none",
        "columns": {"medium": column},
        "rows": [{"model": "colour", "values": {"medium": 50.0}}],
    }
    return PublishedCard.model_validate(content)


@pytest.mark.parametrize("variant", ["revisitop", "carp"])
def test_published_numbers_stand_beside_whether_queries_are_cropped_or_not(
    run, dataset, monkeypatch, variant
):
    monkeypatch.setattr(loading, "published", lambda: [a_table(dataset)])
    record, _ = run(dataset, variant)
    beside = {score.metric: [known.value for known in score.published] for score in record.scores}
    assert {metric for metric, values in beside.items() if values} == {"map_medium"}
    assert beside["map_medium"] == [50.0]


def test_published_numbers_stand_beside_a_copy_elsewhere_if_it_is_whole(run, dataset, monkeypatch):
    monkeypatch.setattr(loading, "published", lambda: [a_table("roxford5k")])
    spelling = f"roxford5k:{dataset.partition(':')[2]}"

    def beside():
        (score,) = (score for score in run(spelling, "carp")[0].scores if score.metric == "map_medium")
        return [known.value for known in score.published]

    assert beside() == []
    small = replace(TABLE["roxford5k"], splits={"database": 8, "query": 2, "query-whole": 2})
    monkeypatch.setitem(TABLE, "roxford5k", small)
    assert beside() == [50.0]


def test_intervals_are_over_queries_with_something_to_find(run, dataset):
    record, _ = run(dataset)
    intervals = {score.metric: (score.low, score.high) for score in record.scores}
    assert intervals["map_easy"] == pytest.approx((25, 100))
    assert intervals["map_hard"] == pytest.approx((25, 25))


def test_the_variants_see_images_at_their_own_sizes(run, dataset, tmp_path):
    def seen(variant, spelling):
        record, _ = run(spelling, variant)
        sizes = {score.settings["resize"] for score in record.scores if score.metric == "map_easy"}
        return sizes, [note for note in record.notes if "no size of its own" in note]

    folder = dataset.partition(":")[2]
    assert seen("dino", f"roxford5k:{folder}") == ({224}, [])
    assert seen("dino", f"rparis6k:{folder}") == ({512}, [])
    assert seen("carp", f"roxford5k:{folder}") == ({512}, [])
    assert seen("revisitop", f"rparis6k:{folder}") == ({1024}, [])
    sizes, notes = seen("dino", dataset)
    assert (sizes, len(notes)) == ({512}, 1)


def test_a_size_is_what_images_are_prepared_at(run, dataset, monkeypatch):
    asked = []
    plain = landmarks.pooled

    def pooled(given, **options):
        asked.append(options["scales"])
        return plain(given, **options)

    monkeypatch.setattr(landmarks, "pooled", pooled)
    folder = dataset.partition(":")[2]
    # Of native size 28, 224 pixels of the card are 28, whatever the image has.
    for name, resize, scales in (("roxford5k", 28, 1), ("rparis6k", 64, 3)):
        record, _ = run(f"{name}:{folder}", "dino", of=model(native_size=28))
        prepared = record.preprocessing
        assert (prepared["resize"], prepared["side"], prepared["interpolation"]) == (
            resize,
            "long",
            "lanczos",
        )
        assert len(asked.pop()) == scales


def test_rankings_do_not_depend_on_the_chunk_and_break_ties_by_row():
    generator = torch.Generator().manual_seed(0)
    database = unit_rows([torch.randn(40, 129, generator=generator).repeat(3, 1)])
    queries = unit_rows([torch.randn(7, 129, generator=generator)])
    numbers = torch.arange(120) * 2
    whole = landmarks.rank(database, queries, numbers)
    for chunk in (1, 3, 100):
        assert np.array_equal(landmarks.rank(database, queries, numbers, chunk=chunk), whole)
    products = queries.double().numpy() @ database.double().numpy().T
    for order, row in zip(whole // 2, products):
        assert sorted(order) == list(range(120))
        assert (np.diff(row[order]) < 1e-12).all()
        # Each image is there three times, forty rows apart.
        assert (order[::3] + 40 == order[1::3]).all()
        assert (order[1::3] + 40 == order[2::3]).all()


def test_scores_are_those_of_walking_down_each_ranking(run, dataset, tmp_path):
    """The evaluation's steps written out as loops, on random images and relations."""
    random = np.random.default_rng(0)
    folder = tmp_path / "random"
    (folder / "jpg").mkdir(parents=True)
    names, queries = [f"i{n}" for n in range(30)], [f"q{n}" for n in range(6)]
    for name in (*names, *queries):
        pixels = random.integers(0, 256, 3).astype(np.uint8)
        image = Image.new(
            "RGB", (int(random.integers(20, 40)), int(random.integers(20, 40))), tuple(pixels.tolist())
        )
        image.save(folder / "jpg" / f"{name}.jpg", format="PNG")
    entries = []
    for _ in queries:
        drawn = random.permutation(30).tolist()
        entries.append({"bbx": [0, 0, 9, 9], "easy": drawn[:4], "hard": drawn[4:9], "junk": drawn[9:15]})
    (folder / "gnd_random.json").write_text(json.dumps({"imlist": names, "qimlist": queries, "gnd": entries}))
    _, predictions = run(f"landmarks:{folder}")

    def descriptor(name):
        # One colour all over: its generalised mean is the colour itself, at any scale.
        values = np.asarray(Image.open(folder / "jpg" / f"{name}.jpg"))[0, 0] / 255
        return np.maximum(values, 1e-6) / np.linalg.norm(np.maximum(values, 1e-6))

    for number, (name, entry) in enumerate(zip(queries, entries)):
        nearest = sorted(range(30), key=lambda row: -descriptor(name) @ descriptor(names[row]))
        for level, right, ignored in (
            ("easy", entry["easy"], entry["junk"] + entry["hard"]),
            ("medium", entry["easy"] + entry["hard"], entry["junk"]),
            ("hard", entry["hard"], entry["junk"] + entry["easy"]),
        ):
            left = [row for row in nearest if row not in ignored]
            places = [place for place, row in enumerate(left) if row in right]
            total = 0.0
            for found, place in enumerate(places):
                before = found / place if place else 1.0
                total += (before + (found + 1) / (place + 1)) / 2
            assert predictions[f"average_precision_{level}"][number] == pytest.approx(total / len(right))
            for k in (1, 5, 10):
                looked_at = min(places[-1] + 1, k)
                share = sum(place < looked_at for place in places) / looked_at
                assert predictions[f"precision_{level}_k{k}"][number] == pytest.approx(share)


def test_whitening_is_learnt_on_a_named_data_set(run, dataset, tmp_path):
    record, whitened = run(dataset, "carp", whitening=dataset)
    assert any("whitened along 3 of 3 axes, learnt on 8 images" in note for note in record.notes)
    assert any("these are the images that are searched" in note for note in record.notes)
    assert "whitening" in record.data
    _, plain = run(dataset, "carp")
    assert whitened["average_precision_medium"] != plain["average_precision_medium"]

    # By hand: colours less their mean, by the inverse of their covariance.
    def colour(name):
        pixels = np.asarray(Image.open(f"{dataset.partition(':')[2]}/jpg/{name}.jpg")) / 255
        values = pixels.mean(axis=(0, 1))
        return values / np.linalg.norm(values)

    database = np.array([colour(name) for name in scene.DATABASE])
    mean = database.mean(axis=0)
    inverse = np.linalg.inv(np.cov(database, rowvar=False))

    def cosine(one, other):
        def product(a, b):
            return (a - mean) @ inverse @ (b - mean)

        return product(one, other) / math.sqrt(product(one, one) * product(other, other))

    crimson = colour("crimson")
    order = sorted(range(8), key=lambda row: -cosine(crimson, database[row]))
    left = [row for row in order if row != 0]
    places = sorted(left.index(row) for row in (2, 7))
    wanted = sum(((n / p if p else 1) + (n + 1) / (p + 1)) / 2 for n, p in enumerate(places)) / 2
    assert whitened["average_precision_medium"][0] == pytest.approx(wanted)


def test_whitening_is_learnt_on_what_else_there_is(run, dataset, tmp_path):
    (tmp_path / "others").symlink_to(loading.Path(dataset.partition(":")[2]) / "jpg")
    record, _ = run(dataset, "carp", whitening=f"folder:{tmp_path / 'others'}")
    assert any("learnt on 10 images of folder:" in note for note in record.notes)
    assert not any("images that are searched" in note for note in record.notes)
    record, _ = run(dataset, "carp", whitening=dataset, whitening_split="query-whole", whitening_components=1)
    assert any("whitened along 1 of 3 axes, learnt on 2 images" in note for note in record.notes)
    assert any("2 images are few for 3 dimensions" in note for note in record.notes)


def test_images_that_are_skipped_count_as_not_found(run, dataset):
    folder = loading.Path(dataset.partition(":")[2])
    (folder / "jpg" / "rust.jpg").unlink()
    (folder / "jpg" / "amber.jpg").write_bytes(b"not an image")
    with pytest.raises(BadImageError, match=r"rust\.jpg is listed in gnd_landmarks\.json, but is not there"):
        run(dataset)
    record, predictions = run(dataset, settings={"skip_bad": True})
    assert any("2 of 8 images of the database were skipped" in note for note in record.notes)
    # Without rust and amber, crimson ranks red and violet: easy finds nothing, hard finds violet at once.
    assert predictions["average_precision_easy"][0] == 0
    assert predictions["average_precision_medium"][0] == pytest.approx(1 / 2)
    assert predictions["average_precision_hard"][0] == pytest.approx(1)


def test_a_query_that_is_skipped_has_no_row(run, dataset):
    (loading.Path(dataset.partition(":")[2]) / "jpg" / "crimson.jpg").unlink()
    record, predictions = run(dataset, settings={"skip_bad": True})
    assert predictions["key"] == ["jpg/grass.jpg"]
    assert predictions["average_precision_easy"] == [1.0]
    assert [score.metric for score in record.scores if score.metric.startswith("map")] == [
        "map_easy",
        "map_medium",
    ]


def test_a_box_outside_its_image_stops_the_run_only_where_queries_are_cropped(run, dataset):
    path = loading.Path(dataset.partition(":")[2]) / "gnd_landmarks.json"
    truth = json.loads(path.read_text())
    truth["gnd"][0]["bbx"] = [40, 0, 50, 10]
    path.write_text(json.dumps(truth))
    with pytest.raises(BadImageError, match="lies outside its 32 x 32 pixels"):
        run(dataset)
    run(dataset, "carp")


def test_what_has_no_landmarks_is_refused(run, dataset, tmp_path):
    with pytest.raises(UsageError, match="say roxford5k, rparis6k, or landmarks:FOLDER"):
        run("digits")
    with pytest.raises(UsageError, match=r"needs a ground truth of landmarks.* one of 10 classes each"):
        run("digits", query_split="test")
    path = loading.Path(dataset.partition(":")[2]) / "gnd_landmarks.json"
    truth = json.loads(path.read_text())
    for entry in truth["gnd"]:
        entry |= {"easy": [], "hard": []}
    path.write_text(json.dumps(truth))
    with pytest.raises(UsageError, match=r"no query of .* has an image to be found"):
        run(dataset)


def test_a_card_says_its_mode():
    assert isinstance(loading.protocol_card("retrieval", "classes"), RetrievalCard)
    for variant in ("revisitop", "dino", "carp"):
        card = loading.protocol_card("retrieval", variant)
        assert isinstance(card, LandmarkRetrievalCard)
        assert card.scales == pytest.approx((1, 1 / 2 ** (1 / 2), 1 / 2), abs=0)
    with pytest.raises(CardError, match="mode"):
        loading.protocol_card("retrieval", "carp", {"mode": "landmark"})
    with pytest.raises(UsageError, match="pooling"):
        loading.protocol_card("retrieval", "classes", {"pooling": "gem"})
