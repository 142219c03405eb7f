import json
import os
import platform
import subprocess
import sys
import time

import pytest

from carp_eval.errors import UsageError
from carp_eval.report import found
from carp_eval.results import Score
from tests.report.records import record, saved


def at(minute, **changes):
    return record(finished=f"2026-11-21T10:{minute:02d}:00+00:00", **changes)


def names(results):
    return [each.result.model for each in results]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, minute in (("one", 1), ("two", 3)):
        folder = tmp_path / "runs" / name
        saved(folder / "results", at(minute, model=name, weights_sha256=name.ljust(64, "0")))
        (folder / "recipe.json").write_text("{}")
    saved(tmp_path / "runs/one/results", at(4, model="random:runs/one"))
    saved(tmp_path / "results", at(2, model="resnet50"))
    return tmp_path


def test_all_results_are_found_the_newest_first(here):
    assert names(found.results()) == ["random:runs/one", "two", "resnet50", "one"]
    assert found.results()[1].predictions.is_file()


@pytest.mark.parametrize(
    ("spelling", "wanted"),
    [
        ("runs/one", ["one"]),
        ("runs/one/checkpoints/last.pt", ["one"]),
        ("two", ["two"]),
        ("two00000", ["two"]),
        ("resnet50", ["resnet50"]),
        ("results", ["resnet50"]),
        ("runs", ["random:runs/one", "two", "one"]),
        ("random:runs/one", ["random:runs/one"]),
    ],
)
def test_a_model_is_found_by_its_run_its_name_or_its_weights(here, spelling, wanted):
    assert names(found.results((spelling,))) == wanted


def test_a_record_is_named_by_its_path_and_counts_once(here):
    path = found.results(("resnet50",))[0].path
    assert names(found.results((str(path), "resnet50", "results"))) == ["resnet50"]


def test_a_model_without_results_is_told(here):
    with pytest.raises(UsageError, match=r"nobody.*carp eval"):
        found.results(("nobody",))
    # Too short to be a hash.
    with pytest.raises(UsageError, match="two0000"):
        found.results(("two0000",))


def test_what_cannot_be_read_is_told_once_and_left_out(here):
    folder = here / "results"
    (folder / "cut.json").write_text('{"schema_version": 2, "prot')
    (folder / "old.json").write_text('{"schema_version": 1}')
    (folder / "odd.json").write_text(json.dumps({"schema_version": 2, "protocol": "knn"}))
    (here / "runs/one/run.json").write_text("{}")
    told = []
    assert len(found.results(unreadable=told.append)) == 4
    assert sorted(next(name for name in ("cut", "old", "odd") if f"{name}.json" in each) for each in told) == [
        "cut", "odd", "old",
    ]  # fmt: skip
    told.clear()
    assert names(found.results(("one", "two"), unreadable=told.append)) == ["two", "one"]
    assert len(told) == 3


def test_names_of_scores_have_their_settings():
    assert Score(metric="top1", value=1.0, settings={"k": 20, "t": 0.07}).name == "top1 (k = 20, t = 0.07)"
    assert Score(metric="nmi", value=1.0).name == "nmi"
    assert Score(metric="top1", value=1.0, settings={"t": 0.072512}).name == "top1 (t = 0.07251)"


def a_run(root, name, *, log=(), **state):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(state))
    (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in log))
    return folder


def test_a_run_tells_how_far_it_is_and_how_good(tmp_path):
    log = [
        json.dumps({"step": 10, "loss": 5.0, "epoch": 1.0}),
        json.dumps({"step": 20, "loss": 4.0, "epoch": 2.0}),
        json.dumps({"step": 20, "knn_student": 50.0, "knn_teacher": 60.0}),
        json.dumps({"step": 30, "loss": float("nan"), "epoch": 3.0}),
        '{"step": 40, "lo',
    ]
    told = {"recipe": "digits", "state": "interrupted", "step": 25, "num_steps": 100}
    folder = a_run(tmp_path, "one", log=log, finished="2026-11-21T09:00:00+00:00", **told)
    for minute, value in ((1, 40.0), (2, 70.0), (3, 60.0)):
        scores = (Score(metric="top1", value=value), Score(metric="top5", value=99.0))
        saved(folder / "results", record(*scores, finished=f"2026-11-21T10:0{minute}:00+00:00"))
    saved(folder / "results", record(Score(metric="top1", value=90.0), model="pixels:one"))
    later = a_run(tmp_path, "two", finished="2026-11-21T09:30:00+00:00", state="finished")
    runs = found.runs_in(tmp_path)
    assert [run.folder for run in runs] == [later, folder]
    run = runs[1]
    assert (run.recipe, run.state, run.step, run.num_steps) == ("digits", "interrupted", 30, 100)
    assert run.losses == (5.0, 4.0)
    assert run.online == {"student": 50.0, "teacher": 60.0}
    assert [(each.score.metric, each.score.value) for each in run.best] == [("top1", 70.0)]
    assert len(run.results) == 3
    assert found.runs_in(folder)[0].folder == folder


def test_runs_of_a_sweep_are_found(tmp_path):
    a_run(tmp_path / "sweeps" / "digits+seed", "seed=0", state="finished")
    assert [run.folder.name for run in found.runs_in(tmp_path / "sweeps")] == ["seed=0"]


def test_a_run_whose_files_are_damaged_is_told_of(tmp_path):
    folder = a_run(tmp_path, "one")
    (folder / "run.json").write_text('{"state": "fini')
    (folder / "results").mkdir()
    (folder / "results" / "a.json").write_text("[]")
    run = found.runs_in(tmp_path)[0]
    assert run.state == "not told"
    assert [name for name in ("run.json", "a.json") if any(name in each for each in run.problems)] == [
        "run.json",
        "a.json",
    ]


def test_a_run_that_was_killed_is_told_from_one_that_runs(tmp_path):
    here = {"state": "running", "host": platform.node()}
    killed, running = a_run(tmp_path, "killed", **here), a_run(tmp_path, "running", **here)
    a_run(tmp_path, "elsewhere", state="running", host="another")
    a_run(tmp_path, "older", state="running")
    holds = "import sys; file = open(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holds, str(running / "log.jsonl")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        states = {run.folder.name: run.state for run in found.runs_in(tmp_path)}
        assert states == {"killed": "gone", "running": "running", "elsewhere": "running", "older": "running"}
        process.stdin.close()
        process.wait()
    assert next(run for run in found.runs_in(tmp_path) if run.folder == running).state == "gone"
    assert killed.is_dir()


def test_when_a_run_was_last_heard_of_is_when_it_last_wrote(tmp_path):
    folder = a_run(tmp_path, "one", state="running")
    hour_ago = time.time() - 3600
    for name in ("run.json", "log.jsonl"):
        os.utime(folder / name, (hour_ago, hour_ago))
    assert found.runs_in(tmp_path)[0].heard.timestamp() == pytest.approx(hour_ago)
