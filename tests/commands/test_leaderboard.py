import csv
import json

import pytest

from carp_eval.results import Score
from tests import hub_server
from tests.report.records import record, saved


@pytest.fixture
def carp(tmp_path, carp_in):
    return carp_in(tmp_path)


def knn(folder, model, value, **changes):
    scores = [
        Score(metric="top1", value=value, low=value - 1, high=value + 1, settings={"k": k}) for k in (10, 20)
    ]
    told = {"data": {"test": "2" * 64}, "weights_sha256": (model.encode().hex() * 32)[:64]}
    return saved(folder, record(*scores, model=model, **told | changes))


def test_results_here_stand_beside_papers_rows_and_in_files(carp, tmp_path):
    knn(
        tmp_path / "runs/one/results",
        "one",
        60.0,
        dataset="imagenet",
        query_dataset="imagenet",
        query_split="val",
    )
    knn(tmp_path / "results", "=two", 55.5, dataset="imagenet", query_dataset="imagenet", query_split="val")
    (tmp_path / "results/broken.json").write_text("{")
    names = ("board.csv", "board.md", "board.html")
    files = [
        part
        for option, name in zip(("--csv", "--markdown", "--html"), names, strict=True)
        for part in (option, name)
    ]
    code, out, told = carp("leaderboard", *files, "--sort", "k 20")
    assert code == 0, told
    assert "60.00 (59.0 to 61.0)" in out
    assert "carp-paper" in out
    assert "broken.json" in told
    for name in names:
        assert (tmp_path / name).stat().st_size > 500
    rows = list(csv.DictReader((tmp_path / "board.csv").open(encoding="utf-8")))
    assert {row["model"] for row in rows} > {"one", "'=two"}
    code, out, _ = carp("leaderboard", "--no-published", "--json")
    content = json.loads(out)
    assert [row["model"] for row in content["rows"]] == ["one", "=two"]
    assert content["rows"][0]["cells"][0] == {
        "column": 0, "value": 60.0, "low": 59.0, "high": 61.0, "another_variant": "",
    }  # fmt: skip


def test_what_does_not_fit_the_terminal_is_told(carp, tmp_path, monkeypatch):
    for number in range(100):
        scores = [Score(metric="top1", value=number / 2 + k, settings={"k": k}) for k in range(1, 30)]
        weights = f"{number:064d}"
        saved(tmp_path / "results", record(*scores, model=f"model-{number}", weights_sha256=weights))
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = carp("leaderboard", "--rows", "20", "--no-published")
    assert code == 0
    assert max(map(len, out.partition(" columns did not fit")[0].splitlines()[:-1])) <= 100
    assert sum("model-" in line for line in out.splitlines()) == 20
    assert "80 more rows" in out
    assert "of 29 columns did not fit" in out
    assert "model-99 " in out.splitlines()[5 - 1] + out.splitlines()[5]


def test_results_are_taken_from_the_hub_without_weights(carp, tmp_path, monkeypatch):
    found = knn(tmp_path / "elsewhere", "theirs", 77.0)
    knn(tmp_path / "mine", "ours", 44.0)
    files = {
        "results/a.json": found.path.read_bytes(),
        "results/a.parquet": found.predictions.read_bytes(),
        "model.safetensors": b"weights",
        "README.md": b"# theirs",
    }
    with hub_server.serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        hub.add("USER/NAME", files)
        hub.add("USER/EMPTY", {"README.md": b"# nothing"})
        code, out, told = carp("leaderboard", "hf:USER/NAME", "mine", "--json")
        assert code == 0, told
        assert [row["model"] for row in json.loads(out)["rows"]][:2] == ["theirs", "ours"]
        assert hub.count("safetensors") == 0
        code, _, told = carp("leaderboard", "hf:USER/EMPTY")
        assert code == 2
        assert "USER/EMPTY holds no result" in told
        code, _, told = carp("leaderboard", "hf:USER/NOBODY")
        assert code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is no result"),
        (["nowhere"], "nowhere has no result"),
        (["there", "--protocol", "linear"], "knn@dino on cifar10"),
        (["there", "--sort", "imagenet"], "top1 (k = 10)"),
    ],
)
def test_what_is_not_there_is_told(carp, tmp_path, arguments, message):
    knn(tmp_path / "there", "a", 50.0)
    code, out, told = carp("leaderboard", *arguments)
    assert code == 2
    assert message in told
    assert not out
