import copy
import json
import pickle

import numpy as np
import pytest

from carp_eval.data import ground_truth
from carp_eval.errors import DataError

CONTENT = {
    "imlist": ["a", "b", "deep/c", "größe"],
    "qimlist": ["q", "r"],
    "gnd": [
        {"bbx": [1.5, 2, 30, 40.25], "easy": [0], "hard": [3, 2], "junk": [1]},
        {"bbx": [0, 0, 8, 8], "easy": [], "hard": [1], "junk": []},
    ],
}


def changed(**changes):
    return copy.deepcopy(CONTENT) | changes


def with_entry(**changes):
    content = copy.deepcopy(CONTENT)
    content["gnd"][0] |= changes
    return content


def as_json(folder, content):
    path = folder / "gnd_x.json"
    path.write_text(json.dumps(content))
    return path


def as_pickle(folder, content):
    path = folder / "gnd_x.pkl"
    path.write_bytes(pickle.dumps(content, 2))
    return path


def check(truth):
    assert truth.database == ("a", "b", "deep/c", "größe")
    first, second = truth.queries
    assert (first.name, second.name) == ("q", "r")
    assert tuple(first.box) == (1.5, 2, 30, 40.25)
    assert [values.tolist() for values in (first.easy, first.hard, first.junk)] == [[0], [3, 2], [1]]
    assert [values.tolist() for values in (second.easy, second.hard, second.junk)] == [[], [1], []]
    assert first.easy.dtype == second.easy.dtype == np.int64


def test_json_and_pickle_with_lists_or_arrays_say_the_same(tmp_path):
    arrays = copy.deepcopy(CONTENT)
    for entry in arrays["gnd"]:
        for name in ("easy", "hard", "junk"):
            entry[name] = np.array(entry[name], dtype=np.int32)
        entry["bbx"] = np.array(entry["bbx"])
    boxes = with_entry(bbx=tuple(np.float64(side) for side in CONTENT["gnd"][0]["bbx"]))
    found = [
        ground_truth.read(as_json(tmp_path, CONTENT)),
        *(ground_truth.read(as_pickle(tmp_path, content)) for content in (CONTENT, arrays, boxes)),
    ]
    for truth in found:
        check(truth)
    assert len({truth.sha256 for truth in found}) == 1


def test_the_hash_tells_all_that_is_said(tmp_path):
    variants = [
        CONTENT,
        changed(imlist=["a", "b", "c", "größe"]),
        changed(qimlist=["q", "s"]),
        with_entry(bbx=[1.5, 2, 30, 40]),
        with_entry(easy=[0, 1], junk=[]),
        with_entry(easy=[], junk=[0, 1]),
        with_entry(hard=[2, 3]),
    ]
    assert len({ground_truth.read(as_json(tmp_path, content)).sha256 for content in variants}) == len(
        variants
    )


@pytest.mark.parametrize("write", [as_json, as_pickle])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "it is a list"),
        ({"imlist": ["a"]}, "it has no qimlist, gnd, only imlist"),
        (changed(imlist=[]), "imlist is empty"),
        (changed(imlist="abcd"), "imlist is a str"),
        (changed(imlist=["a", "b", "a", "d"]), "imlist has a twice"),
        (changed(imlist=["a", "../b", "c", "d"]), r"imlist has '../b'"),
        (changed(imlist=["a", "/etc/passwd", "c", "d"]), "imlist has '/etc/passwd'"),
        (changed(imlist=["a", "b\0", "c", "d"]), "imlist has"),
        (changed(imlist=["a", "b\\c", "c", "d"]), "imlist has"),
        (changed(imlist=["a", "b", "c", ""]), "imlist has ''"),
        (changed(qimlist=["q", 3]), "qimlist has 3"),
        (changed(qimlist=["q"]), "1 queries in qimlist and 2 entries in gnd"),
        (changed(gnd={"q": 1}), "gnd is a dict"),
        (changed(gnd=[1, 2]), "the entry of q is a int"),
        (
            changed(gnd=[{"ok": [0], "junk": [1], "bbx": [0, 0, 1, 1]}] * 2),
            "has no easy, hard, only bbx, junk, ok",
        ),
        (with_entry(bbx=[1, 2, 3]), "box of q is four numbers"),
        (with_entry(bbx=[1, 2, 3, "4"]), "box of q is four numbers"),
        (with_entry(bbx=[1, 2, 3, float("nan")]), "box of q is four numbers"),
        (with_entry(bbx=[1, 2, 3, 10**60]), "box of q is four numbers"),
        (with_entry(easy=[4]), r"easy in the entry of q has 4; numbers of images, from 0 to 3"),
        (with_entry(easy=[-1]), "has -1"),
        (with_entry(easy=[0.0]), "has 0.0"),
        (with_entry(easy=[[[[[0]]]]]), r"has \[\[\[\[0\]\]\]\]"),
        (with_entry(easy=[True]), "has True"),
        (with_entry(easy=None), "easy in the entry of q is a NoneType"),
        (with_entry(easy=[0, 1]), "has an image twice"),
        (changed(imlist=["q", "b", "c", "d"]), "the query q is an image of the database too"),
    ],
)
def test_what_is_broken_is_named(tmp_path, write, content, message):
    with pytest.raises(DataError, match=message) as caught:
        ground_truth.read(write(tmp_path, content))
    assert "gnd_x" in str(caught.value)


def test_a_query_that_the_database_has_as_junk_finds_nothing_of_itself(tmp_path):
    content = changed(imlist=["a", "q", "c", "d"])
    assert ground_truth.read(as_json(tmp_path, content)).queries[0].junk.tolist() == [1]


def test_json_that_is_none_or_nested_without_end_is_refused(tmp_path):
    path = tmp_path / "gnd_x.json"
    for content in ("{", "[" * 100_000, "\xff"):
        path.write_bytes(content.encode("latin1"))
        with pytest.raises(DataError, match="not valid JSON"):
            ground_truth.read(path)
    with pytest.raises(DataError, match="cannot read"):
        ground_truth.read(tmp_path / "gnd_y.json")


def test_one_list_that_stands_in_many_places_is_not_spun_out_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(ground_truth, "MOST_NUMBERS", 1000)
    shared = {"bbx": [0, 0, 1, 1], "easy": list(range(100)), "hard": [], "junk": []}
    content = {
        "imlist": [f"i{n}" for n in range(100)],
        "qimlist": [f"q{n}" for n in range(50)],
        "gnd": [shared] * 50,
    }
    path = as_pickle(tmp_path, content)
    assert path.stat().st_size < 5000
    with pytest.raises(DataError, match="longer than 1,000 numbers"):
        ground_truth.read(path)


def test_names_that_no_file_system_takes_are_refused(tmp_path):
    path = tmp_path / "gnd_x.json"
    path.write_text(json.dumps(changed(imlist=["a", "\ud800", "c", "d"])))
    with pytest.raises(DataError, match="imlist has"):
        ground_truth.read(path)
