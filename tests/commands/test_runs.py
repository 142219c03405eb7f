import json
from datetime import UTC, datetime, timedelta

import pytest

from carp_eval.commands import runs
from carp_eval.results import Score
from tests.report.records import record, saved


@pytest.fixture
def carp(tmp_path, carp_in):
    return carp_in(tmp_path)


def a_run(folder, *, started, **state):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"finished": started.isoformat(), **state}))
    log = [{"step": step, "loss": 8.0 - step, "epoch": step} for step in range(1, 6)]
    log.append({"step": 5, "knn_student": 51.25, "knn_teacher": 62.5})
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in log))


def test_runs_are_listed_newest_first_with_state_curve_and_scores(carp, tmp_path):
    now = datetime.now(UTC)
    a_run(
        tmp_path / "runs/older",
        started=now - timedelta(hours=5),
        recipe="digits",
        state="finished",
        num_steps=5,
    )
    saved(tmp_path / "runs/older/results", record(Score(metric="top1", value=71.25), model="older"))
    a_run(tmp_path / "sweeps/s/newer", started=now - timedelta(minutes=3), state="failed", num_steps=1_000)
    (tmp_path / "runs/older/results/bad.json").write_text("{")
    code, out, told = carp("runs")
    assert code == 0, told
    assert out.index("newer") < out.index("older")
    assert "█▇▅▃▁ 3.000" in out
    assert "71.25 top1, knn@dino on cifar10" in out
    assert "teacher 62.5" in out
    assert "5 of 1,000" in out
    assert "5 h" in out
    assert "3 min" in out
    assert "bad.json" in told
    code, out, _ = carp("runs", "--json", "--root", "runs")
    (run,) = json.loads(out)
    assert (run["state"], run["step"], run["knn"]) == ("finished", 5, {"student": 51.25, "teacher": 62.5})
    assert run["best"][0]["value"] == 71.25


def test_a_run_that_was_killed_is_told_and_how_to_go_on(carp, tmp_path):
    import platform

    a_run(tmp_path / "runs/dead", started=datetime.now(UTC), state="running", host=platform.node())
    code, out, told = carp("runs")
    assert code == 0
    assert "gone" in out
    assert "carp train --resume runs/dead" in told


def test_no_run_and_no_folder_are_told(carp):
    code, out, _ = carp("runs")
    assert code == 0
    assert "carp train" in out
    assert carp("runs", "--json")[1].strip() == "[]"
    code, _, told = carp("runs", "--root", "nowhere")
    assert code == 2
    assert "nowhere" in told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (7_199, "1 h"), (86_400, "1 d"), (-5, "0 s")],
)
def test_an_age_is_told_in_its_largest_unit(seconds, told):
    then = datetime(2026, 1, 1, tzinfo=UTC)
    assert runs.age(then, then + timedelta(seconds=seconds)) == told
