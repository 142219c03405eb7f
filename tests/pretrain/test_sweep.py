"""Sweeps over small trainings: each is a run of its own, and what is done is not done again."""

import json
import os
import shutil
import signal
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch

from carp_eval.checkpoints import runs, training
from carp_eval.errors import CarpError, UsageError
from carp_eval.evaluation.job import Settings
from carp_eval.pretrain import journal, start
from carp_eval.pretrain.sweep import Sweep, folder_for
from tests.recipes import TINY


class Listener:
    """Hears of everything, and may do something at a step of an entry."""

    def __init__(self, at=None, act=None):
        self.said, self.began, self.at, self.act = [], [], at, act

    def step(self, *, step, num_steps, values, told):
        if (len(self.began), step) == self.at:
            self.act()

    def say(self, text):
        self.said.append(text)

    @contextmanager
    def within(self, entry):
        self.began.append(entry.changes)
        yield self


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))


def sweep_in(folder, data, evaluations=(), **varied):
    values = {key: (value,) for key, value in TINY.items()} | {"data.name": (f'"folder:{data}"',)}
    values |= {key.replace("__", "."): value for key, value in varied.items()}
    return Sweep("digits", values, folder, evaluations, Settings(device="cpu", num_workers=0))


@pytest.fixture(scope="module")
def done(tmp_path_factory, digit_folder):
    """A sweep over two seeds that has run to its end."""
    folder = tmp_path_factory.mktemp("done") / "sweep"
    wanted = sweep_in(folder, digit_folder, seed=("0", "3"), schedule__knn_epochs=("1",))
    entries, _ = run(wanted)
    return folder, entries


@pytest.fixture
def copy(done, tmp_path, digit_folder):
    """The same, elsewhere, to go on with."""
    shutil.copytree(done[0], tmp_path / "moved")

    def make(evaluations=(), *, seed=("0", "3")):
        return sweep_in(tmp_path / "moved", digit_folder, evaluations, seed=seed, schedule__knn_epochs=("1",))

    return make


@pytest.fixture
def sweep(tmp_path, digit_folder):
    return partial(sweep_in, tmp_path / "sweep", digit_folder)


def run(sweep, listener=None):
    listener = listener or Listener()
    return list(sweep.run(listener.within)), listener


def weights(folder):
    return training.load(folder / runs.LAST).student


def same(left, right):
    return all(torch.equal(value, right[name]) for name, value in left.items())


def test_each_entry_is_the_run_that_carp_train_makes(done, tmp_path, digit_folder):
    folder, entries = done
    assert [entry.state for entry in entries] == ["done", "done"]
    assert [entry.changes["seed"] for entry in entries] == ["0", "3"]
    changes = TINY | {"seed": "3", "data.name": f'"folder:{digit_folder}"', "schedule.knn_epochs": "1"}
    plan = start.plan(
        "digits", display=Listener(), changes=changes, runs_root=tmp_path / "runs", device="cpu"
    )
    alone = start.train(plan).folder
    first, second = (weights(Path(entry.folder)) for entry in entries)
    assert same(second, weights(alone))
    assert not same(first, second)
    # The log's own numbers, over the last epoch's steps, and the last look.
    log = journal.entries(alone)
    last = [line["loss"] for line in log if line["step"] > 6 and "loss" in line]
    assert entries[1].loss == pytest.approx(sum(last) / len(last))
    assert entries[1].knn == {name: log[-1][f"knn_{name}"] for name in ("student", "teacher")}
    kept = json.loads((folder / "sweep.json").read_text())
    assert [entry["changes"]["seed"] for entry in kept["entries"]] == ["0", "3"]
    assert [entry["loss"] for entry in kept["entries"]] == [entry.loss for entry in entries]


def test_what_is_done_is_not_done_again_and_the_grid_may_grow(copy):
    assert run(copy())[1].began == []
    entries, listener = run(copy(seed=("2", "0", "3")))
    assert [changes["seed"] for changes in listener.began] == ["2"]
    assert {entry.state for entry in entries} == {"done"}


def test_an_evaluation_may_be_added_without_training_again(copy):
    entries, listener = run(copy(("retrieval@classes",)))
    assert not any("run folder" in text for text in listener.said)
    assert all(0 < entry.scores["retrieval@classes map"] <= 100 for entry in entries)
    assert all(entry.evaluated == ("retrieval@classes",) for entry in entries)
    assert run(copy(("retrieval@classes",)))[1].began == []
    # 200 neighbours of 96 images.
    entries, _ = run(copy(("knn@dino", "retrieval@classes")))
    assert entries[0].state == "failed"
    assert "knn@dino: " in entries[0].reason
    assert "200" in entries[0].reason
    assert entries[0].evaluated == ("retrieval@classes",)


def test_a_signal_ends_the_sweep_and_it_goes_on_to_the_bit(sweep, tmp_path):
    whole = sweep(seed=("1", "2"))
    listener = Listener(at=(1, 9), act=lambda: os.kill(os.getpid(), signal.SIGTERM))
    entries, _ = run(whole, listener)
    assert [entry.state for entry in entries] == ["stopped"]
    assert [entry.state for entry in whole.stands().entries] == ["stopped", "to run"]
    entries, listener = run(whole)
    assert [entry.state for entry in entries] == ["done"] * 2
    assert [changes["seed"] for changes in listener.began] == ["1", "2"]
    once = Sweep("digits", whole.grid | {"seed": ("1",)}, tmp_path / "once", (), whole.settings)
    (undisturbed,), _ = run(once)
    assert same(weights(Path(entries[0].folder)), weights(Path(undisturbed.folder)))


def test_what_fails_is_told_of_and_the_rest_runs(sweep):
    wanted = sweep(
        optimiser__name=('"sgd"',),
        optimiser__warmup_epochs=("0",),
        optimiser__lr=("1e30", "1e-3"),
        prototypes__count=("4", "32"),
    )
    entries, _ = run(wanted)
    # More prototypes in a block than there are is no recipe; a step of 1e30 is no training.
    assert [entry.state for entry in entries] == ["failed", "failed", "failed", "done"]
    assert "partition.block_size is 8" in entries[0].reason
    assert "the loss is" in entries[2].reason
    assert [entry.folder == "" for entry in entries] == [True, True, False, False]
    kept = wanted.record()
    assert [entry.state for entry in kept.entries] == [entry.state for entry in entries]
    # It is tried again, for whoever has put right what was wrong outside of it.
    assert [changes["optimiser.lr"] for changes in run(wanted)[1].began] == ["1e30"]


def test_a_grid_of_which_nothing_is_a_recipe_is_an_error(sweep):
    with pytest.raises(CarpError, match="optimiser"):
        sweep(optimizer__lr=("1", "2")).entries()


def test_protocols_are_looked_for_before_anything_runs(sweep):
    with pytest.raises(UsageError, match="nosuch"):
        sweep(("knn@nosuch",)).check()


def test_a_sweep_of_the_same_keys_has_the_same_folder():
    values = {"optimiser.lr": ("1", "2"), "seed": ("0",)}
    assert folder_for("a/my.toml", values) == folder_for("my", values | {"optimiser.lr": ("3", "4", "5")})
    assert folder_for("my", values) != folder_for("my", {"optimiser.lr": ("1",), "seed": ("0", "1")})
