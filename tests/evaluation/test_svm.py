import threading

import numpy as np
import pytest

from carp_eval.errors import UsageError
from carp_eval.evaluation import liblinear, svm
from carp_eval.evaluation.liblinear import Solver
from carp_eval.evaluation.svm import Kept, Task
from carp_eval.evaluation.unfinished import Unfinished
from tests.evaluation.test_liblinear import by_scikit_learn, problem

SOLVER = Solver()
COSTS = (0.05, 0.5, 5.0)


def tasks(judge=None):
    features, targets = problem()
    held = features[::5]
    return [
        Task(features, column, cost, judge or (lambda machine: machine.decide(held)))
        for column in targets.T
        for cost in COSTS
    ]


def train(todo, kept=None, *, threads=3, solver=SOLVER, progress=lambda *_: None, width=48):
    return svm.train(
        todo,
        width=width,
        solver=solver,
        kept=kept or Kept("here"),
        name="machines",
        progress=progress,
        threads=threads,
    )


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_many_are_what_each_is_alone_whatever_the_threads(threads):
    features, targets = problem()
    told = []
    judged = train(tasks(), threads=threads, progress=lambda *step: told.append(step))
    wanted = [
        by_scikit_learn(features, column, cost).decision_function(features[::5])
        for column in targets.T
        for cost in COSTS
    ]
    assert np.array_equal(judged.values, np.stack(wanted))
    assert not judged.unconverged.any()
    assert told == [(done, 36) for done in range(1, 37)]


def test_features_that_no_memory_holds_are_refused_before_any_machine_is_trained(monkeypatch):
    monkeypatch.setattr(svm, "BYTES_PER_VALUE", 2**40)
    images, dim = problem()[0].shape
    with pytest.raises(
        UsageError, match=f"copy of {images} images of {dim} dimensions needs about .* are free"
    ):
        train(tasks(), threads=None)


def test_machines_that_are_stopped_are_told():
    most = train(tasks(), solver=SOLVER._replace(max_iter=12)).unconverged
    iterations = [
        liblinear.copies(1)[0].train(task.features, task.targets, cost=task.cost, solver=SOLVER).iterations
        for task in tasks()
    ]
    # Where scikit-learn warns: also of one that was done with the last pass it had.
    assert most.tolist() == [number >= 12 for number in iterations]
    assert 0 < most.sum() < 36


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    wanted = train(tasks())
    todo, seen = tasks(), []

    def stop(done, total):
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(todo, Kept("here", Unfinished(tmp_path / "state.pt")), progress=stop)

    def counting(judge):
        def count(machine):
            seen.append(threading.get_ident())
            return judge(machine)

        return count

    told = []
    todo = [task._replace(judge=counting(task.judge)) for task in tasks()]
    judged = train(
        todo, Kept("here", Unfinished(tmp_path / "state.pt")), progress=lambda *step: told.append(step)
    )
    assert np.array_equal(judged.values, wanted.values)
    # What was under way elsewhere when it was stopped was finished too.
    assert 0 < len(seen) <= 27
    assert told[0] == (36 - len(seen), 36)
    # All are there now.
    seen.clear()
    train(todo, Kept("here", Unfinished(tmp_path / "state.pt")))
    assert not seen


def test_what_was_made_of_other_features_is_not_taken_up(tmp_path):
    kept = Kept("here", Unfinished(tmp_path / "state.pt"))
    train(tasks(), kept)
    assert not np.isnan(Kept("here", Unfinished(tmp_path / "state.pt")).rows("machines", (36, 49))).any()
    assert np.isnan(Kept("there", Unfinished(tmp_path / "state.pt")).rows("machines", (36, 49))).all()
    assert np.isnan(Kept("here", Unfinished(tmp_path / "state.pt")).rows("machines", (36, 48))).all()
    assert np.isnan(Kept("here", Unfinished(tmp_path / "state.pt")).rows("folds", (36, 49))).all()


def test_what_fails_in_a_thread_fails_in_all():
    def fail(_):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        train(tasks(fail))


def test_memory_bounds_the_threads(monkeypatch):
    class Memory:
        available = 2 * 3 * 240 * 48 * 16

    monkeypatch.setattr(svm, "cores", lambda: 8)
    monkeypatch.setattr(svm.psutil, "virtual_memory", lambda: Memory)
    assert svm._threads(tasks()) == 3
    Memory.available = 10
    assert svm._threads(tasks()) == 1
    Memory.available = 2**40
    assert svm._threads(tasks()) == 8
