import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carp_eval.data import landmarks, opening
from carp_eval.errors import BadImageError, DataError

MINI = Path(__file__).parents[2] / "../shared/data/landmarks_mini"


def picture(width=12, height=10):
    """Every pixel says where it is: red its column, green its row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns * 10, rows * 10, rows * 0], axis=2).astype(np.uint8)


def make(root, boxes=((2, 3, 7, 9),), names=("a", "b"), pixels=None):
    jpg = root / "jpg"
    jpg.mkdir(parents=True, exist_ok=True)
    queries = [f"q{number}" for number in range(len(boxes))]
    for name in (*names, *queries):
        # PNG under another name: what is decoded is exact.
        Image.fromarray(picture() if pixels is None else pixels).save(jpg / f"{name}.jpg", format="PNG")
    entries = [{"bbx": list(box), "easy": [0], "hard": [1], "junk": []} for box in boxes]
    truth = {"imlist": list(names), "qimlist": queries, "gnd": entries}
    (root / "gnd_made.json").write_text(json.dumps(truth))
    return root


def test_a_split_is_its_list_and_carries_the_ground_truth(tmp_path):
    source = landmarks.read("made", make(tmp_path))
    assert source.splits == ("database", "query", "query-whole")
    database, query, whole = map(source.open, source.splits)
    assert [database.key(number) for number in range(2)] == ["jpg/a.jpg", "jpg/b.jpg"]
    assert [query.key(0), whole.key(0)] == ["jpg/q0.jpg", "jpg/q0.jpg"]
    assert (database.labels.tolist(), database.class_names) == ([-1, -1], ())
    assert database.ground_truth is query.ground_truth
    assert query.ground_truth.queries[0].easy.tolist() == [0]
    assert (query.split, whole.split, query.whole().split) == ("query", "query-whole", "query-whole")
    assert query.whole().manifest_sha256 == whole.manifest_sha256


@pytest.mark.parametrize(
    ("box", "columns", "rows"),
    [
        ((2, 3, 7, 9), (2, 7), (3, 9)),
        # Rounded as Pillow rounds, halves to the even side.
        ((1.6, 2.5, 6.5, 8.4), (2, 6), (2, 8)),
        # What lies outside is left out.
        ((-4, -0.4, 7, 40), (0, 7), (0, 10)),
        ((0, 0, 12, 10), (0, 12), (0, 10)),
        ((11.4, 9, 12, 10), (11, 12), (9, 10)),
    ],
)
def test_a_query_is_cut_to_its_box(tmp_path, box, columns, rows):
    source = landmarks.read("made", make(tmp_path, boxes=(box,)))
    cut = np.asarray(source.open("query").image(0))
    assert np.array_equal(cut, picture()[rows[0] : rows[1], columns[0] : columns[1]])
    for split in ("query-whole", "database"):
        assert np.array_equal(np.asarray(source.open(split).image(0)), picture())


def test_a_cut_query_is_shrunk_as_its_whole_photograph_would_be(tmp_path):
    pixels = np.full((60, 120, 3), 40, dtype=np.uint8)
    pixels[10:50, 20:50] = 200
    query = landmarks.read("made", make(tmp_path, boxes=((20, 10, 50, 50),), pixels=pixels)).open("query")
    assert query.image(0).size == (30, 40)
    shrunk = query.of_photographs(30)
    # A quarter of each side, as the photograph's 120 pixels become 30.
    assert shrunk.image(0).size in {(7, 10), (8, 10)}
    assert (np.asarray(shrunk.image(0)) == 200).all()
    assert query.of_photographs(120).image(0).size == (30, 40)
    assert len({query.manifest_sha256, shrunk.manifest_sha256, query.of_photographs(20).manifest_sha256}) == 3


@pytest.mark.parametrize(
    "box", [(12, 0, 20, 5), (-9, 0, 0, 5), (3, 3, 3, 9), (7, 3, 2, 9), (5.4, 0, 5.45, 9)]
)
def test_a_box_with_nothing_of_the_image_in_it_is_an_error(tmp_path, box):
    images = landmarks.read("made", make(tmp_path, boxes=(box,))).open("query")
    with pytest.raises(
        BadImageError, match=r"box .* of the query jpg/q0.jpg lies outside its 12 x 10 pixels"
    ):
        images.image(0)
    assert images.whole().image(0).size == (12, 10)


def test_an_image_that_is_not_there_is_named_when_it_is_read(tmp_path):
    make(tmp_path)
    (tmp_path / "jpg" / "b.jpg").unlink()
    images = landmarks.read("made", tmp_path).open("database")
    assert images.image(0).size == (12, 10)
    assert list(images.missing()) == ["jpg/b.jpg"]
    with pytest.raises(BadImageError, match=r"b\.jpg is listed in gnd_made\.json, but is not there"):
        images.image(1)


def test_manifests_tell_splits_boxes_pixels_and_relations(tmp_path):
    def manifests(folder):
        source = landmarks.read("made", folder)
        return [source.open(split).manifest_sha256 for split in source.splits]

    first = manifests(make(tmp_path / "1"))
    assert len(set(first)) == 3
    assert first == manifests(make(tmp_path / "2"))
    moved = manifests(make(tmp_path / "3", boxes=((2, 3, 7, 8),)))
    assert moved[0] == first[0]
    assert moved[1] != first[1]
    darker = manifests(make(tmp_path / "4", pixels=picture() // 2))
    assert all(a != b for a, b in zip(darker, first))
    truth = json.loads((tmp_path / "2" / "gnd_made.json").read_text())
    truth["gnd"][0] |= {"easy": [], "junk": [0]}
    (tmp_path / "2" / "gnd_made.json").write_text(json.dumps(truth))
    judged = manifests(tmp_path / "2")
    assert judged[0] == first[0]
    assert judged[1] != first[1]


def test_layouts_are_told_apart(tmp_path):
    assert landmarks.read("made", tmp_path) is None
    make(tmp_path)
    (tmp_path / "jpg").rename(tmp_path / "images")
    with pytest.raises(DataError, match="no folder jpg"):
        landmarks.read("made", tmp_path)


def test_of_json_and_pickle_the_one_that_needs_no_unpickling_is_read(tmp_path):
    make(tmp_path)
    content = json.loads((tmp_path / "gnd_made.json").read_text())
    (tmp_path / "gnd_made.pkl").write_bytes(b"not a pickle")
    assert landmarks.read("made", tmp_path).ground_truth.path.suffix == ".json"
    (tmp_path / "gnd_made.json").unlink()
    (tmp_path / "gnd_made.pkl").write_bytes(pickle.dumps(content))
    assert len(landmarks.read("made", tmp_path).open("database")) == 2
    (tmp_path / "gnd_other.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match="several ground truths: gnd_made, gnd_other"):
        landmarks.read("made", tmp_path)
    named = tmp_path.rename(tmp_path.with_name("other"))
    assert landmarks.read("made", named).ground_truth.path.name == "gnd_other.pkl"


def test_it_is_spelled_by_name_or_by_layout(tmp_path):
    make(tmp_path / "roxford5k")
    for spelling in (f"landmarks:{tmp_path / 'roxford5k'}", f"rparis6k:{tmp_path / 'roxford5k'}"):
        images = opening.open_images(spelling, "query")
        assert (images.name, len(images)) == (spelling, 1)
    with pytest.raises(DataError, match=r"2 images .* in database, but roxford5k has 4993"):
        opening.open_images("roxford5k", "database", data_root=tmp_path)
    with pytest.raises(DataError, match="no split 'train', only database, query, query-whole"):
        opening.open_images(f"landmarks:{tmp_path / 'roxford5k'}", "train")


@pytest.mark.skipif(not MINI.is_dir(), reason="the real images are not on this machine")
def test_a_real_copy_is_read_from_pickle_and_json_alike(tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "jpg").symlink_to((MINI / "jpg").resolve())
    (copy / "gnd_landmarks_mini.pkl").symlink_to((MINI / "gnd_landmarks_mini.pkl").resolve())
    by_json, by_pickle = (landmarks.read("mini", folder) for folder in (MINI, copy))
    assert (by_json.ground_truth.path.suffix, by_pickle.ground_truth.path.suffix) == (".json", ".pkl")
    assert by_json.ground_truth.sha256 == by_pickle.ground_truth.sha256
    assert (len(by_json.open("database")), len(by_json.open("query"))) == (332, 16)
    assert list(by_json.open("database").missing()) == []
