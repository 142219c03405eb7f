"""Two processes that train together: what they make, what ends them, and how they go on.

The processes are real and forked; `test_torchrun_itself` has torchrun start them.
"""

import os
import re
import resource
import shutil
import signal
import time

import pytest
import torch

from carp_eval import distributed
from carp_eval.checkpoints import runs, training
from carp_eval.checkpoints.opening import open_model
from carp_eval.pretrain import journal
from carp_eval.pretrain.gradients import Gradients
from carp_eval.pretrain.loop import Training
from tests.pretrain import ranks
from tests.recipes import TINY


def arguments(data, *more, root="runs", **changes):
    """Six steps an epoch, two epochs."""
    pairs = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    sets = [f"--set={key}={value}" for key, value in pairs.items()]
    where = [f"--dataset=folder:{data}", f"--output={root}", "--device=cpu", "--workers=0"]
    return ["train", "digits", *sets, *where, *more]


def two(where, first, second=None, *, faults=(None, None), **launch):
    """Run two processes, the second from a folder of its own, which it is not to write to."""
    aside = where / "aside"
    aside.mkdir(exist_ok=True)
    told = ranks.run(
        ranks.Rank(first, where, faults[0]), ranks.Rank(second or first, aside, faults[1]), **launch
    )
    assert not list(aside.iterdir())
    return told


def at_step(step, act):
    """Have something done before a step."""

    def change():
        take = Training.take_step

        def acting(self, batch):
            if self.step == step:
                act()
            return take(self, batch)

        Training.take_step = acting

    return change


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def same(left, right):
    left, right = (training.load(folder / runs.LAST) for folder in (left, right))
    assert (left.step, left.world_size) == (right.step, right.world_size) == (12, 2)
    for branch in ("student", "teacher"):
        for name, tensor in getattr(left, branch).items():
            assert torch.equal(tensor, getattr(right, branch)[name]), (branch, name)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, digit_folder):
    where = tmp_path_factory.mktemp("undisturbed")
    told = two(where, arguments(digit_folder))
    assert [code for code, _ in told] == [0, 0], told
    (folder,) = (where / "runs").iterdir()
    return folder, told


def test_two_processes_make_one_run_and_one_of_them_tells_it(undisturbed):
    folder, ((code, said), (other_code, other_said)) = undisturbed
    assert (code, other_code, other_said) == (0, 0, "")
    assert said.count("run folder:") == 1
    assert training.load(folder / runs.LAST).world_size == 2
    assert [entry["step"] for entry in journal.entries(folder)] == [6, 10, 12]
    assert open_model(str(folder)).feature_dim > 0


@pytest.mark.parametrize(("step", "victim"), [(3, 0), (8, 1), (8, 0)])
def test_processes_that_are_started_again_go_on_with_their_run(
    tmp_path, digit_folder, undisturbed, step, victim
):
    faults = [None, None]
    faults[victim] = at_step(step, die)
    told = two(tmp_path, arguments(digit_folder), faults=faults)
    assert told[victim] is None
    code, said = told[1 - victim]
    assert code == 2
    assert "the connection to another process broke" in said
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / runs.LAST).exists() is (step > 6)
    again = two(tmp_path, arguments(digit_folder), attempt=1)
    assert [code for code, _ in again] == [0, 0]
    assert list((tmp_path / "runs").iterdir()) == [folder]
    same(folder, undisturbed[0])


def test_a_fresh_launch_begins_a_new_run(tmp_path, digit_folder):
    for launch in ("one", "other"):
        told = two(tmp_path, arguments(digit_folder, schedule__epochs="1"), launch=launch)
        assert [code for code, _ in told] == [0, 0]
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_signal_to_one_stops_all_and_resume_goes_on(tmp_path, digit_folder, undisturbed):
    told = two(tmp_path, arguments(digit_folder), faults=(None, at_step(8, terminate)))
    assert [code for code, _ in told] == [143, 143]
    assert "stopped by SIGTERM at step 9 of 12" in told[0][1]
    (folder,) = (tmp_path / "runs").iterdir()
    resume = ["train", f"--resume={folder}", "--device=cpu"]
    ((code, said),) = ranks.run(ranks.Rank(resume, tmp_path))
    assert code == 2
    assert "made by 2 processes and there are 1" in said
    told = two(tmp_path, resume, ["train", "--resume=last", "--device=cpu"], launch="other")
    assert [code for code, _ in told] == [0, 0]
    same(folder, undisturbed[0])


def not_finite():
    loss = Gradients._loss

    def broken(self, batch, *, student, step):
        losses = loss(self, batch, student=student, step=step)
        return type(losses)(losses.total * float("nan"), losses.shown) if step.number == 8 else losses

    Gradients._loss = broken


def test_a_loss_that_is_not_finite_in_one_process_ends_all(tmp_path, digit_folder):
    (code, said), other = two(tmp_path, arguments(digit_folder), faults=(None, not_finite))
    assert (code, other) == (2, (2, ""))
    assert "process 1 has stopped: the loss is nan at step 8 (epoch 2)" in said
    (folder,) = (tmp_path / "runs").iterdir()
    assert training.load(folder / runs.LAST).step == 6


def test_a_machine_that_lacks_the_data_ends_all(tmp_path, digit_folder):
    shutil.copytree(digit_folder, tmp_path / "images")
    # The second process looks from another folder, which has none.
    (code, said), other = two(tmp_path, arguments("images"))
    assert (code, other) == (2, (2, ""))
    assert "process 1 has stopped: " in said
    assert "images" in said
    assert not (tmp_path / "runs").exists()


def test_machines_with_different_recipes_end_all(tmp_path, digit_folder):
    second = arguments(digit_folder, optimiser__lr="0.5")
    (code, said), other = two(tmp_path, arguments(digit_folder), second)
    assert (code, other) == (2, (2, ""))
    assert re.search(r"process 1 on .* has another recipe than process 0", said)


def full_disk():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_full_disk_ends_all_and_keeps_the_checkpoint_before(tmp_path, digit_folder):
    (code, said), other = two(tmp_path, arguments(digit_folder), faults=(at_step(8, full_disk), None))
    assert (code, other) == (2, (2, ""))
    assert "disk is full" in said
    (folder,) = (tmp_path / "runs").iterdir()
    assert training.load(folder / runs.LAST).step == 6


def test_a_process_that_hangs_is_named(tmp_path, digit_folder):
    over = tmp_path / "over"

    def hang():
        while not over.exists():
            time.sleep(0.1)

    def be_quick():
        look = distributed._absence

        def looking(*, waited):
            error = look(waited=waited)
            over.touch()
            return error

        distributed.ROLL_CALL_SECONDS, distributed._absence = 1.0, looking

    given = arguments(digit_folder, "--patience=0.1")
    (code, said), _ = two(tmp_path, given, faults=(be_quick, at_step(8, hang)))
    assert code == 2
    assert "process 1 did not answer" in said


def spoil(image):
    image.write_bytes(b"no image")


def test_an_image_that_is_spoilt_on_the_way_ends_all_and_what_was_learnt_is_kept(tmp_path, digit_folder):
    data = shutil.copytree(digit_folder, tmp_path / "images")
    every = sorted(data.glob("train/*/*"))
    given = arguments(data, data__augment='"per_image"')
    faults = (at_step(7, lambda: [spoil(image) for image in every[::4]]), None)
    (code, said), other = two(tmp_path, given, faults=faults)
    assert (code, other) == (2, (2, ""))
    assert "--skip-bad" in said
    (folder,) = (tmp_path / "runs").iterdir()
    assert training.load(folder / runs.LAST).step == 8
    told = two(
        tmp_path, ["train", "--resume=last", "--skip-bad", "--device=cpu", "--workers=0"], launch="other"
    )
    assert [code for code, _ in told] == [0, 0]
    assert "images skipped" in told[0][1]
    assert training.load(folder / runs.LAST).step == 12
