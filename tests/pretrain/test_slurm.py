"""Jobs through submitit, by its executor for this machine, where it is installed."""

import sys
from pathlib import Path

import pytest

from carp_eval.errors import UsageError
from carp_eval.pretrain import slurm


def test_without_submitit_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UsageError, match=r"carp-eval\[slurm\]"):
        slurm.submit(print, [1], folder=tmp_path, name="x", parameters={})


def touch(item):
    Path(item).write_text("done")


def test_each_item_is_a_job(tmp_path):
    submitit = pytest.importorskip("submitit")
    items = [str(tmp_path / name) for name in ("a", "b")]
    names = slurm.submit(
        touch, items, folder=tmp_path, name="x", parameters={"cluster": "local", "timeout_min": "2"}
    )
    assert len(set(names)) == 2
    for name in names:
        submitit.LocalJob(tmp_path / slurm.LOGS, name).result()
    assert [Path(item).read_text() for item in items] == ["done", "done"]


def test_a_job_that_lost_its_machine_starts_again_with_the_same(tmp_path):
    pytest.importorskip("submitit")
    job = slurm.Job(touch)
    again = job.checkpoint("item")
    assert (again.function, again.args) == (job, ("item",))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "srun"),
        ({"cluster": "local", "nonsense": "1"}, "nonsense"),
        ({"cluster": "local", "timeout_min": "soon"}, "timeout_min"),
    ],
)
def test_what_submitit_refuses_is_told_in_its_words(tmp_path, monkeypatch, parameters, message):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=message):
        slurm.submit(touch, ["x"], folder=tmp_path, name="x", parameters=parameters)
