"""What a training of one process meets at any moment, and how it goes on."""

import os
import signal

import pytest
import torch

from carp_eval.checkpoints import runs, training
from carp_eval.pretrain import journal, start
from carp_eval.pretrain.loop import Training
from carp_eval.pretrain.monitor import Monitor
from tests.pretrain import ranks
from tests.recipes import TINY


@pytest.fixture
def carp(tmp_path, digit_folder):
    """Train, six steps an epoch, in a process of its own; return its exit code and what it says, or None if it died."""

    def run(*more, change=None, **changes):
        pairs = TINY | {key.replace("__", "."): value for key, value in changes.items()}
        given = [f"--set={key}={value}" for key, value in pairs.items()] + [
            f"--dataset=folder:{digit_folder}"
        ]
        if any(option.startswith("--resume") for option in more):
            given = []
        everywhere = ["--device=cpu", "--workers=0"]
        (told,) = ranks.run(ranks.Rank(["train", *given, *everywhere, *more], tmp_path, change))
        return told

    return run


def the_run(where):
    (folder,) = (where / "runs").iterdir()
    return folder


def around(owner, name, before=lambda *_: None, after=lambda *_: None):
    """Have something done before or after a function; it is given the function's own first argument."""

    def change():
        function = getattr(owner, name)

        def acting(*args, **kwargs):
            before(*args[:1])
            answer = function(*args, **kwargs)
            after(*args[:1])
            return answer

        setattr(owner, name, acting)

    return change


def send(number):
    return lambda *_: os.kill(os.getpid(), number)


def at(step, act):
    return lambda state: act() if state.step == step else None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_before_the_first_step_ends_it_in_a_line(tmp_path, carp, number, code):
    answered, said = carp(change=around(start, "estimate", before=send(number)))
    assert answered == code
    assert "while no step was under way" in said
    assert "Traceback" not in said
    answered, said = carp("--resume=last")
    assert (answered, "nothing to go on with" in said) == (2, True)


def test_resume_last_is_the_run_that_was_killed_before_its_first_checkpoint(tmp_path, carp):
    assert carp(change=around(Training, "take_step", before=at(3, send(signal.SIGKILL)))) is None
    folder = the_run(tmp_path)
    assert not (folder / runs.LAST).exists()
    assert carp("--resume=last")[0] == 0
    assert training.load(the_run(tmp_path) / runs.LAST).step == 12


def test_checkpoints_come_within_the_epoch_where_it_takes_long(tmp_path, carp):
    fatal = around(Training, "take_step", before=at(4, send(signal.SIGKILL)))
    assert carp(change=fatal, schedule__checkpoint_minutes="0.00001") is None
    assert training.load(the_run(tmp_path) / runs.LAST).step == 4


def test_a_knn_that_a_signal_stops_is_done_when_the_run_goes_on(tmp_path, carp):
    stop = around(Monitor, "_features", before=send(signal.SIGTERM))
    code, _ = carp(change=stop, schedule__knn_epochs="2")
    folder = the_run(tmp_path)
    assert (code, training.load(folder / runs.LAST).step) == (143, 12)
    assert [entry["step"] for entry in journal.entries(folder)] == [6, 10, 12]
    assert not runs.is_finished(folder)
    code, said = carp(f"--resume={folder}")
    assert (code, said.count("20-NN")) == (0, 1)
    assert "knn_teacher" in journal.entries(folder)[-1]
    assert runs.is_finished(folder)


def test_weights_that_are_not_finite_are_never_kept(tmp_path, carp):
    def break_weights(state):
        if state.step == 12:
            with torch.no_grad():
                next(state.method.student.parameters()).fill_(float("inf"))

    code, said = carp(change=around(Training, "take_step", after=break_weights))
    assert code == 2
    assert "after step 12 the weights" in said
    assert training.load(the_run(tmp_path) / runs.LAST).step == 6


def test_a_damaged_checkpoint_names_what_was_kept(tmp_path, carp):
    assert carp(schedule__keep_epochs="1")[0] == 0
    folder = the_run(tmp_path)
    last = folder / runs.LAST
    content = last.read_bytes()
    last.unlink()
    last.write_bytes(content[: len(content) // 2])
    code, said = carp("--resume=last")
    assert code == 2
    assert f"cp runs/{folder.name}/checkpoints/epoch-0002.pt runs/{folder.name}/{runs.LAST}" in said


def test_two_trainings_in_one_folder_are_refused(tmp_path, carp):
    def hurry():
        runs.LOCK_SECONDS = 0.2

    assert carp(
        schedule__epochs="1", change=around(Training, "take_step", before=at(3, send(signal.SIGTERM)))
    )
    folder = the_run(tmp_path)
    with runs.alone(folder):
        code, said = carp("--resume=last", change=hurry)
    assert code == 2
    assert "another process trains in" in said
    assert carp("--resume=last")[0] == 0
