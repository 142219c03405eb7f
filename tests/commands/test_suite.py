"""`carp eval suite`, and the options of queries, leaks and surfaces, as a user types them."""

import json
import sys

import pytest

from carp_eval.commands.app import main
from tests.recipes import TINY

SUITE = """
version = 1
summary = "small"

[[entries]]
kind = "knn"
variant = "dino"
changes = { k = [5] }
shown = [{ metric = "top1" }]

[[entries]]
kind = "cluster"
variant = "carp"
changes = { restarts = 1 }
shown = [{ metric = "nmi" }]
"""
BROKEN = """
[[entries]]
kind = "knn"
variant = "dino"
changes = { k = [5000] }
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("suites")


@pytest.fixture
def carp(home, digit_folder, monkeypatch, capsys):
    monkeypatch.chdir(home)
    monkeypatch.setenv("CARP_HOME", str(home / "home"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["carp", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        told = capsys.readouterr()
        return stopped.value.code or 0, told.out, told.err

    if not (home / "runs").exists():
        changes = [f"--set={key}={value}" for key, value in (TINY | {"schedule.keep_epochs": "1"}).items()]
        code, _, told = run("train", "-d", f"folder:{digit_folder}", "--device", "cpu", *changes)
        assert code == 0, told
        (home / "good.toml").write_text(SUITE)
        (home / "broken.toml").write_text(SUITE + BROKEN)
    return run


def test_a_suite_ends_in_one_table_and_is_not_run_twice(carp, home):
    code, out, told = carp("eval", "suite", "good.toml")
    assert code == 0, told
    assert "top1" in out
    assert "nmi" in out
    assert out.count("done") == 2
    (run,) = (home / "runs").iterdir()
    (summary,) = (run / "results" / "suites").iterdir()
    assert [row["state"] for row in json.loads(summary.read_text())["rows"]] == ["done", "done"]
    code, out, told = carp("eval", "suite", "good.toml")
    assert code == 0
    assert out.count("done before") == 2
    assert told.count("done before") == 2
    assert len(list((run / "results").glob("*.json"))) == 2


def test_a_failed_entry_is_told_and_ends_with_one(carp):
    code, out, told = carp("eval", "suite", "broken.toml", "--json")
    assert code == 1, told
    rows = json.loads(out)["rows"]
    assert [row["state"] for row in rows][2] == "failed"
    assert "5000" in rows[2]["reason"]
    code, out, told = carp("eval", "suite", "broken.toml")
    assert code == 1
    assert "failed: knn@dino" in out


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("-d", "cifar11", "Did you mean cifar10"),
        ("-d", "folder:nowhere", "nowhere"),
        ("--device", "cuba", "cuba"),
    ],
)
def test_a_mistake_in_a_shared_option_is_told_once_before_anything_runs(carp, home, option, value, expected):
    before = sorted(home.rglob("*.json"))
    code, out, told = carp("eval", "suite", "good.toml", option, value)
    assert code == 2
    assert out == ""
    assert told.count("error:") == 1
    assert expected in told
    assert "knn@dino" not in told
    assert sorted(home.rglob("*.json")) == before


def test_a_dry_run_runs_nothing(carp, home):
    before = sorted(home.rglob("*.json"))
    code, out, told = carp("eval", "suite", "transfer-knn", "--only", "pets", "--dry-run")
    assert code == 0, told
    assert "missing" in out
    assert "hf download" in out
    assert sorted(home.rglob("*.json")) == before


def test_every_checkpoint_makes_a_curve(carp):
    code, out, told = carp("eval", "suite", "good.toml", "--only", "knn", "--every-checkpoint")
    assert code == 0, told
    assert "every checkpoint" in out
    lines = [line for line in out.splitlines() if line.startswith("│ ")]
    assert [line.split("│")[1].strip() for line in lines[-2:]] == ["1", "2"]
    code, out, told = carp("eval", "suite", "good.toml", "--only", "knn", "--every-checkpoint", "--json")
    records = json.loads(out)
    assert [record["checkpoint"] for record in records] == ["1", "2"]
    assert records[0]["weights_sha256"] != records[1]["weights_sha256"]
    assert [record["rows"][0]["state"] for record in records] == ["done before"] * 2


def test_a_surface_is_shown_as_a_grid(carp):
    code, out, told = carp(
        "eval", "knn", "--k", "1", "--k", "5", "--temperature", "0.1", "--temperature", "1"
    )
    assert code == 0, told
    assert "T = 0.1" in out
    assert "T = 1" in out
    rows = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    assert rows == ["1", "5"]


def test_leaks_are_counted_dropped_or_not_looked_for(carp, digit_folder, tmp_path):
    import shutil

    copy = shutil.copytree(digit_folder, tmp_path / "copy")
    original = sorted((copy / "train" / "3").iterdir())[0]
    shutil.copy(original, copy / "test" / "3" / "leaked.png")
    data = ("eval", "knn", "--k", "5", "--json", "-d", f"folder:{copy}")
    counted = json.loads(carp(*data)[1])
    assert (counted["counts"]["leaks"], counted["counts"]["queries"]) == (1, 41)
    dropped = json.loads(carp(*data, "--drop-leaks")[1])
    assert (dropped["counts"]["leaks"], dropped["counts"]["queries"]) == (1, 40)
    assert "leaks" not in json.loads(carp(*data, "--no-leak-check")[1])["counts"]
    code, _, told = carp(*data, "--no-leak-check", "--drop-leaks")
    assert code == 2
    assert "leave --no-leak-check out" in told


def test_a_seed_below_zero_is_refused(carp):
    for command in ("knn", "suite"):
        code, _, told = carp("eval", command, *(["quick"] if command == "suite" else []), "--seed", "-1")
        assert code == 2
        assert "--seed" in told


def test_queries_of_fewer_classes_are_named_among_them(carp, digit_folder, tmp_path):
    import shutil

    few = tmp_path / "few"
    shutil.copytree(digit_folder / "test" / "2", few / "test" / "2")
    shutil.copytree(digit_folder / "test" / "1", few / "test" / "1")
    code, out, told = carp("eval", "knn", "--k", "5", "--json", "--queries", f"folder:{few}")
    assert code == 0, told
    record = json.loads(out)
    assert record["counts"]["queries"] == 20
    assert any("only the queries' 2 of the bank's 4 classes" in note for note in record["notes"])
