"""Training from another model's trunk: what starts where, what stands still, and what is refused."""

import json
import os
import shutil
import signal

import pytest
import torch

from carp_eval.checkpoints import assembling, runs, training
from carp_eval.checkpoints.opening import open_model
from carp_eval.errors import CardError, CheckpointError, TrainingError
from carp_eval.models.small import SmallTrunk
from carp_eval.pretrain import init, start
from tests.recipes import TINY, tiny


class Listener:
    def __init__(self, at=None, act=None):
        self.said, self.at, self.act = [], at, act

    def step(self, *, step, num_steps, values, told):
        if step == self.at:
            self.act()

    def say(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def data(digit_folder):
    return {"data.name": f'"folder:{digit_folder}"'}


def train(root, changes, listener=None, **more):
    listener = listener or Listener()
    plan = start.plan(
        "digits", display=listener, changes=TINY | changes, runs_root=root, device="cpu", **more
    )
    return start.train(plan)


def resume(root, listener=None):
    return start.train(
        start.plan("digits", display=listener or Listener(), runs_root=root, device="cpu", resume="last")
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory, data):
    """A run that is long enough to differ from fresh weights."""
    return train(tmp_path_factory.mktemp("source"), data | {"schedule.epochs": "1", "seed": "7"}).folder


def state(path, branch="student"):
    return getattr(training.load(path), branch)


def trunk(entries):
    return {name: value for name, value in entries.items() if name.startswith("trunk.")}


def equal(left, right):
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


def test_student_and_teacher_start_from_the_judged_trunk_and_nothing_else(tmp_path, source, data):
    run = train(
        tmp_path, data | {"init.model": f'"{source}"', "schedule.epochs": "1"}, folder=tmp_path / "run"
    )
    assert run.folder == tmp_path / "run"
    plan = start.plan(
        "digits",
        display=Listener(),
        changes=TINY | data | {"init.model": f'"{source}"'},
        runs_root=tmp_path,
        device="cpu",
    )
    judged = trunk(state(source / runs.LAST, "teacher"))
    assert plan.initial is not None
    assert equal({f"trunk.{name}": value for name, value in plan.initial.entries.items()}, judged)
    told = json.loads((run.folder / "run.json").read_text())["init"]
    assert told == {
        "model": str(source),
        "branch": "teacher",
        "weights_sha256": open_model(str(source)).weights_sha256,
    }
    assert runs.read_recipe(run.folder).init.model == str(source)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_frozen_trunk_stands_still_to_the_bit_and_then_learns(tmp_path, source, data, epochs):
    changes = {"init.model": f'"{source}"', "init.freeze_epochs": str(epochs), "schedule.keep_epochs": "1"}
    # The online k-NN looks in evaluation mode and goes back to training mode, which must not set the trunk free.
    listener = Listener()
    run = train(tmp_path, data | changes | {"schedule.knn_epochs": "1"}, listener)
    assert any(f"stays so for {epochs} epoch" in text for text in listener.said)
    wanted = trunk(state(source / runs.LAST, "teacher"))
    milestones = sorted((run.folder / "checkpoints").glob("epoch-*.pt"))
    assert [path.stem for path in milestones] == ["epoch-0001", "epoch-0002"]
    for epoch, path in enumerate(milestones, start=1):
        for branch in ("student", "teacher"):
            assert equal(trunk(state(path, branch)), wanted) is (epoch <= epochs)
    first, second = (state(path) for path in milestones)
    assert not torch.equal(first["head.0.weight"], second["head.0.weight"])
    statistic = next(name for name in first if name.startswith("trunk.") and name.endswith("running_mean"))
    assert torch.equal(second[statistic], wanted[statistic]) is (epochs == 2)


def test_a_stopped_run_goes_on_to_the_bit_without_the_model_it_started_from(tmp_path, source, data):
    gone = tmp_path / "gone"
    shutil.copytree(source, gone)
    changes = data | {"init.model": f'"{gone}"', "init.freeze_epochs": "1"}
    whole = train(tmp_path / "whole", changes).folder

    def stop(step):
        return Listener(at=step, act=lambda: os.kill(os.getpid(), signal.SIGTERM))

    assert train(tmp_path / "stopped", changes, stop(3)).stopped_by == signal.SIGTERM
    shutil.rmtree(gone)
    # While the trunk stands still, and when it has learnt for some steps.
    assert resume(tmp_path / "stopped", stop(9)).stopped_by == signal.SIGTERM
    done = resume(tmp_path / "stopped").folder
    for branch in ("student", "teacher"):
        assert equal(state(done / runs.LAST, branch), state(whole / runs.LAST, branch))


def test_a_run_that_died_before_its_first_epoch_ended_needs_the_model_no_more(tmp_path, source, data):
    gone = tmp_path / "gone"
    shutil.copytree(source, gone)

    def die():
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        train(tmp_path / "runs", data | {"init.model": f'"{gone}"'}, Listener(at=1, act=die))
    shutil.rmtree(gone)
    assert resume(tmp_path / "runs").stopped_by is None


def test_a_trunk_of_another_architecture_is_refused_before_anything_starts(tmp_path, source, data):
    with pytest.raises(CheckpointError, match=r"(?s)trunk is small of 1 channels.*missing"):
        train(tmp_path, data | {"init.model": '"random:resnet18"'})
    wide = {"init.model": f'"{source}"', "trunk.architecture": '"resnet18"', "trunk.stem": '"small"'}
    with pytest.raises(CheckpointError, match="resnet18 of 1 channels with the small stem"):
        train(tmp_path, data | wide)
    assert not list(tmp_path.iterdir())


def test_equal_entries_that_are_used_otherwise_are_refused(monkeypatch):
    class Louder(SmallTrunk):
        def forward(self, images):
            return super().forward(images).square()

    recipe = tiny(init__model='"louder"')
    model_input = open_model("random:digits").input
    model = assembling.frozen("louder", Louder(channels=1), model_input=model_input)
    monkeypatch.setattr(init, "open_model", lambda name: model)
    with pytest.raises(CheckpointError, match=r"louder is no start.*built\s+otherwise"):
        init.open_trunk(recipe)


def test_another_normalisation_is_told_of():
    recipe = tiny(init__model='"random:digits"', data__mean="[0.5]")
    opened = init.open_trunk(recipe)
    assert any("mean [0.12]" in note and "[0.5]" in note for note in opened.notes(recipe))
    same = tiny(init__model='"random:digits"')
    assert not any("warning" in note for note in init.open_trunk(same).notes(same))


def test_freezing_needs_a_trunk_to_keep():
    with pytest.raises(CardError, match="name a model to start from"):
        tiny(init__freeze_epochs="1")


def test_a_folder_of_another_recipe_is_not_gone_on_with(source, data):
    with pytest.raises(TrainingError, match="another recipe"):
        start.plan("digits", display=Listener(), changes=TINY | data, folder=source, device="cpu")
