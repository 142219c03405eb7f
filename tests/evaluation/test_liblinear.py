import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from carp_eval.evaluation import liblinear
from carp_eval.evaluation.liblinear import Solver

SOLVER = Solver()


def problem(rows=240, dim=48, classes=12):
    random = np.random.default_rng(0)
    features = np.maximum(random.normal(size=(rows, dim)), 0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    scores = features @ random.normal(size=(dim, classes)) + 0.2 * random.normal(size=(rows, classes))
    return features, np.where(scores > np.quantile(scores, 0.85, axis=0), 1, -1).astype(np.int8)


def by_scikit_learn(features, targets, cost, **changes):
    machine = LinearSVC(
        C=cost,
        class_weight={1: 2, -1: 1},
        loss="squared_hinge",
        penalty="l2",
        dual=True,
        tol=1e-4,
        max_iter=2000,
        random_state=0,
        intercept_scaling=1.0,
    )
    return machine.set_params(**changes).fit(features, targets)


def same(machine, wanted):
    return np.array_equal(machine.weights, wanted.coef_[0]) and machine.bias == wanted.intercept_[0]


@pytest.mark.parametrize("cost", [0.01, 0.5, 20.0])
def test_a_machine_is_scikit_learns_to_the_bit(cost):
    features, targets = problem()
    machine = liblinear.copies(1)[0].train(features, targets[:, 0], cost=cost, solver=SOLVER)
    wanted = by_scikit_learn(features, targets[:, 0], cost)
    assert same(machine, wanted)
    assert machine.iterations == wanted.n_iter_
    assert np.array_equal(machine.decide(features), wanted.decision_function(features))


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"positive_weight": 5.0}, {"class_weight": {1: 5, -1: 1}}),
        ({"tolerance": 1e-1}, {"tol": 1e-1}),
        ({"max_iter": 3}, {"max_iter": 3}),
        ({"random_state": 7}, {"random_state": 7}),
        ({"intercept_scaling": 3.0}, {"intercept_scaling": 3.0}),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_setting_is_scikit_learns(changes, wanted):
    features, targets = problem()
    machine = liblinear.copies(1)[0].train(
        features, targets[:, 1], cost=1.0, solver=SOLVER._replace(**changes)
    )
    assert same(machine, by_scikit_learn(features, targets[:, 1], 1.0, **wanted))
    assert not same(machine, by_scikit_learn(features, targets[:, 1], 1.0))


@pytest.mark.parametrize("every", [3, 2, -3])
def test_rows_of_target_0_are_left_out(every):
    features, targets = problem()
    out = np.arange(len(features)) % abs(every) == 0
    out = out if every > 0 else ~out
    told = targets[:, 2].copy()
    told[out] = 0
    machine = liblinear.copies(1)[0].train(features, told, cost=2.0, solver=SOLVER)
    assert same(machine, by_scikit_learn(features[~out], targets[~out, 2], 2.0))


def test_threads_do_not_disturb_each_other():
    features, targets = problem()
    wanted = [by_scikit_learn(features, column, 5.0) for column in targets.T]
    libraries = liblinear.copies(4)
    assert len({id(library) for library in libraries}) == 4

    def train(place):
        return [libraries[place].train(features, targets[:, c], cost=5.0, solver=SOLVER) for c in range(12)]

    with ThreadPoolExecutor(4) as pool:
        for machines in pool.map(train, range(4)):
            assert all(map(same, machines, wanted))


def test_copies_are_loaded_once():
    assert liblinear.copies(3)[:2] == liblinear.copies(2)


def test_where_no_copy_can_be_loaded_there_is_one_library(monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    liblinear._copy.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copy", refuse)
        libraries = liblinear.copies(4)
    liblinear._copy.cache_clear()
    features, targets = problem()
    assert len(libraries) == 1
    machine = libraries[0].train(features, targets[:, 0], cost=1.0, solver=SOLVER)
    assert same(machine, by_scikit_learn(features, targets[:, 0], 1.0))
