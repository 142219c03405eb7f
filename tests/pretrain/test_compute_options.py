"""Whole trainings with the options of `compute` and `data.augment`: what is learnt, and what a run may change."""

import os
import signal

import pytest
import torch

from carp_eval.checkpoints import runs, training
from carp_eval.errors import CardError
from carp_eval.pretrain import journal, start
from tests.recipes import TINY

AGAIN = {"compute.checkpoint_activations": "true"}


class Listener:
    """Hears how a training goes, and may stop it at a step."""

    def __init__(self, stop_at=None):
        self.stop_at = stop_at

    def step(self, *, step, num_steps, values, told):
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def say(self, text):
        pass


def train(root, folder, *, changes=None, resume=None, stop_at=None):
    changes = changes or {}
    if resume is None:
        changes = TINY | {"data.name": f"folder:{folder}", "schedule.epochs": "1"} | changes
    plan = start.plan(
        "digits",
        display=Listener(stop_at),
        changes=changes,
        runs_root=root,
        device="cpu",
        resume=resume,
        num_workers=0,
    )
    return start.train(plan)


def weights(outcome):
    checkpoint = training.load(outcome.folder / runs.LAST)
    return checkpoint.student | {f"teacher.{name}": tensor for name, tensor in checkpoint.teacher.items()}


def same(left, right):
    assert list(left) == list(right)
    assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())


@pytest.mark.parametrize("more", [{}, {"schedule.micro_batches": "2"}], ids=["at once", "accumulated"])
def test_activations_computed_again_teach_the_same_to_the_bit(tmp_path, digit_folder, more):
    plain = train(tmp_path / "plain", digit_folder, changes=more)
    again = train(tmp_path / "again", digit_folder, changes=more | AGAIN)
    assert plain.step == again.step == 6
    same(weights(plain), weights(again))
    # The run is opened without the option, as any other.
    assert training.load(again.folder / runs.LAST).recipe.compute.checkpoint_activations
    entry = journal.entries(again.folder)[-1]
    assert 0 <= entry["loading_share"] <= 1


def test_a_run_goes_on_with_other_options_of_compute_and_with_no_other_change(tmp_path, digit_folder):
    whole = train(tmp_path / "whole", digit_folder)
    stopped = train(tmp_path / "stopped", digit_folder, stop_at=3)
    assert stopped.step == 3
    with pytest.raises(CardError, match=r"compute\.chekpoint"):
        train(tmp_path / "stopped", digit_folder, resume="last", changes={"compute.chekpoint": "true"})
    resumed = train(
        tmp_path / "stopped", digit_folder, resume="last", changes=AGAIN | {"optimiser.lr": "9.0"}
    )
    assert resumed.folder == stopped.folder
    same(weights(whole), weights(resumed))
    assert training.load(resumed.folder / runs.LAST).recipe.compute.checkpoint_activations


def test_views_finished_on_the_device_train_too(tmp_path, digit_folder):
    done = train(
        tmp_path,
        digit_folder,
        changes={"data.augment": '"on_device"', "compute.channels_last": "true"},
    )
    assert done.step == 6
    assert all(torch.isfinite(tensor).all() for tensor in weights(done).values())
