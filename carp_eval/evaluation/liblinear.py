"""LIBLINEAR in several threads, each with its own random numbers.

scikit-learn's LIBLINEAR lets go of the interpreter's lock while it trains, but shuffles rows by one random generator
for the whole process: two threads at once disturb each other's order, and no machine comes out as it does alone.
Here every thread gets a library, and so a generator, of its own.
"""

import importlib
import importlib.machinery
import importlib.util
import shutil
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int8

LIBRARY = "sklearn.svm._liblinear"
# What scikit-learn calls LinearSVC's dual of the squared hinge with an l2 penalty.
DUAL_SQUARED_HINGE = 1
# Plays no part in it, but must be there.
EPSILON = 0.1


class Solver(NamedTuple):
    """How a machine is trained, as scikit-learn's LinearSVC calls it.

    Attributes:
        positive_weight: What a positive's loss counts, where a negative's counts 1.
        tolerance: Where training stops.
        max_iter: Passes over the rows, at most.
        random_state: Of the order of rows.
        intercept_scaling: Of the column of constants that stands for the bias.
    """

    positive_weight: float = 2.0
    tolerance: float = 1e-4
    max_iter: int = 2000
    random_state: int = 0
    intercept_scaling: float = 1.0


class Machine(NamedTuple):
    """A trained machine.

    Attributes:
        weights: One for each feature.
        bias: Added to their sum.
        iterations: Passes over the rows that training took.
    """

    weights: Float64[np.ndarray, " dim"]
    bias: float
    iterations: int

    def decide(self, features: Float64[np.ndarray, "row dim"]) -> Float64[np.ndarray, " row"]:
        """Return how far each row is on the positive side, as LinearSVC's `decision_function`."""
        return (features @ self.weights[:, None])[:, 0] + self.bias


class Liblinear:
    """One copy of the library; no two threads may use it at once."""

    def __init__(self, library: ModuleType) -> None:
        self._library = library
        # Of a fresh copy it is on.
        library.set_verbosity_wrap(0)

    def train(
        self,
        features: Float64[np.ndarray, "row dim"],
        targets: Int8[np.ndarray, " row"],
        *,
        cost: float,
        solver: Solver,
    ) -> Machine:
        """Train one machine: to the bit what `LinearSVC` gives on the rows whose target is not 0.

        Args:
            features: In C order: no copy is made of them but LIBLINEAR's own, of 16 bytes a value that is not 0.
            targets: 1 or -1; rows of 0 are left out.
            cost: LIBLINEAR's C.
            solver: How it is trained.
        """
        used = targets != 0
        # LIBLINEAR drops rows of weight 0 itself; where few are left, to copy those costs less.
        if used.mean() < 0.5:
            features, targets, used = features[used], targets[used], used[used]
        raw, iterations = self._library.train_wrap(
            features,
            (targets > 0).astype(np.float64),
            False,
            DUAL_SQUARED_HINGE,
            solver.tolerance,
            solver.intercept_scaling,
            cost,
            np.array([1.0, solver.positive_weight]),
            solver.max_iter,
            np.random.RandomState(solver.random_state).randint(np.iinfo("i").max),
            EPSILON,
            used.astype(np.float64),
        )
        row = np.asarray(raw, dtype=np.float64).reshape(-1)
        return Machine(row[:-1], float(row[-1]) * solver.intercept_scaling, int(max(iterations)))


def copies(count: int) -> list[Liblinear]:
    """Return so many copies of the library; one, scikit-learn's own, where this system loads no second.

    They stay loaded, and the next call returns the same.
    """
    loaded: list[Liblinear] = []
    for number in range(count):
        copy = _copy(number)
        if copy is None:
            break
        loaded.append(copy)
    return loaded or [Liblinear(importlib.import_module(LIBRARY))]


@cache
def _copy(number: int) -> Liblinear | None:
    """Load the library from a file of its own, so that the system takes it for another; None where it does not."""
    original = Path(str(importlib.import_module(LIBRARY).__file__))
    with tempfile.TemporaryDirectory(
        prefix=f"carp-liblinear-{number}-", ignore_cleanup_errors=True
    ) as folder:
        try:
            file = shutil.copy(original, folder)
            # By its own name, which is how its start is found in it; `sys.modules` keeps the original.
            loader = importlib.machinery.ExtensionFileLoader(LIBRARY, file)
            spec = importlib.util.spec_from_file_location(LIBRARY, file, loader=loader)
            assert spec is not None
            library = importlib.util.module_from_spec(spec)
            loader.exec_module(library)
        except (ImportError, OSError):
            return None
    return Liblinear(library)
