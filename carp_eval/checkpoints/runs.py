"""Run folders: where a training keeps its recipe, checkpoints, logs and results."""

import json
import platform
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from carp_eval import files
from carp_eval.cards import loading
from carp_eval.cards.recipe import RecipeCard
from carp_eval.errors import CheckpointError, UsageError

RUNS = Path("runs")
LAST = "checkpoints/last.pt"
RECIPE = "recipe.json"
STATE = "run.json"
# Processes that load images for a training that was killed hold on to its lock until they notice, a few seconds later.
LOCK_SECONDS = 15.0


def new_folder(recipe_name: str, *, root: Path = RUNS) -> Path:
    """Make and return `<root>/<time>-<recipe>`.

    Raises:
        StorageError: If the folder cannot be made.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    files.make_folder(root)
    folder = root / f"{stamp}-{recipe_name}"
    number = 2
    with files.storage_errors(folder):
        while True:
            try:
                folder.mkdir()
            except FileExistsError:
                # Of another training that has begun in this second.
                folder = root / f"{stamp}-{recipe_name}-{number}"
                number += 1
            else:
                return folder


def last_folder(*, root: Path = RUNS) -> Path:
    """Return the run that was trained last.

    Raises:
        UsageError: If no run has a checkpoint yet.
    """
    runs = [path.parent.parent for path in root.glob(f"*/{LAST}")]
    if not runs:
        raise UsageError(
            f"no model was named and {root}/ holds no trained run: train one with `carp train`, "
            "or name a model with -m"
        )
    return max(runs, key=lambda folder: ((folder / LAST).stat().st_mtime, folder.name))


def last_begun(*, root: Path = RUNS) -> Path:
    """Return the run that was begun or went on last, though it may have no checkpoint yet.

    Raises:
        UsageError: If none was.
    """
    begun = {path.parent: path.stat().st_mtime for path in root.glob(f"*/{RECIPE}")}
    begun |= {path.parent.parent: path.stat().st_mtime for path in root.glob(f"*/{LAST}")}
    if not begun:
        raise UsageError(f"there is nothing to go on with: {root}/ holds no run that was begun")
    return max(begun, key=lambda folder: (begun[folder], folder.name))


def begun_by(launchers: Iterable[str], *, root: Path = RUNS, recipe: RecipeCard | None = None) -> Path | None:
    """Return the newest run that torchrun's agents of these names have begun, if there is one.

    Args:
        launchers: Of `distributed.launchers`; one that is the same is enough, as others may have died since.
        root: Folder that holds the runs.
        recipe: What it must train; left out, anything.
    """
    names = set(launchers)
    found = [
        path.parent for path in root.glob(f"*/{STATE}") if names & set(_state(path).get("launchers", ()))
    ]
    for folder in sorted(found, key=lambda folder: (folder / STATE).stat().st_mtime_ns, reverse=True):
        if recipe is None or read_recipe(folder) == recipe:
            return folder
    return None


@contextmanager
def alone(folder: Path) -> Generator[None]:
    """Keep others from training in a folder while the block runs; who dies lets go of it.

    Raises:
        UsageError: If another process trains there.
        StorageError: If the folder cannot be written.
    """
    path = folder / "run.lock"
    lock = FileLock(path)
    with files.storage_errors(path):
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout as error:
            raise UsageError(
                f"another process trains in {folder} at this time: let it end, or train in another folder"
            ) from error
    try:
        yield
    finally:
        lock.release()


def checkpoint_path(folder: Path) -> Path:
    """Return a run's newest checkpoint.

    Raises:
        CheckpointError: If it has none.
    """
    path = folder / LAST
    if not path.is_file():
        raise CheckpointError(f"{folder} is no trained run: it has no {LAST}")
    return path


def read_recipe(folder: Path) -> RecipeCard:
    """Return the recipe a run was started with.

    Raises:
        CardError: If the file is broken.
    """
    path = folder / RECIPE
    return loading.as_recipe(loading.read_json(path), where=str(path))


def write_state(folder: Path, **state: Any) -> None:
    """Record how a run stands, in its `run.json`, over what it said before.

    The machine is noted with it: on that one alone it can be told later whether the run still runs.
    """
    path = folder / STATE
    known = _state(path)
    files.write_text(path, json.dumps(known | {"host": platform.node()} | state, indent=2) + "\n")


def is_finished(folder: Path) -> bool:
    """Tell whether a run has come to its end."""
    return _state(folder / STATE).get("state") == "finished"


def _state(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
