import base64
import hashlib
import io
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from carp_eval.cards import loading
from carp_eval.checkpoints.opening import open_model
from carp_eval.evaluation.running import evaluate
from carp_eval.report import found as founds
from carp_eval.report import writing
from carp_eval.report.found import Found
from tests.report.records import written


@pytest.fixture(scope="module")
def judged(tmp_path_factory, digit_folder):
    """Raw pixels of some digits, by k-NN, on a surface, by k-means and by retrieval."""
    root = tmp_path_factory.mktemp("judged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARP_HOME", str(root / "home"))
        patch.chdir(root)
        model = open_model("pixels:digits")
        for kind, variant, changes in (
            ("knn", "dino", {"k": [1, 5]}),
            ("knn", "dino", {"k": [1, 5], "temperatures": [0.07, 0.5]}),
            ("cluster", "carp", {"restarts": 1}),
            ("retrieval", "classes", {"k": [1]}),
        ):
            card = loading.protocol_card(kind, variant, changes)
            evaluate(model, card, dataset=f"folder:{digit_folder}", leaks="ignore")
    return root


@pytest.fixture(scope="module")
def page(judged):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARP_HOME", str(judged / "home"))
        patch.chdir(judged)
        # UMAP's plane has no oracle: it is looked at in tests/report/test_plane.py.
        return written(founds.results(), judged / "report.html", umap=False)


def test_the_numbers_of_the_page_are_those_of_the_records(page, judged):
    told = {}
    for path in (judged / "results").glob("*.json"):
        content = json.loads(path.read_text())
        for score in content["scores"]:
            settings = ", ".join(f"{name} = {value:g}" for name, value in score["settings"].items())
            name = f"{score['metric']} ({settings})" if settings else score["metric"]
            told[f"{content['protocol']}@{content['variant']}", name] = score
    surface = {key: score for key, score in told.items() if "temperature" in key[1]}
    rows = page.rows("Scores")
    assert {(row[1], row[3]) for row in rows} == told.keys() - surface.keys()
    for row in rows:
        score = told[row[1], row[3]]
        assert row[4] == f"{score['value']:.2f} %"
        assert row[5].endswith(f"{score['low']:.2f} to {score['high']:.2f}")
    cells = [e["text"] for e in page.all("rect", class_="heat") if e["text"].startswith("k = ")]
    assert len(cells) == 4
    for score in surface.values():
        if score["metric"] == "top1":
            k, temperature = score["settings"]["k"], score["settings"]["temperature"]
            assert any(
                cell.startswith(f"k = {k}, T = {temperature:g}: {score['value']:.2f}") for cell in cells
            )


def test_nothing_of_a_page_is_elsewhere(page):
    for element in page.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            value = element["attributes"].get(name)
            assert value is None or value.startswith(("#", "data:image/")), (element["tag"], value)
        assert element["tag"] not in ("link", "base", "iframe", "object", "embed", "img", "form action")
        assert not any(name.startswith("on") for name in element["attributes"])
        assert "style" not in element["attributes"], "the policy forbids it"
    (style,) = page.all("style")
    assert not re.search(r"url\(|@import", style["text"])
    script = page.all("script")[-1]["text"]
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(|fetch|XMLHttp|https?:", script
    )


def test_the_policy_allows_this_style_and_this_script_alone(page):
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    rules = dict(rule.strip().split(" ", 1) for rule in policy["attributes"]["content"].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    (style,) = page.all("style")
    scripts = [element for element in page.all("script") if not element["attributes"]]
    for name, element in (("style-src", style), ("script-src", *scripts)):
        digest = base64.b64encode(hashlib.sha256(element["text"].encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"


def test_every_picture_decodes_and_is_there_once(page):
    addresses = [element["attributes"]["href"] for element in page.all("image")]
    assert len(addresses) == len(set(addresses)) > 50
    for element in page.all("image"):
        with Image.open(
            io.BytesIO(base64.b64decode(element["attributes"]["href"].partition(",")[2]))
        ) as picture:
            assert f"{picture.width} {picture.height}" == "28 28"
    ids = {element["attributes"]["id"] for element in page.all("symbol")}
    used = {element["attributes"]["href"][1:] for element in page.all("use")}
    assert used == ids
    assert len(page.all("use")) > len(ids)


def test_neighbours_are_those_that_a_plain_search_finds(page, digit_folder):
    def pixels(path):
        values = (np.asarray(Image.open(path), dtype=np.float64) / 255 - 0.12) / 0.264
        return values.ravel() / np.linalg.norm(values)

    bank = sorted((digit_folder / "train").rglob("*.png"))
    rows = np.stack([pixels(path) for path in bank])
    shown = page.rows("pixels:digits on folder:")
    assert len(shown) == 16 + 10
    labels = [
        e["attributes"]["aria-label"] for e in page.all("svg") if e["attributes"].get("class") == "thumb"
    ]
    neighbours = [label for label in labels if label.startswith("neighbour ")]
    queries = [re.search(r"\S+\.png", row[0]).group() for row in shown]
    assert len(neighbours) == 8 * len(queries)
    for place, key in enumerate(queries):
        similarities = rows @ pixels(digit_folder / "test" / key)
        nearest = np.argsort(-similarities)[:8]
        for rank, row in enumerate(nearest):
            own = bank[row].relative_to(digit_folder / "train")
            right = "right" if own.parts[0] == key.partition("/")[0] else "wrong"
            told = neighbours[place * 8 + rank]
            assert told.startswith(
                f"neighbour {rank + 1}, {right}: {own.parts[0]}, {own.as_posix()}, similarity "
            )
            assert float(told.rpartition(" ")[2]) == pytest.approx(similarities[row], abs=2e-3)


def test_a_map_shows_every_image_where_the_two_main_directions_put_it(page, digit_folder):
    first = page.data()[0]["data"]
    assert len(first["x"]) == len(first["y"]) == len(first["keys"]) == 40
    assert sorted(first["pictured"]) == list(range(40))
    assert first["classes"] == ["0", "1", "2", "3"]
    rows = np.stack(
        [
            np.asarray(Image.open(digit_folder / "test" / key), dtype=np.float64).ravel()
            for key in first["keys"]
        ]
    )
    rows = (rows / 255 - 0.12) / 0.264
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    left, sizes, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    for axis, values in enumerate((first["x"], first["y"])):
        expected = left[:, axis] * sizes[axis]
        assert abs(np.corrcoef(values, expected)[0, 1]) > 0.9999
    with Image.open(io.BytesIO(base64.b64decode(page.data()[0]["sheets"][0].partition(",")[2]))) as sheet:
        assert sheet.size == (32 * first["columns"], 64)


def test_each_part_can_be_reached_and_each_table_has_a_caption(page):
    links = [e["attributes"]["href"][1:] for e in page.all("a")]
    ids = [e["attributes"]["id"] for e in page.elements if "id" in e["attributes"]]
    assert len(ids) == len(set(ids))
    assert set(links) <= set(ids)
    captions = page.all("caption")
    assert len(captions) == len(page.all("table")) > 5
    for element in page.all("svg"):
        named = element["attributes"].get("aria-label") or element["attributes"].get("aria-hidden") == "true"
        assert named, element
    assert [e["text"] for e in page.all("h2")] == [
        "Scores", "Surfaces", "Confusions", "Neighbours", "Clusters and prototypes", "Retrieval and copies", "Map",
        "Origins",
    ]  # fmt: skip
    assert "✓" in page.all("body")[0]["text"]
    assert "✗" in page.all("body")[0]["text"]


def test_clusters_and_origins_tell_what_the_records_tell(page, judged):
    (path,) = (judged / "results").glob("cluster*.json")
    content = json.loads(path.read_text())
    text = page.all("body")[0]["text"]
    for name in ("weights_sha256", "card_sha256", "machine"):
        assert content[name] in text
    for sha256 in (*content["data"].values(), *content["banks"].values()):
        assert sha256 in text
    shown = page.rows("Clusters of")
    assert sum(int(re.match(r"cluster \d(\d+) images", row[0]).group(1)) for row in shown) == 40


def test_what_is_not_at_hand_is_left_out_and_told(judged, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path))
    monkeypatch.chdir(judged)
    page = written(founds.results(), tmp_path / "r.html")
    assert [e["text"] for e in page.all("h2")] == [
        "Scores", "Surfaces", "Confusions", "Clusters and prototypes", "Origins",
    ]  # fmt: skip
    assert "its bank: not on this machine" in page.all("header")[0]["text"]


def test_too_many_pictures_are_left_out_by_importance(judged, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(judged / "home"))
    monkeypatch.chdir(judged)
    whole = written(founds.results(), tmp_path / "whole.html", umap=False)
    size = (tmp_path / "whole.html").stat().st_size
    pictures = sum(len(element["attributes"]["href"]) for element in whole.all("image"))
    monkeypatch.setattr(writing, "LIMIT", size - pictures // 4)
    monkeypatch.setattr(writing, "MARGIN", pictures // 4)
    less = written(founds.results(), tmp_path / "less.html", umap=False)
    kept = {e["attributes"]["id"] for e in less.all("symbol")}
    assert 0 < len(kept) < len(whole.all("symbol"))
    assert re.search(
        r"\d+ of \d+ pictures, the least important, were left out", less.all("header")[0]["text"]
    )
    # Queries are the most important, pictures of clusters the least.
    used = [e["attributes"]["href"][1:] in kept for e in less.all("use")]
    assert all(used)
    assert less.all("span", class_="thumb none")
    body = less.all("body")[0]["text"]
    assert body.index("no picture") > body.index("Neighbours")


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"index": [10**6] * 40}, "number images that test does not have"),
        ({"index": [-1] * 40}, "number images that test does not have"),
        ({"label": ["one"] * 40}, "have label of a kind that no evaluation writes"),
        ({"predicted_k1": [0.5] * 40}, "have predicted_k1 of a kind that no evaluation writes"),
        ({"right_k1": ["yes"] * 40}, "have right_k1 of a kind that no evaluation writes"),
        ({"decision_cat": ["high"] * 40}, "have decision_cat of a kind that no evaluation writes"),
        (None, "cannot be read"),
    ],
)
def test_predictions_of_another_kind_are_told_of_and_left_out(judged, tmp_path, monkeypatch, columns, told):
    monkeypatch.setenv("CARP_HOME", str(judged / "home"))
    monkeypatch.chdir(judged)
    found = next(
        each for each in founds.results() if each.result.protocol == "knn" and len(each.result.scores) > 6
    )
    path = tmp_path / found.path.name
    path.write_bytes(found.path.read_bytes())
    table = pq.read_table(found.predictions)
    if columns is None:
        path.with_suffix(".parquet").write_bytes(b"PAR1")
    else:
        changed = {name: table.column(name) for name in table.column_names} | columns
        pq.write_table(pa.table(changed), path.with_suffix(".parquet"))
    page = written([Found(path, found.result)], tmp_path / "r.html", umap=False)
    assert told in page.all("header")[0]["text"]
    assert "Origins" in [e["text"] for e in page.all("h2")]
