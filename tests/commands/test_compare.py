import json

import numpy as np
import pytest

from carp_eval.results import Score
from tests.report.records import record, saved

LABELS = np.repeat(np.arange(3), 20)
DATA = {"train": "1" * 64, "test": "2" * 64}


@pytest.fixture
def carp(tmp_path, carp_in):
    return carp_in(tmp_path)


def knn(folder, model, wrong, **changes):
    """The result of a model that errs on the images of these numbers."""
    predicted = LABELS.copy()
    predicted[list(wrong)] = (LABELS[list(wrong)] + 1) % 3
    score = Score(metric="top1", value=float((predicted == LABELS).mean() * 100), settings={"k": 20})
    columns = {"index": np.arange(60), "key": [f"{model}-free-{n}" for n in range(60)], "label": LABELS}
    columns["key"] = [f"image-{n}" for n in range(60)]
    result = record(score, model=model, **{"data": DATA} | changes)
    return saved(folder, result, **columns, predicted_k20=predicted)


def test_two_models_are_compared_in_the_terminal_as_json_and_on_a_page(carp, tmp_path):
    knn(tmp_path / "runs/a/results", "a", range(12))
    second = knn(tmp_path / "runs/b/results", "b", (0, 1, 59))
    code, out, told = carp("compare", "runs/a", str(second.path), "--to", "page.html")
    assert code == 0, told
    assert "80.00" in out
    assert "95.00" in out
    assert "+15.00" in out
    # 10 and 1 of 11: 2 (1 + 11) / 2048.
    assert "0.0117" in out
    assert "only A is right on 1: image-59" in out
    assert "<html" in (tmp_path / "page.html").read_text(encoding="utf-8")
    code, out, _ = carp("compare", "a", "b", "--json")
    (content,) = json.loads(out)["comparisons"]
    assert content["scores"][0]["outcomes"] == {"both": 47, "only_first": 1, "only_second": 10, "neither": 2}
    assert [each["key"] for each in content["first_better"]] == ["image-59"]
    assert len(content["second_better"]) == 10
    assert content["classes"][-1]["gain"] == pytest.approx(50.0)


def test_what_cannot_be_compared_is_refused_with_what_differs(carp, tmp_path):
    first = knn(tmp_path / "one", "a", range(5))
    second = knn(tmp_path / "two", "b", range(3), data=DATA | {"test": "9" * 64})
    for names in (("a", "b"), ("one", "two"), (str(first.path), str(second.path))):
        arguments = [tmp_path / name if "/" not in name and len(name) > 1 else name for name in names]
        if names == ("a", "b"):
            continue
        code, out, told = carp("compare", *arguments)
        assert code == 2
        assert "scored images: cifar10 test, 222222222222 and cifar10 test, 999999999999" in told
        assert "carp eval knn" in told
        assert not out


def test_what_fits_is_compared_and_the_rest_told(carp, tmp_path):
    for name in ("a", "b"):
        knn(tmp_path / name, name, range(4))
        knn(tmp_path / name, name, range(6), variant="swav", card={"temperature": name})
    code, out, told = carp("compare", "a", "b")
    assert code == 0, told
    assert "knn@dino" in out
    assert "not compared: knn@swav" in told
    assert "temperature: a and b" in told
    code, out, told = carp("compare", "a", "b", "--protocol", "knn@swav")
    assert code == 2
    code, out, told = carp("compare", "a", "b", "--protocol", "linear")
    assert code == 2
    assert "knn@dino on cifar10" in told


def test_names_are_printed_as_they_are(carp, tmp_path):
    hostile = "[bold]x[/nothing]\x1b[31m"
    knn(tmp_path / "a", hostile, range(4), query_dataset="[red]", dataset="[red]")
    knn(tmp_path / "b", "b", range(6), query_dataset="[red]", dataset="[red]")
    code, out, told = carp("compare", "a", "b")
    assert code == 0, told
    assert "[bold]x[/nothing]" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "nobody"], "nobody has no result"),
        (["a", "a"], "twice"),
        (["a", "b", "--to", "page.txt"], "ending in .html"),
        (["a", "b", "--score", "top1 (k = 2)"], "top1 (k = 20)"),
    ],
)
def test_what_cannot_be_is_told(carp, tmp_path, arguments, message):
    knn(tmp_path / "a", "a", range(4))
    knn(tmp_path / "b", "b", range(6))
    code, _, told = carp("compare", *arguments)
    assert code == 2
    assert message in told
