"""The results and runs that lie on this disk.

A record lies where `carp eval` writes it: in a run's `results`, or in `./results`. One that cannot be read, being of
another version or damaged, is told of and left out.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from carp_eval import results as records
from carp_eval.cards import loading
from carp_eval.checkpoints import runs
from carp_eval.errors import CardError, DataError, UsageError
from carp_eval.report import run_files
from carp_eval.results import Result, Score

# Where training and evaluating leave results, and how deep below a folder that is named.
ROOTS = (runs.RUNS, Path("sweeps"), Path("results"))
DEPTHS = ("*.json", "results/*.json", "*/results/*.json", "*/*/results/*.json")
# Below a folder of runs, and of sweeps, which hold runs.
RUN_DEPTHS = ("", "*/", "*/*/")
# Judged beside a run, and kept with it, but not what was trained.
BESIDE_A_RUN = ("random:", "pixels:")
# Of no news beside top-1, or a part of what another score is.
SIDE_SCORES = frozenset({"top5", "ap", "mean_per_class", "map_std", "map_of_draw"})
SHORTEST_HASH = 8


@dataclass(frozen=True)
class Found:
    """A record, and where it lies.

    Attributes:
        path: The record; predictions are beside it, ending in `.parquet`.
        result: What it says.
    """

    path: Path
    result: Result

    @property
    def predictions(self) -> Path:
        """Where the per-image predictions are, if they are there."""
        return self.path.with_suffix(".parquet")


@dataclass(frozen=True)
class Best:
    """The highest score that a run has by one protocol on one data set."""

    result: Result
    score: Score


@dataclass(frozen=True)
class RunSeen:
    """A run, as its folder tells of it.

    Attributes:
        folder: Where it lies.
        recipe: The recipe's name.
        state: `running`, `finished`, `interrupted` or `failed`, as the run itself wrote; `gone` where it wrote that it
            runs and no process does; `not told` where nothing says.
        step: Steps taken, as far as was written down.
        num_steps: Steps to take; 0 where that is not told.
        started: When it was started; None where that is not told.
        heard: When it last wrote anything.
        losses: Of the logged steps, in order; those that are no number left out.
        online: The last online k-NN, in percent, of student and teacher.
        results: Records of what was trained, the newest first.
        best: The best of each protocol and data set, in that order.
        problems: What of its files cannot be read.
    """

    folder: Path
    recipe: str
    state: str
    step: int
    num_steps: int
    started: datetime | None
    heard: datetime
    losses: tuple[float, ...]
    online: dict[str, float]
    results: tuple[Result, ...]
    best: tuple[Best, ...]
    problems: tuple[str, ...]


def ignore(problem: str) -> None:
    """Take no note of a record that cannot be read."""


def results(
    models: Sequence[str] = (), *, roots: Sequence[Path] = (), unreadable: Callable[[str], None] = ignore
) -> list[Found]:
    """Return records, the newest first.

    Args:
        models: Each a record's path, a folder (a run, one of results, or one of many runs), or, looked up below
            `roots`, what a record calls its model, or the first 8 or more digits of its weights' hash. None is all.
        roots: Where to look; none are `runs`, `sweeps` and `results`, here.
        unreadable: Is told of each record that cannot be read.

    Raises:
        UsageError: If a model has no record.
    """
    everywhere = roots or ROOTS
    if not models:
        return _newest_first(_read(_below(everywhere), unreadable))
    told: set[str] = set()

    def once(problem: str) -> None:
        if problem not in told:
            told.add(problem)
            unreadable(problem)

    found: dict[Path, Found] = {}
    for model in models:
        of_model = list(_of_model(model, everywhere, once))
        if not of_model:
            damaged = f"; {len(told)} that are there cannot be read" if told else ""
            raise UsageError(
                f"{model} has no result, neither at that path nor by that name in "
                f"{', '.join(map(str, everywhere))}{damaged}: run carp eval knn -m {model}, or name a result's file"
            )
        found |= {each.path.resolve(): each for each in of_model}
    return _newest_first(found.values())


def runs_in(root: Path) -> list[RunSeen]:
    """Return the runs in a folder of runs or of sweeps, or the one that it is; the newest first."""
    marks = (run_files.STATE, runs.RECIPE)
    folders = {path.parent for depth in RUN_DEPTHS for mark in marks for path in root.glob(depth + mark)}
    seen = [_run(folder) for folder in folders]
    return sorted(seen, key=lambda run: (run.started or run.heard, run.folder.name), reverse=True)


def main_scores(result: Result) -> list[Score]:
    """Return the scores of a result that come first: not top-5 beside top-1."""
    main = [score for score in result.scores if score.metric not in SIDE_SCORES]
    return main or list(result.scores)


def _run(folder: Path) -> RunSeen:
    told, damaged = run_files.state(folder)
    log = run_files.log(folder)
    problems = list(damaged)
    judged = _of_run(_read(_below([folder]), problems.append))
    steps = [_whole(line.get("step")) for line in log]
    online = next((line for line in reversed(log) if "knn_student" in line or "knn_teacher" in line), {})
    last = {name: _number(online.get(f"knn_{name}")) for name in ("student", "teacher")}
    losses = [_number(line.get("loss")) for line in log]
    return RunSeen(
        folder=folder,
        recipe=str(told.get("recipe", "")),
        state=run_files.stands(folder, told),
        step=max([_whole(told.get("step")), *steps]),
        num_steps=_whole(told.get("num_steps")),
        started=_moment(told.get("finished")),
        heard=run_files.heard(folder),
        losses=tuple(loss for loss in losses if loss is not None),
        online={name: value for name, value in last.items() if value is not None},
        results=tuple(each.result for each in _newest_first(judged)),
        best=tuple(_best(each.result for each in judged)),
        problems=tuple(problems),
    )


def _best(of_run: Iterable[Result]) -> list[Best]:
    best: dict[tuple[str, str, str], Best] = {}
    for result in of_run:
        scores = main_scores(result)
        if not scores:
            continue
        score = max(scores, key=lambda score: (score.metric == scores[0].metric, score.value))
        key = (result.protocol, result.variant, result.query_dataset)
        if key not in best or score.value > best[key].score.value:
            best[key] = Best(result, score)
    return [best[key] for key in sorted(best)]


def _of_run(below: Iterable[Found]) -> list[Found]:
    return [each for each in below if not each.result.model.startswith(BESIDE_A_RUN)]


def _of_model(model: str, roots: Sequence[Path], unreadable: Callable[[str], None]) -> Iterator[Found]:
    path = Path(model).expanduser()
    if path.suffix == ".json" and path.is_file():
        yield from _read([path], unreadable)
    elif path.is_dir():
        below = _read(_below([path]), unreadable)
        yield from _of_run(below) if (path / runs.RECIPE).is_file() else below
    else:
        names = {model, str(path)}
        # A run's last checkpoint is the run.
        if path.name == Path(runs.LAST).name and path.parent.name == "checkpoints":
            names.add(path.parent.parent.name)
            roots = [*roots, path.parent.parent]
        for each in _read(_below(roots), unreadable):
            of_hash = len(model) >= SHORTEST_HASH and each.result.weights_sha256.startswith(model)
            if each.result.model in names or of_hash:
                yield each


def _below(roots: Iterable[Path]) -> list[Path]:
    return [path for root in roots for depth in DEPTHS for path in sorted(root.glob(depth))]


def _read(paths: Iterable[Path], unreadable: Callable[[str], None]) -> list[Found]:
    found: list[Found] = []
    for path in {path.resolve(): path for path in paths}.values():
        try:
            if path.parent.name == "results" or _is_record(path):
                found.append(Found(path, records.load(path)))
        except (CardError, DataError) as error:
            unreadable(str(error))
    return found


def _is_record(path: Path) -> bool:
    """Tell a record from the other files that lie beside one."""
    return {"protocol", "scores"} <= loading.read_json(path).keys()


def _newest_first(found: Iterable[Found]) -> list[Found]:
    return sorted(found, key=lambda each: (each.result.finished, each.path.name), reverse=True)


def _whole(told: Any) -> int:
    return told if isinstance(told, int) else 0


def _number(told: Any) -> float | None:
    return float(told) if isinstance(told, int | float) and math.isfinite(told) else None


def _moment(told: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(told))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
