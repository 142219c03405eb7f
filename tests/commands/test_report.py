"""`carp report` on a small run: every part of the page, held against the run's own files."""

import json
import re

import pyarrow.parquet as pq
import pytest

from tests.recipes import TINY
from tests.report.records import Page, record, saved


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture
def carp(home, carp_in):
    return carp_in(home)


@pytest.fixture
def run(carp, home, digit_folder):
    if not (home / "runs").exists():
        changes = TINY | {"schedule.epochs": "1", "schedule.knn_epochs": "1"}
        settings = [f"--set={key}={value}" for key, value in changes.items()]
        assert carp("train", "-d", f"folder:{digit_folder}", "--device", "cpu", *settings)[0] == 0
        card = home / "few.toml"
        card.write_text(
            'extends = "copydays@copies"\nversion = 1\nvariant = "few"\nblocks = ["strong"]\n'
            "num_originals = 10\nnum_backgrounds = 5\n"
        )
        for words in (["knn", "--k", "5"], ["copydays", "--variant", card]):
            code, _, told = carp("eval", *words, "--device", "cpu", "--no-leak-check")
            assert code == 0, told
        assert carp("prototypes", "--device", "cpu")[0] == 0
    (folder,) = (home / "runs").iterdir()
    return folder


@pytest.fixture
def page(carp, run, home):
    if not (home / "report.html").exists():
        code, out, told = carp("report")
        assert code == 0, told
        assert "wrote report.html" in out
    return Page((home / "report.html").read_text(encoding="utf-8"))


def test_a_page_has_every_part_that_there_is_something_for(page):
    assert [e["text"] for e in page.all("h2")] == [
        "Scores", "Training", "Confusions", "Neighbours", "Clusters and prototypes", "Retrieval and copies", "Map",
        "Origins",
    ]  # fmt: skip


def test_curves_tell_what_the_log_tells(page, run):
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    rows = {row[2]: row for row in page.rows("loss, by run")}
    assert rows["loss"][3:] == [f"{losses[0]:.4g}", f"{losses[-1]:.4g}"]
    rank = next(entry["effective_rank"] for entry in entries if "effective_rank" in entry)
    assert page.rows("sign of collapse: effective rank")[0][4] == f"{rank:.4g}"
    (teacher,) = [row for row in page.rows("20-NN top-1 (%), by run") if row[2] == "teacher"]
    assert teacher[4] == f"{next(entry['knn_teacher'] for entry in entries if 'knn_teacher' in entry):.4g}"


def test_copies_are_held_against_their_originals(page, run):
    (path,) = (run / "results").glob("copydays*.parquet")
    rows = pq.read_table(path).to_pylist()
    at_once = sum(row["nearer"] == 0 for row in rows)
    text = page.all("main")[0]["text"]
    assert f"{at_once} of {len(rows)} find their original before all else" in text
    worst = max(row["nearer"] for row in rows)
    shown = [
        e["text"]
        for e in page.all("small")
        if "other images are nearer" in e["text"] or "found at once" in e["text"]
    ]
    assert len(shown) == len(rows) == 10
    assert (
        shown[0] == "found at once" if not worst else shown[0].startswith(f"{worst} other images are nearer")
    )
    labels = [e["attributes"].get("aria-label", "") for e in page.all("svg")]
    assert sum(label.startswith("a copy of ") for label in labels) == 10


def test_prototypes_are_those_that_the_command_tells(page, carp):
    code, out, told = carp("prototypes", "--json", "--device", "cpu")
    assert code == 0, told
    use = json.loads(out)["use"]
    text = page.all("main")[0]["text"]
    assert f"{use['images']} images of train on {use['used']} of {use['prototypes']} prototypes" in text


def test_the_origin_of_a_number_is_the_command_that_makes_it_again(page, run):
    codes = [e["text"] for e in page.all("code")]
    assert all(code.startswith("carp eval ") for code in codes)
    assert f"carp eval knn --k 5 --device cpu --no-leak-check -m runs/{run.name}" in codes


def test_a_run_without_a_result_is_a_page_of_its_curves(carp, run, home, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "log.jsonl").write_text((run / "log.jsonl").read_text())
    code, _, told = carp("report", "-m", tmp_path / "bare", "-o", "bare.html")
    assert code == 0, told
    bare = Page((home / "bare.html").read_text(encoding="utf-8"))
    assert [e["text"] for e in bare.all("h2")] == ["Training"]


def test_models_can_be_named(carp, run, home, tmp_path):
    for name in ("this one", "that one"):
        saved(tmp_path / name, record(model=name), key=[])
    code, _, told = carp("report", "-m", tmp_path / "this one", "-o", "one.html")
    assert code == 0, told
    one = Page((home / "one.html").read_text(encoding="utf-8"))
    assert [row[0] for row in one.rows("Scores")] == ["this one"]


def test_a_damaged_record_is_told_of(carp, run, home, tmp_path):
    good = saved(tmp_path / "results", record(), key=[])
    (tmp_path / "results" / "bad.json").write_text("{")
    code, _, told = carp("report", "-m", tmp_path, "-o", "bad.html")
    assert code == 0, told
    assert good.path.is_file()
    assert re.search(r"not readable: .*bad\.json", told)


def test_what_cannot_be_is_refused(carp, home, tmp_path, monkeypatch):
    assert carp("report", "-o", "report.pdf")[0] == 2
    code, _, told = carp("report", "-m", "nobody", "-o", "n.html")
    assert code == 2
    assert "nobody has no result" in told
    monkeypatch.chdir(tmp_path)
    code, _, told = carp("report", "-o", "none.html")
    assert code == 2
    assert "nothing to report" in told
    assert not (tmp_path / "none.html").exists()
