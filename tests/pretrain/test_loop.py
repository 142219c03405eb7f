"""Training on the digits, for a few steps: what stops it, and how it goes on."""

import os
import resource
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from carp_eval.checkpoints import runs, training
from carp_eval.errors import CardError, DataError, StorageError, TrainingError, UsageError
from carp_eval.pretrain import journal, start
from tests.recipes import TINY


class Listener:
    """Hears how a training goes, and may do something at a step."""

    def __init__(self, at=None, act=None):
        self.said, self.steps, self.at, self.act = [], [], at, act

    def step(self, *, step, num_steps, values, told):
        self.steps.append(step)
        if step == self.at:
            self.act()

    def say(self, text):
        self.said.append(text)


@pytest.fixture(autouse=True, scope="module")
def _data(digit_folder):
    """Six steps an epoch, of images small enough for many trainings."""
    TINY["data.name"] = f"folder:{digit_folder}"
    yield
    del TINY["data.name"]


def train(root, listener=None, *, resume=None, **changes):
    listener = listener or Listener()
    changes = None if resume else TINY | {key.replace("__", "."): value for key, value in changes.items()}
    plan = start.plan(
        "digits", display=listener, changes=changes, runs_root=root, device="cpu", resume=resume
    )
    return start.train(plan)


def same(left, right):
    left, right = (training.load(folder / runs.LAST) for folder in (left, right))
    assert left.step == right.step
    for branch in ("student", "teacher"):
        for name, tensor in getattr(left, branch).items():
            assert torch.equal(tensor, getattr(right, branch)[name]), (branch, name)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, _data):
    return train(tmp_path_factory.mktemp("undisturbed")).folder


def test_a_training_leaves_weights_a_log_and_its_recipe(undisturbed):
    checkpoint = training.load(undisturbed / runs.LAST)
    assert checkpoint.step == 12
    entries = journal.entries(undisturbed)
    assert [entry["step"] for entry in entries] == [6, 10, 12]
    assert {"loss", "consistency", "kl", "lr", "teacher_momentum", "images_per_second"} <= entries[0].keys()
    assert runs.read_recipe(undisturbed) == checkpoint.recipe
    assert '"state": "finished"' in (undisturbed / "run.json").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [3, 6, 9])
def test_a_signal_leaves_a_checkpoint_and_the_run_goes_on_to_the_bit(tmp_path, undisturbed, number, step):
    listener = Listener(at=step, act=lambda: os.kill(os.getpid(), number))
    stopped = train(tmp_path, listener)
    assert stopped.stopped_by == number
    assert stopped.step == step == training.load(stopped.folder / runs.LAST).step
    assert any("carp train --resume" in text for text in listener.said)
    done = train(tmp_path, resume="last")
    assert done.stopped_by is None
    assert done.folder == stopped.folder
    same(done.folder, undisturbed)
    assert [entry["step"] for entry in journal.entries(done.folder)] == [6, 10, 12]


@pytest.mark.parametrize("step", [2, 8])
def test_kill_9_at_any_step_and_the_run_goes_on_to_the_bit(tmp_path, undisturbed, step):
    changes = [f"--set={key}={value}" for key, value in TINY.items()]
    script = (
        "import os, signal, sys\n"
        "from carp_eval.commands import main\n"
        "from carp_eval.pretrain import loop\n"
        "take = loop.Training.take_step\n"
        "def fatal(self, views):\n"
        f"    if self.step == {step}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return take(self, views)\n"
        "loop.Training.take_step = fatal\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, "train", "digits", "-o", str(tmp_path), "--device=cpu", *changes]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (folder,) = tmp_path.iterdir()
    assert (folder / runs.LAST).exists() is (step > 6)
    same(train(tmp_path, resume=str(folder)).folder, undisturbed)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+ .*lower optimiser.lr"):
        train(tmp_path, optimiser__name='"sgd"', optimiser__lr="1e30", optimiser__warmup_epochs="0")
    (folder,) = tmp_path.iterdir()
    assert '"state": "failed"' in (folder / "run.json").read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher__kind": "none"},
        {"prototypes__teacher": "shared"},
        {"partition__kind": "constant"},
        {"prototypes__unit_norm": "false"},
        {"schedule__precision": "bf16"},
        {"optimiser__name": "lars", "optimiser__lr": "0.1"},
    ],
)
def test_every_ablation_of_the_paper_trains(tmp_path, changes):
    done = train(tmp_path, schedule__epochs="1", **changes)
    checkpoint = training.load(done.folder / runs.LAST)
    assert done.step == 6
    assert bool(checkpoint.teacher) is ("teacher__kind" not in changes)
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.student.values())


def test_with_momentum_0_the_teacher_is_the_student_of_the_last_step(tmp_path):
    changes = {"schedule__epochs": "1", "teacher__momentum": "0.0", "teacher__schedule": "constant"}
    whole = train(tmp_path / "whole", **changes)
    stopped = train(
        tmp_path / "stopped", Listener(at=5, act=lambda: os.kill(os.getpid(), signal.SIGTERM)), **changes
    )
    teacher = training.load(whole.folder / runs.LAST).teacher
    student_before = training.load(stopped.folder / runs.LAST).student
    student_after = training.load(whole.folder / runs.LAST).student
    assert torch.equal(teacher["prototypes.weight"], student_before["prototypes.weight"])
    assert not torch.equal(teacher["prototypes.weight"], student_after["prototypes.weight"])


def test_milestones_stay(tmp_path):
    done = train(tmp_path, schedule__keep_epochs="1")
    first, second = (training.load(done.folder / f"checkpoints/epoch-000{n}.pt") for n in (1, 2))
    assert (first.step, second.step) == (6, 12)


def test_prototypes_outside_the_blocks_are_said(tmp_path):
    listener = Listener()
    train(tmp_path, listener, schedule__epochs="1", partition__block_size="10")
    assert any(text.startswith("2 of 32 prototypes fall outside") for text in listener.said)
    assert any("estimate on cpu" in text for text in listener.said)


def test_the_online_knn_scores_both_networks_and_reads_the_signs(tmp_path):
    listener = Listener()
    done = train(tmp_path, listener, schedule__epochs="1", schedule__knn_epochs="1")
    online = journal.entries(done.folder)[-1]
    assert 25 < online["knn_student"] <= 100
    assert 25 < online["knn_teacher"] <= 100
    assert 0 < online["prototypes_used"] <= 1
    assert 1 < online["effective_rank"] <= 256
    assert any("20-NN" in text for text in listener.said)


def test_what_cannot_start_is_said(tmp_path):
    with pytest.raises(DataError, match="batch"):
        train(tmp_path, schedule__batch_size="100000")
    with pytest.raises(CardError, match="more than the 32 prototypes"):
        train(tmp_path, partition__block_size="64")
    with pytest.raises(UsageError, match="is no run"):
        train(tmp_path, resume=str(tmp_path))
    with pytest.raises(UsageError, match="holds no run that was begun"):
        train(tmp_path, resume="last")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="try --device cpu"):
            start.plan("digits", display=Listener(), device="cuda")


def test_a_finished_run_has_nothing_to_go_on_with(tmp_path, undisturbed):
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    listener = Listener()
    assert train(tmp_path, listener, resume=str(folder)).step == 12
    assert any("nothing to go on with" in text for text in listener.said)


def test_a_checkpoint_of_more_processes_is_refused(tmp_path, undisturbed):
    checkpoint = training.load(undisturbed / runs.LAST)
    (tmp_path / "run").mkdir()
    other = training.TrainingCheckpoint(
        checkpoint.recipe, 6, 4, checkpoint.student, checkpoint.teacher, checkpoint.optimiser
    )
    training.save(tmp_path / "run" / runs.LAST, other)
    with pytest.raises(TrainingError, match="made by 4 processes and there are 1"):
        train(tmp_path, resume=str(tmp_path / "run"))


def test_a_disk_that_fills_up_keeps_the_checkpoint_before(tmp_path):
    def fill():
        # From now on, nothing larger than the log can be written.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits.append(resource.getrlimit(resource.RLIMIT_FSIZE))
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[0][1]))

    limits = []
    try:
        with pytest.raises(StorageError, match="disk is full"):
            train(tmp_path, Listener(at=8, act=fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits[0])
    (folder,) = tmp_path.iterdir()
    assert training.load(folder / runs.LAST).step == 6
    assert not list((folder / "checkpoints").glob(".*"))
