import json
import sys

import pytest

from tests.recipes import TINY


@pytest.fixture
def carp(tmp_path, carp_in):
    return carp_in(tmp_path)


FIXED = [f"--set={key}={value}" for key, value in TINY.items() if key != "prototypes.count"]


def test_a_sweep_draws_a_table_ends_with_1_where_something_failed_and_stands_in_json(
    carp, tmp_path, digit_folder
):
    command = ["sweep", "digits", *FIXED, "--set", "prototypes.count=4,32", "-d", f"folder:{digit_folder}"]
    code, out, told = carp(*command, "--dry-run")
    assert code == 0, told
    assert "to run" in out
    assert not (tmp_path / "sweeps").exists()
    code, out, told = carp(*command, "--device", "cpu")
    assert code == 1, told
    assert "prototypes.count" in out
    assert "done" in out
    assert "partition.block_size is 8" in told
    code, out, told = carp(*command, "--json", "--dry-run")
    record = json.loads(out)
    assert [entry["state"] for entry in record["entries"]] == ["failed", "done"]
    kept = json.loads((tmp_path / "sweeps/digits+prototypes.count/sweep.json").read_text())
    assert kept["entries"] == record["entries"]


def test_a_cluster_needs_its_extra_and_its_options_need_the_cluster(carp, monkeypatch, digit_folder):
    monkeypatch.setitem(sys.modules, "submitit", None)
    for command in (["train", "digits"], ["sweep", "digits", "--set", "seed=0,1"]):
        code, _, told = carp(*command, "--slurm")
        assert code == 2
        assert "carp-eval[slurm]" in told.replace("\n", "")
        code, _, told = carp(*command, "--slurm-set", "timeout_min=5")
        assert code == 2
        assert "needs --slurm" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--set", "seed"], "KEY=VALUE"), (["--eval", "knn@nosuch"], "nosuch"), (["--set", "sead=1,2"], "sead")],
)
def test_what_cannot_be_is_told_before_anything_runs(carp, tmp_path, arguments, message):
    code, _, told = carp("sweep", "digits", *arguments)
    assert code == 2
    assert message in told
    assert not (tmp_path / "sweeps").exists()
